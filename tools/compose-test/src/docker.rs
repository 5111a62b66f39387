//! The Docker of this machine, with its compose and buildx plugins.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use provision::{debian, process};

/// The plugins that the test needs. Some distributions package Docker without them.
const PLUGINS: [&str; 2] = ["compose", "buildx"];

/// A Docker whose engine answers.
#[derive(Clone, Debug)]
pub struct Docker {
    /// The `DOCKER_CONFIG` folder with fetched plugins, unless Docker has its own plugins.
    configuration: Option<PathBuf>,
}

impl Docker {
    /// Finds the machine's Docker. Returns `None` if no engine runs, or if this user may not use it.
    ///
    /// # Errors
    /// Docker's plugins are missing and cannot be fetched.
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

    /// A `docker` command.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        if let Some(configuration) = &self.configuration {
            command.env("DOCKER_CONFIG", configuration);
        }
        command
    }

    /// Runs `docker` with these arguments and returns its output.
    ///
    /// # Errors
    /// The command fails.
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
