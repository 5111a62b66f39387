//! A headless Chromium, which looks at the status page in the tests: the machine's own, or Debian's, unpacked under `target/` without
//! installing anything.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::{self, Archive};
use crate::files::{self, Draft, Lock};
use crate::{debian, paths, pins, process};

/// Raised when the way of unpacking changes, so that what an older version left is made again.
const RECIPE: u32 = 1;

/// Names under which a machine may have one.
const NAMES: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
];

/// The program: the one on PATH, or Debian's, which is fetched unless that is done already.
///
/// # Errors
/// When there is none and none can be fetched.
pub fn ensure() -> Result<PathBuf> {
    if let Some(program) = on_path() {
        return Ok(program);
    }
    let place = paths::chromium();
    if !is_ready(&place) {
        let _lock = Lock::on(&place)?;
        // Another run may have made it while this one waited.
        if !is_ready(&place) {
            process::step("fetch Debian's Chromium (about 180 MB)", || make(&place))?;
        }
    }
    Ok(place.join("chromium"))
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let mut programs = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    programs.find(|program| {
        // A file of that name may be one that only says how to install it.
        let version = process::output(Command::new(program).arg("--version"));
        program.is_file() && version.is_ok_and(|version| version.contains("Chrom"))
    })
}

fn is_ready(place: &Path) -> bool {
    files::says(&place.join("stamp"), &recipe())
}

fn recipe() -> String {
    let packages = pins::CHROMIUM_PACKAGES.join(" ");
    format!("recipe {RECIPE}: {} {packages}\n", pins::DEBIAN_SUITE)
}

fn make(place: &Path) -> Result<()> {
    let layout = debian::layout()?;
    let draft = Draft::of(place)?;
    let apt = draft.path().join("apt");
    let archive = Archive::open(&apt)?;
    let packages =
        archive.download_with_dependencies(pins::CHROMIUM_PACKAGES, &apt.join("packages"))?;
    let root = draft.path().join("root");
    archive::unpack(&packages, &root)?;
    // The browser looks for its files beside the program that runs, which is the loader.
    files::copy(
        &root.join(layout.loader),
        &root.join("usr/lib/chromium/loader"),
    )?;
    let loader = Permissions::from_mode(0o755);
    fs::set_permissions(root.join("usr/lib/chromium/loader"), loader)?;
    files::write(
        &draft.path().join("fonts.conf"),
        "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n\
         <fontconfig><dir prefix=\"relative\">root/usr/share/fonts</dir></fontconfig>\n",
    )?;
    let script = draft.path().join("chromium");
    files::write(&script, &script_for(layout.triple))?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    process::output(Command::new(&script).args(["--no-sandbox", "--version"]))
        .context("Debian's Chromium was unpacked but does not run")?;
    files::remove(&apt)?;
    files::write(&draft.path().join("stamp"), &recipe())?;
    draft.publish()
}

/// A script that runs the browser with Debian's loader and libraries, wherever its directory is moved to. The browser's other
/// processes are started by the script as well, not by the loader alone.
fn script_for(triple: &str) -> String {
    format!(
        "#!/bin/sh\n\
         self=\"$(readlink -f \"$0\")\"\n\
         place=\"${{self%/*}}\"\n\
         browser=\"$place/root/usr/lib/chromium\"\n\
         libraries=\"$place/root/usr/lib/{triple}\"\n\
         export FONTCONFIG_FILE=\"$place/fonts.conf\"\n\
         exec \"$browser/loader\" --library-path \"$libraries:$libraries/pulseaudio:$browser\" \
         \"$browser/chromium-headless-shell\" --no-zygote --browser-subprocess-path=\"$self\" \"$@\"\n"
    )
}
