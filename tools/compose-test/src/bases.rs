//! The base images of the project's own images.
//!
//! The test pulls them if it reaches a registry. If not, `.ci/stand-in` makes local images of the same names. At its end the test
//! removes the images that it pulled or made.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use provision::library::Library;
use provision::{envoy, paths, pins, process};

use super::docker::Docker;

/// The label of the images that `.ci/stand-in` makes.
const LABEL: &str = "azure-openai-balancer.stand-in=true";

/// The time limit of a pull, long enough for a slow connection. Without access to a registry, a pull fails at once.
const PULL_LIMIT: Duration = Duration::from_secs(300);

/// Variables of `.env` with a version, and the image of each. The version replaces `VERSION` in the image's name.
const IMAGES: [(&str, &str); 4] = [
    ("RUST_VERSION", "rust:VERSION-slim-trixie"),
    ("ENVOY_VERSION", "envoyproxy/envoy:distroless-vVERSION"),
    ("PYTHON_VERSION", "python:VERSION-slim-trixie"),
    ("PROMETHEUS_VERSION", "prom/prometheus:VERSION"),
];

/// Grafana's variable and image. It can only be pulled, because Debian has no package of Grafana.
const GRAFANA: (&str, &str) = ("GRAFANA_VERSION", "grafana/grafana:VERSION");

/// The base images. Dropping this removes the images that it pulled or made.
pub struct Bases {
    docker: Docker,
    added: Vec<String>,
    has_grafana: bool,
}

impl Bases {
    /// Pulls or makes the images that are missing, in the versions that `.env` names.
    ///
    /// # Errors
    /// An image can be neither pulled nor made.
    pub fn provide(docker: &Docker, versions: &BTreeMap<String, String>) -> Result<Self> {
        let image = |(variable, image): (&str, &str)| {
            let version = versions.get(variable);
            let version = version.with_context(|| format!(".env: {variable} is missing"))?;
            Ok::<_, anyhow::Error>(image.replace("VERSION", version))
        };
        let mut bases = Self {
            docker: docker.clone(),
            added: Vec::new(),
            has_grafana: false,
        };
        for named in IMAGES {
            let image = image(named)?;
            if !bases.has_or_pulls(&image) {
                process::step(&format!("make a local {image}"), || bases.make(&image))?;
            }
        }
        bases.has_grafana = bases.has_or_pulls(&image(GRAFANA)?);
        Ok(bases)
    }

    /// Whether Grafana's image exists or could be pulled.
    pub fn has_grafana(&self) -> bool {
        self.has_grafana
    }

    fn has_or_pulls(&mut self, image: &str) -> bool {
        if self.docker.output(&["image", "inspect", image]).is_ok() {
            return true;
        }
        let mut pull = self.docker.command();
        pull.args(["pull", "--quiet", image]);
        let pulled = process::run_within(&mut pull, PULL_LIMIT).is_ok();
        if pulled {
            self.added.push(image.to_owned());
        }
        pulled
    }

    fn make(&mut self, image: &str) -> Result<()> {
        let mut command = Command::new(paths::workspace().join(".ci/stand-in"));
        command.args([image, pins::DEBIAN_SUITE, LABEL]);
        if image.starts_with("rust:") {
            if let Library::Debian(compiler) = Library::find()? {
                command.arg(compiler.folder);
            }
        } else if image.starts_with("envoyproxy/") {
            command.arg(envoy::pinned(envoy::known(pins::DEFAULT_ENVOY)?)?);
        }
        process::output(&mut command)?;
        self.added.push(image.to_owned());
        Ok(())
    }
}

impl Drop for Bases {
    fn drop(&mut self) {
        for image in &self.added {
            if let Err(error) = self.docker.output(&["image", "rm", image]) {
                eprintln!("warning: {image} could not be removed: {error:#}");
            }
        }
    }
}

/// Removes the images that an interrupted run made.
///
/// # Errors
/// The engine cannot list or remove the images.
pub fn remove_leftovers(docker: &Docker) -> Result<()> {
    let filter = format!("label={LABEL}");
    let images = docker.output(&["image", "ls", "--quiet", "--filter", &filter])?;
    for image in images.lines() {
        docker.output(&["image", "rm", "--force", image])?;
    }
    Ok(())
}
