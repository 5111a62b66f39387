//! Debian's Redis server, unpacked under `target/` without installing anything: tests share limits between Envoys by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::{self, Archive};
use crate::files::{self, Draft, Lock};
use crate::{debian, paths, pins, process};

/// The server's name, and that of the script around it.
const PROGRAM: &str = "redis-server";

/// Fetches and unpacks the packages unless that is done already; a script that runs the server.
pub fn ensure() -> Result<PathBuf> {
    let place = paths::redis();
    if !is_ready(&place) {
        let _lock = Lock::on(&place)?;
        // Another run may have made it while this one waited.
        if !is_ready(&place) {
            process::step("fetch Debian's Redis (about 10 MB)", || make(&place))?;
        }
    }
    Ok(script(&place))
}

fn is_ready(place: &Path) -> bool {
    fs::read_to_string(stamp(place)).is_ok_and(|stamp| stamp.starts_with(&recipe()))
}

fn make(place: &Path) -> Result<()> {
    let draft = Draft::of(place)?;
    let apt = draft.path().join("apt");
    let packages = Archive::open(&apt)?.download(pins::REDIS_PACKAGES, &apt.join("packages"))?;
    archive::unpack(&packages, &draft.path().join("root"))?;
    debian::write_script(draft.path(), &debian::layout()?, PROGRAM)?;
    let version = process::output(Command::new(script(draft.path())).arg("--version"))
        .context("Debian's Redis was unpacked but does not run")?;
    files::write(&stamp(draft.path()), &format!("{}{version}", recipe()))?;
    files::remove(&apt)?;
    draft.publish()
}

fn script(place: &Path) -> PathBuf {
    place.join("bin").join(PROGRAM)
}

fn stamp(place: &Path) -> PathBuf {
    place.join("stamp")
}

/// The first line of the stamp: the packages that were asked for.
fn recipe() -> String {
    format!(
        "{}: {}\n",
        pins::DEBIAN_SUITE,
        pins::REDIS_PACKAGES.join(" ")
    )
}
