//! Programs of the pinned Debian release, with their libraries. They are unpacked below `target/`; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::{files, paths, pins, process};

/// Packages that are unpacked together, into the folder `root` of the bundle's own folder.
struct Bundle {
    folder: &'static str,
    what: &'static str,
    packages: &'static [&'static str],
    with_dependencies: bool,
    /// Makes the unpacked programs usable, and checks that they run.
    arrange: fn(&Path) -> Result<()>,
}

/// The compiler and its library for wasm32-wasip1.
const COMPILER: Bundle = Bundle {
    folder: "debian-rust",
    what: "fetch Debian's compiler for wasm32-wasip1 (about 210 MB)",
    packages: pins::DEBIAN_PACKAGES,
    with_dependencies: false,
    arrange: |place| {
        write_script(place, "clippy-driver")?;
        runs(&write_script(place, "rustc")?, &["--version"])
    },
};

const REDIS: Bundle = Bundle {
    folder: "redis",
    what: "fetch Debian's Redis (about 10 MB)",
    packages: pins::REDIS_PACKAGES,
    with_dependencies: false,
    arrange: |place| runs(&write_script(place, "redis-server")?, &["--version"]),
};

const CHROMIUM: Bundle = Bundle {
    folder: "chromium",
    what: "fetch Debian's Chromium (about 180 MB)",
    packages: pins::CHROMIUM_PACKAGES,
    with_dependencies: true,
    arrange: arrange_chromium,
};

const DOCKER_PLUGINS: Bundle = Bundle {
    folder: "docker",
    what: "fetch Docker's compose and buildx plugins",
    packages: pins::DOCKER_PACKAGES,
    with_dependencies: false,
    arrange: |place| {
        let plugins = place.join("root/usr/libexec/docker/cli-plugins");
        fs::rename(&plugins, place.join("cli-plugins"))
            .with_context(|| format!("{}: cannot be moved", plugins.display()))?;
        files::remove(&place.join("root"))
    },
};

/// Debian's compiler, as scripts that run its programs.
#[derive(Debug)]
pub struct Compiler {
    /// The script that runs rustc.
    pub rustc: PathBuf,
    /// The script that runs clippy-driver. cargo uses it as a wrapper of that compiler.
    pub clippy_driver: PathBuf,
    /// The folder with all files of the compiler.
    pub folder: PathBuf,
}

/// Debian's compiler, which is fetched if needed.
///
/// # Errors
/// The compiler cannot be fetched, or does not run.
pub fn compiler() -> Result<Compiler> {
    let folder = COMPILER.ensure()?;
    Ok(Compiler {
        rustc: folder.join("bin/rustc"),
        clippy_driver: folder.join("bin/clippy-driver"),
        folder,
    })
}

/// Whether Debian's compiler is already unpacked.
pub fn has_compiler() -> bool {
    files::is_made(&paths::tools().join(COMPILER.folder), &COMPILER.recipe())
}

/// A Redis server, which is fetched if needed. In the tests, Envoys share limits in it.
///
/// # Errors
/// Redis cannot be fetched, or does not run.
pub fn redis() -> Result<PathBuf> {
    Ok(REDIS.ensure()?.join("bin/redis-server"))
}

/// A headless Chromium, in which the tests open the status page. It is the machine's own, or Debian's, which is fetched if needed.
///
/// # Errors
/// The machine has no Chromium, and Debian's cannot be fetched or does not run.
pub fn chromium() -> Result<PathBuf> {
    const NAMES: [&str; 5] = [
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
        "google-chrome-stable",
        "google-chrome",
    ];
    let mut on_path = NAMES.iter().filter_map(|name| process::find(name));
    let own = on_path.find(|program| {
        // The file may be a placeholder that only prints how to install Chromium.
        let version = process::output(Command::new(program).arg("--version"));
        version.is_ok_and(|version| version.contains("Chrom"))
    });
    own.map_or_else(|| Ok(CHROMIUM.ensure()?.join("bin/chromium")), Ok)
}

/// A folder for `DOCKER_CONFIG` with the compose and buildx plugins.
///
/// # Errors
/// The plugins cannot be fetched.
pub fn docker_plugins() -> Result<PathBuf> {
    DOCKER_PLUGINS.ensure()
}

impl Bundle {
    fn ensure(&self) -> Result<PathBuf> {
        let place = paths::tools().join(self.folder);
        files::once(&place, &self.recipe(), self.what, |place| {
            let mut fetch = Command::new(paths::workspace().join(".ci/debian-packages"));
            fetch.args(self.with_dependencies.then_some("--with-dependencies"));
            fetch.arg(pins::DEBIAN_SUITE).arg(place.join("root"));
            process::output(fetch.args(self.packages))?;
            (self.arrange)(place)
        })?;
        Ok(place)
    }

    fn recipe(&self) -> String {
        format!("{} {}\n", pins::DEBIAN_SUITE, self.packages.join(" "))
    }
}

fn runs(program: &Path, arguments: &[&str]) -> Result<()> {
    process::output(Command::new(program).args(arguments))
        .context("the unpacked program does not run")?;
    Ok(())
}

/// The paths of Debian's library folder and loader for this machine's architecture.
fn layout() -> Result<(&'static str, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("usr/lib/x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2")),
        "aarch64" => Ok(("usr/lib/aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1")),
        other => bail!("{other}: Debian's packages are used on x86_64 and aarch64 only"),
    }
}

/// Writes a script that runs Debian's program with Debian's loader and libraries. It also works in a copy of its folder.
fn write_script(place: &Path, program: &str) -> Result<PathBuf> {
    let (libraries, loader) = layout()?;
    let script = format!(
        "#!/bin/sh\n\
         root=\"${{0%/*}}/../root\"\n\
         exec \"$root/{loader}\" --library-path \"$root/{libraries}:$root/usr/lib\" \"$root/usr/bin/{program}\" \"$@\"\n"
    );
    let path = place.join("bin").join(program);
    files::write_script(&path, &script)?;
    Ok(path)
}

/// Arranges the browser's files. The browser starts its other processes through the script too, so that they get the same libraries.
fn arrange_chromium(place: &Path) -> Result<()> {
    let (libraries, loader) = layout()?;
    let root = place.join("root");
    // The browser looks for its files beside the running program, and that is the loader.
    files::copy(&root.join(loader), &root.join("usr/lib/chromium/loader"))?;
    files::write(
        &place.join("fonts.conf"),
        "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n\
         <fontconfig><dir prefix=\"relative\">root/usr/share/fonts</dir></fontconfig>\n",
    )?;
    let script = format!(
        "#!/bin/sh\n\
         self=\"$(readlink -f \"$0\")\"\n\
         place=\"${{self%/*}}/..\"\n\
         browser=\"$place/root/usr/lib/chromium\"\n\
         libraries=\"$place/root/{libraries}\"\n\
         export FONTCONFIG_FILE=\"$place/fonts.conf\"\n\
         exec \"$browser/loader\" --library-path \"$libraries:$libraries/pulseaudio:$browser\" \
         \"$browser/chromium-headless-shell\" --no-zygote --browser-subprocess-path=\"$self\" \"$@\"\n"
    );
    let path = place.join("bin/chromium");
    files::write_script(&path, &script)?;
    runs(&path, &["--no-sandbox", "--version"])
}
