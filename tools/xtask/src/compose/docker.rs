//! The Docker of this machine: whether there is one, and its compose and buildx plugins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::{self, Archive};
use crate::files::{self, Draft, Lock};
use crate::{paths, process};

/// What is not Docker's own in the packages of some distributions.
const PLUGINS: [&str; 2] = ["compose", "buildx"];

/// The Debian packages that bring them, and where they lie in there.
const PACKAGES: &[&str] = &["docker-compose", "docker-buildx"];
const PLUGINS_IN_PACKAGE: &str = "usr/libexec/docker/cli-plugins";

/// A Docker whose engine answers.
#[derive(Clone, Debug)]
pub struct Docker {
    /// Where its plugins are, unless it has its own.
    configuration: Option<PathBuf>,
}

impl Docker {
    /// The machine's Docker; `None` where there is no engine, or none that this user may talk to.
    ///
    /// # Errors
    /// When there is one, but its plugins are missing and cannot be fetched.
    pub fn find() -> Result<Option<Self>> {
        let docker = Self {
            configuration: None,
        };
        let mut version = docker.command();
        version.args(["version", "--format", "{{.Server.Version}}"]);
        if process::output(&mut version).is_err() {
            return Ok(None);
        }
        if docker.has_plugins() {
            return Ok(Some(docker));
        }
        let docker = Self {
            configuration: Some(plugins().context(
                "Docker has no compose and buildx plugins, and they could not be fetched; install them",
            )?),
        };
        Ok(Some(docker))
    }

    /// `docker`.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        if let Some(configuration) = &self.configuration {
            command.env("DOCKER_CONFIG", configuration);
        }
        command
    }

    /// What `docker` with these arguments prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        Ok(process::output(self.command().args(arguments))?
            .trim()
            .to_owned())
    }

    fn has_plugins(&self) -> bool {
        PLUGINS
            .iter()
            .all(|plugin| self.output(&[plugin, "version"]).is_ok())
    }
}

/// A Docker configuration with Debian's plugins, below `target/`.
fn plugins() -> Result<PathBuf> {
    let place = paths::tools().join("docker");
    let _lock = Lock::on(&place)?;
    if !place.exists() {
        process::step("fetch Docker's compose and buildx plugins", || {
            fetch(&place)
        })?;
    }
    Ok(place)
}

fn fetch(place: &Path) -> Result<()> {
    let draft = Draft::of(place)?;
    let apt = draft.path().join("apt");
    let packages = Archive::open(&apt)?.download(PACKAGES, &apt.join("packages"))?;
    let root = draft.path().join("root");
    archive::unpack(&packages, &root)?;
    for plugin in PLUGINS {
        let name = format!("docker-{plugin}");
        files::copy(
            &root.join(PLUGINS_IN_PACKAGE).join(&name),
            &draft.path().join("cli-plugins").join(&name),
        )?;
    }
    files::remove(&apt)?;
    files::remove(&root)?;
    draft.publish()
}
