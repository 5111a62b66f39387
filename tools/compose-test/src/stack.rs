//! The containers of `docker-compose.yml`, under the test's own project name and on ports that the system chooses.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use provision::{paths, process};

use super::docker::Docker;

/// The project name. It differs from the name in the file, so that the test does not disturb a running demo.
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

/// The containers, their images, networks and volumes. Dropping this removes all of them.
pub struct Stack {
    docker: Docker,
    revision: String,
    /// The ids in the builder's cache before the test.
    cache: BTreeSet<String>,
}

impl Stack {
    /// A stack without any containers. Containers of an interrupted run are removed.
    ///
    /// # Errors
    /// The engine does not answer, or cannot remove something.
    pub fn new(docker: &Docker, revision: &str) -> Result<Self> {
        let stack = Self {
            docker: docker.clone(),
            revision: revision.to_owned(),
            cache: cache(docker)?,
        };
        stack.remove()?;
        Ok(stack)
    }

    /// A `docker compose` command, as a user would run it except for the project name and the ports.
    pub fn compose(&self) -> Command {
        let mut command = self.docker.command();
        command
            .args(["compose", "--ansi", "never", "--project-name", PROJECT])
            .arg("--project-directory")
            .arg(paths::workspace())
            // `docker compose down` removes the services of a profile only if the profile is named.
            .args(["--profile", "metrics"])
            .env("REVISION", &self.revision)
            .envs(PORTS.map(|port| (port, "0")));
        command
    }

    /// The name for an image that no service uses.
    pub fn image(&self, name: &str) -> String {
        format!("{PROJECT}-{name}")
    }

    /// The output of `docker inspect` for a service's container, with this template.
    ///
    /// # Errors
    /// The service has no container.
    pub fn inspect(&self, service: &str, template: &str) -> Result<String> {
        self.docker
            .output(&["inspect", "--format", template, &self.container(service)?])
            .with_context(|| format!("the container of {service}"))
    }

    /// The id of a service's container, running or ended.
    ///
    /// # Errors
    /// The service has no container.
    pub fn container(&self, service: &str) -> Result<String> {
        let id = process::output(self.compose().args(["ps", "--all", "--quiet", service]))?;
        let id = id.trim();
        ensure!(!id.is_empty(), "{service} has no container");
        Ok(id.to_owned())
    }

    /// The address on which a service's port is published, such as `127.0.0.1:32768`.
    ///
    /// # Errors
    /// The port is not published.
    pub fn published(&self, service: &str, port: u16) -> Result<String> {
        let mut command = self.compose();
        command.args(["port", service, &port.to_string()]);
        Ok(process::output(&mut command)?.trim().to_owned())
    }

    /// The log of a service so far.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn log(&self, service: &str) -> Result<String> {
        let mut command = self.compose();
        // `docker compose logs` joins Envoy's log on stderr and its access log on stdout.
        command.args(["logs", "--no-color", "--no-log-prefix", service]);
        process::output(&mut command)
    }

    /// The ids of the containers, networks, volumes, images and cache entries that still exist.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn remaining(&self) -> Result<Vec<String>> {
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

    /// Removes the containers, images, networks, volumes and cache entries.
    ///
    /// # Errors
    /// The engine cannot remove something.
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

    /// Removes this test's entries from the builder's cache. All builds on this machine share the cache, so older entries stay.
    fn prune(&self) -> Result<()> {
        let new = || -> Result<BTreeSet<String>> { Ok(&cache(&self.docker)? - &self.cache) };
        let mut left = new()?;
        while !left.is_empty() {
            for id in &left {
                let filter = format!("id={id}");
                self.docker
                    .output(&["builder", "prune", "--force", "--all", "--filter", &filter])?;
            }
            // The builder removes an entry only after the entries that depend on it, so this takes several rounds.
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

/// The ids of all entries in the builder's cache.
fn cache(docker: &Docker) -> Result<BTreeSet<String>> {
    let list = docker.output(&["buildx", "du", "--verbose"])?;
    let ids = list.lines().filter_map(|line| line.strip_prefix("ID:"));
    Ok(ids.map(|id| id.trim().to_owned()).collect())
}
