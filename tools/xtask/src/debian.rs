//! Debian's compiler and its wasm32-wasip1 library, unpacked under `target/` without installing anything.
//!
//! For machines that cannot reach rustup's server but do reach a Debian mirror. The packages are verified by apt against
//! Debian's archive keys.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{anyhow, bail, Context, Result};

use crate::files::{self, Draft, Lock};
use crate::{apt, paths, pins, process};

const KEYRINGS: &[&str] = &[
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Raised when the way of unpacking changes, so that what an older version left is made anew.
const RECIPE: u32 = 1;

/// The programs that matter, each a script around Debian's own.
#[derive(Debug)]
pub struct Compiler {
    /// The compiler.
    pub rustc: PathBuf,
    /// Clippy, to be run by cargo around that compiler.
    pub clippy_driver: PathBuf,
}

/// How Debian lays out the libraries of this machine's architecture.
struct Layout {
    triple: &'static str,
    loader: &'static str,
}

/// Whether [`ensure`] has nothing left to do.
pub fn is_ready() -> bool {
    fs::read_to_string(stamp(&paths::debian_rust())).is_ok_and(|stamp| stamp.starts_with(&recipe()))
}

/// Fetches and unpacks the packages unless that is done already.
pub fn ensure() -> Result<Compiler> {
    let place = paths::debian_rust();
    if !is_ready() {
        let _lock = Lock::on(&place)?;
        // Another run may have made it while this one waited.
        if !is_ready() {
            process::step(
                "fetch Debian's compiler for wasm32-wasip1 (about 210 MB)",
                || make(&place),
            )?;
        }
    }
    let bin = place.join("bin");
    Ok(Compiler {
        rustc: bin.join("rustc"),
        clippy_driver: bin.join("clippy-driver"),
    })
}

fn make(place: &Path) -> Result<()> {
    let layout = layout()?;
    let draft = Draft::of(place)?;
    let packages = download(draft.path())?;
    let root = draft.path().join("root");
    for package in &packages {
        process::output(Command::new("dpkg").arg("-x").arg(package).arg(&root))?;
    }
    write_script(draft.path(), &layout, "rustc")?;
    write_script(draft.path(), &layout, "clippy-driver")?;
    let version = process::output(Command::new(draft.path().join("bin/rustc")).arg("--version"))
        .context("Debian's compiler was unpacked but does not run")?;

    let names: Vec<_> = packages
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    files::write(
        &stamp(draft.path()),
        &format!("{}{version}{}\n", recipe(), names.join("\n")),
    )?;
    files::remove(&draft.path().join("apt"))?;
    draft.publish()
}

/// Downloads the packages from the first of the machine's mirrors that has the release.
fn download(draft: &Path) -> Result<Vec<PathBuf>> {
    let keyring = KEYRINGS.iter().map(Path::new).find(|path| path.exists()).ok_or_else(|| {
        anyhow!("{}: not found; install the package debian-archive-keyring, which packages are verified with", KEYRINGS[0])
    })?;
    let mut failures = Vec::new();
    for mirror in apt::mirrors(Path::new(apt::CONFIGURATION))? {
        match download_from(&mirror, keyring, &draft.join("apt")) {
            Ok(packages) => return Ok(packages),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "no mirror of {} has the packages of Debian {}:\n{}",
        apt::CONFIGURATION,
        pins::DEBIAN_SUITE,
        failures.join("\n")
    )
}

fn download_from(mirror: &str, keyring: &Path, directory: &Path) -> Result<Vec<PathBuf>> {
    files::remove(directory)?;
    let packages = directory.join("packages");
    for needed in [
        "lists/partial",
        "cache/archives/partial",
        "packages",
        "parts",
    ] {
        fs::create_dir_all(directory.join(needed))?;
    }
    let source = format!(
        "deb [signed-by={}] {mirror} {} main\n",
        keyring.display(),
        pins::DEBIAN_SUITE
    );
    files::write(&directory.join("sources.list"), &source)?;
    files::write(&directory.join("status"), "")?;

    process::output(apt_get(directory).args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
    process::output(
        apt_get(directory)
            .arg("download")
            .args(pins::DEBIAN_PACKAGES)
            .current_dir(&packages),
    )?;

    let mut found: Vec<_> = fs::read_dir(&packages)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    if found.len() != pins::DEBIAN_PACKAGES.len() {
        bail!(
            "{}: {} packages came, {} were asked for",
            packages.display(),
            found.len(),
            pins::DEBIAN_PACKAGES.len()
        );
    }
    Ok(found)
}

/// apt-get with lists, cache and package status of its own: it neither reads nor changes what the machine has.
fn apt_get(directory: &Path) -> Command {
    let own = |option: &str, name: &str| format!("{option}={}", directory.join(name).display());
    let options = [
        own("Dir::Etc::sourcelist", "sources.list"),
        own("Dir::Etc::sourceparts", "parts"),
        own("Dir::Etc::preferences", "preferences"),
        own("Dir::Etc::preferencesparts", "parts"),
        own("Dir::State::lists", "lists"),
        own("Dir::State::status", "status"),
        own("Dir::Cache", "cache"),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        // The private directories belong to whoever runs this, not to apt's own user.
        "APT::Sandbox::User=root".to_owned(),
    ];
    let mut command = Command::new("apt-get");
    command.args(options.iter().flat_map(|option| ["-o", option.as_str()]));
    command
}

/// A script that runs Debian's program with Debian's loader and libraries, wherever its directory is moved to.
fn write_script(draft: &Path, layout: &Layout, program: &str) -> Result<()> {
    let Layout { triple, loader } = layout;
    let script = format!(
        "#!/bin/sh\n\
         root=\"${{0%/*}}/../root\"\n\
         exec \"$root/{loader}\" --library-path \"$root/usr/lib/{triple}:$root/usr/lib\" \"$root/usr/bin/{program}\" \"$@\"\n"
    );
    let path = draft.join("bin").join(program);
    files::write(&path, &script)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(())
}

fn layout() -> Result<Layout> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Layout {
            triple: "x86_64-linux-gnu",
            loader: "usr/lib64/ld-linux-x86-64.so.2",
        }),
        "aarch64" => Ok(Layout {
            triple: "aarch64-linux-gnu",
            loader: "usr/lib/ld-linux-aarch64.so.1",
        }),
        other => bail!("{other}: Debian's compiler is used on x86_64 and aarch64 only"),
    }
}

fn stamp(place: &Path) -> PathBuf {
    place.join("stamp")
}

/// The first line of the stamp: what was asked for.
fn recipe() -> String {
    format!(
        "recipe {RECIPE}: {} {}\n",
        pins::DEBIAN_SUITE,
        pins::DEBIAN_PACKAGES.join(" ")
    )
}
