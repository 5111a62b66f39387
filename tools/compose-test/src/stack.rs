//! The containers of `docker-compose.yml` under a project name of the test's own, on ports of the system's choice.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use provision::{paths, process};

use super::docker::Docker;

/// Not the name in the file: a demo that runs is left alone.
const PROJECT: &str = "azure-openai-balancer-test";

/// The variables of `.env` that name a port.
const PORTS: [&str; 6] = [
    "BALANCER_PORT",
    "ENVOY_ADMIN_PORT",
    "STATUS_PORT",
    "SIMULATOR_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
];

/// The containers, their images, networks and volumes. All of it is gone when this is dropped.
pub struct Stack {
    docker: Docker,
    revision: String,
    /// What the builder had kept before.
    cache: BTreeSet<String>,
}

impl Stack {
    /// Nothing of it exists yet; what an ended run left does no longer.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn new(docker: &Docker, revision: &str) -> Result<Self> {
        let stack = Self {
            docker: docker.clone(),
            revision: revision.to_owned(),
            cache: cache(docker)?,
        };
        stack.remove()?;
        Ok(stack)
    }

    /// `docker compose`, as a user would call it but for the name and the ports.
    pub fn compose(&self) -> Command {
        let mut command = self.docker.command();
        command
            .args(["compose", "--ansi", "never", "--project-name", PROJECT])
            .arg("--project-directory")
            .arg(paths::workspace())
            // Of a profile that is not named, nothing would be removed either.
            .args(["--profile", "metrics"])
            .env("REVISION", &self.revision)
            .envs(PORTS.map(|port| (port, "0")));
        command
    }

    /// The name of an image that is not one of the services'.
    pub fn image(&self, name: &str) -> String {
        format!("{PROJECT}-{name}")
    }

    /// What Docker knows of a service's container, as this template prints it.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn inspect(&self, service: &str, template: &str) -> Result<String> {
        self.docker
            .output(&["inspect", "--format", template, &self.container(service)?])
            .with_context(|| format!("the container of {service}"))
    }

    /// The id of a service's container, whether it runs or has ended.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn container(&self, service: &str) -> Result<String> {
        let id = process::output(self.compose().args(["ps", "--all", "--quiet", service]))?;
        let id = id.trim();
        ensure!(!id.is_empty(), "{service} has no container");
        Ok(id.to_owned())
    }

    /// Where a port of a service is published, as `127.0.0.1:port`.
    ///
    /// # Errors
    /// When it is not.
    pub fn published(&self, service: &str, port: u16) -> Result<String> {
        let mut command = self.compose();
        command.args(["port", service, &port.to_string()]);
        Ok(process::output(&mut command)?.trim().to_owned())
    }

    /// What a service has written so far.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn log(&self, service: &str) -> Result<String> {
        let mut command = self.compose();
        // Both streams: Envoy's log is on the one, its access log on the other.
        command.args(["logs", "--no-color", "--no-log-prefix", service]);
        process::output(&mut command)
    }

    /// What of it there still is: containers, images, networks and volumes, by their ids.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn left(&self) -> Result<Vec<String>> {
        let label = format!("label=com.docker.compose.project={PROJECT}");
        let lists: [&[&str]; 4] = [
            &["container", "ls", "--all", "--quiet", "--filter", &label],
            &["network", "ls", "--quiet", "--filter", &label],
            &["volume", "ls", "--quiet", "--filter", &label],
            &["image", "ls", "--quiet", &format!("{PROJECT}-*")],
        ];
        let mut left = Vec::new();
        for list in lists {
            let ids = self.docker.output(list)?;
            left.extend(ids.lines().map(|id| format!("{} {id}", list[0])));
        }
        let cache = cache(&self.docker)?;
        let cache = cache.difference(&self.cache);
        left.extend(cache.map(|id| format!("build cache {id}")));
        Ok(left)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When the engine does not let something go.
    pub fn remove(&self) -> Result<()> {
        let mut down = self.compose();
        down.args(["down", "--volumes", "--remove-orphans", "--timeout", "2"]);
        process::output(&mut down)?;
        let images = self
            .docker
            .output(&["image", "ls", "--quiet", &format!("{PROJECT}-*")])?;
        for image in images.lines() {
            self.docker.output(&["image", "rm", "--force", image])?;
        }
        self.prune()
    }

    /// Removes what the builder keeps of this test. The cache is one for everything that this machine builds, so that
    /// nothing else is touched.
    fn prune(&self) -> Result<()> {
        let new = || -> Result<BTreeSet<String>> { Ok(&cache(&self.docker)? - &self.cache) };
        let mut left = new()?;
        while !left.is_empty() {
            for id in &left {
                let filter = format!("id={id}");
                self.docker
                    .output(&["builder", "prune", "--force", "--all", "--filter", &filter])?;
            }
            // What others are built on goes only after them.
            let still = new()?;
            if still.len() == left.len() {
                break;
            }
            left = still;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("warning: not everything could be removed: {error:#}");
        }
    }
}

/// The ids of all that the builder keeps.
fn cache(docker: &Docker) -> Result<BTreeSet<String>> {
    let list = docker.output(&["buildx", "du", "--verbose"])?;
    let ids = list.lines().filter_map(|line| line.strip_prefix("ID:"));
    Ok(ids.map(|id| id.trim().to_owned()).collect())
}
