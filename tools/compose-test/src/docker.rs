//! The Docker of this machine: whether there is one, and its compose and buildx plugins.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use provision::{debian, process};

/// Not Docker's own in the packages of some distributions.
const PLUGINS: [&str; 2] = ["compose", "buildx"];

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
            configuration: Some(debian::docker_plugins().context(
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
