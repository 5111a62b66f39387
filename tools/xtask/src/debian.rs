//! Debian's compiler and its wasm32-wasip1 library, unpacked under `target/` without installing anything.
//!
//! For machines that cannot reach rustup's server but do reach a Debian mirror.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::archive::{self, Archive};
use crate::files::{self, Draft, Lock};
use crate::{paths, pins, process};

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
pub(crate) struct Layout {
    pub(crate) triple: &'static str,
    pub(crate) loader: &'static str,
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
    let apt = draft.path().join("apt");
    let packages = Archive::open(&apt)?.download(pins::DEBIAN_PACKAGES, &apt.join("packages"))?;
    archive::unpack(&packages, &draft.path().join("root"))?;
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
    files::remove(&apt)?;
    draft.publish()
}

/// A script that runs Debian's program with Debian's loader and libraries, wherever its directory is moved to.
pub fn write_script(draft: &Path, layout: &Layout, program: &str) -> Result<()> {
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

/// The layout of this machine's architecture.
pub(crate) fn layout() -> Result<Layout> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Layout {
            triple: "x86_64-linux-gnu",
            loader: "usr/lib64/ld-linux-x86-64.so.2",
        }),
        "aarch64" => Ok(Layout {
            triple: "aarch64-linux-gnu",
            loader: "usr/lib/ld-linux-aarch64.so.1",
        }),
        other => bail!("{other}: Debian's packages are used on x86_64 and aarch64 only"),
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
