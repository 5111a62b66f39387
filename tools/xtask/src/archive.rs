//! Packages of the pinned Debian release, fetched without installing anything and without the machine's own lists.
//!
//! apt verifies them against Debian's archive keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{anyhow, bail, Result};

use crate::{apt, files, pins, process};

const KEYRINGS: &[&str] = &[
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The release as one of the machine's mirrors has it, its lists read.
#[derive(Debug)]
pub struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Reads the lists from the first of the machine's mirrors that has the release. Everything apt keeps goes into
    /// `directory`, which is emptied before.
    ///
    /// # Errors
    /// When no mirror has it, or there is nothing to verify it with.
    pub fn open(directory: &Path) -> Result<Self> {
        let keyring = KEYRINGS.iter().map(Path::new).find(|path| path.exists()).ok_or_else(|| {
            anyhow!("{}: not found; install the package debian-archive-keyring, which packages are verified with", KEYRINGS[0])
        })?;
        let mut failures = Vec::new();
        for mirror in apt::mirrors(Path::new(apt::CONFIGURATION))? {
            match Self::read(&mirror, keyring, directory) {
                Ok(archive) => return Ok(archive),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        bail!(
            "no mirror of {} has Debian {}:\n{}",
            apt::CONFIGURATION,
            pins::DEBIAN_SUITE,
            failures.join("\n")
        )
    }

    fn read(mirror: &str, keyring: &Path, directory: &Path) -> Result<Self> {
        files::remove(directory)?;
        for needed in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(directory.join(needed))?;
        }
        let source = format!(
            "deb [signed-by={}] {mirror} {} main\n",
            keyring.display(),
            pins::DEBIAN_SUITE
        );
        files::write(&directory.join("sources.list"), &source)?;
        files::write(&directory.join("status"), "")?;
        let archive = Self {
            directory: directory.to_owned(),
        };
        let mut update = archive.apt_get();
        process::output(update.args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
        Ok(archive)
    }

    /// Downloads exactly these packages into the directory, which is made anew.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub fn download(&self, packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
        files::remove(directory)?;
        fs::create_dir_all(directory)?;
        let mut download = self.apt_get();
        download.arg("download").args(packages);
        process::output(download.current_dir(directory))?;
        let found = packages_in(directory)?;
        if found.len() != packages.len() {
            bail!(
                "{}: {} packages came, {} were asked for",
                directory.display(),
                found.len(),
                packages.len()
            );
        }
        Ok(found)
    }

    /// Downloads these packages, and all that they depend on, into the directory, which is made anew.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub fn download_with_dependencies(
        &self,
        packages: &[&str],
        directory: &Path,
    ) -> Result<Vec<PathBuf>> {
        files::remove(directory)?;
        fs::create_dir_all(directory.join("partial"))?;
        let mut install = self.apt_get();
        install
            .args([
                "-o",
                &format!("Dir::Cache::archives={}", directory.display()),
            ])
            .args([
                "install",
                "--download-only",
                "--no-install-recommends",
                "--yes",
            ])
            .args(packages);
        process::output(&mut install)?;
        packages_in(directory)
    }

    /// apt-get with lists, cache and package status of its own: it neither reads nor changes what the machine has.
    fn apt_get(&self) -> Command {
        let own =
            |option: &str, name: &str| format!("{option}={}", self.directory.join(name).display());
        let options = [
            own("Dir::Etc::sourcelist", "sources.list"),
            own("Dir::Etc::sourceparts", "parts"),
            own("Dir::Etc::preferences", "preferences"),
            own("Dir::Etc::preferencesparts", "parts"),
            own("Dir::State::lists", "lists"),
            own("Dir::State::status", "status"),
            own("Dir::State::extended_states", "extended_states"),
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
}

/// Unpacks packages into a directory; what their scripts would do at installation is not done.
///
/// # Errors
/// When one of them cannot be unpacked.
pub fn unpack(packages: &[PathBuf], directory: &Path) -> Result<()> {
    for package in packages {
        process::output(Command::new("dpkg").arg("-x").arg(package).arg(directory))?;
    }
    Ok(())
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    found.sort();
    Ok(found)
}
