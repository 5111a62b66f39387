//! The images that the project's own are built on.
//!
//! Where a registry can be reached they are pulled. Where none can, `.ci/stand-in` makes local images of the same names. What was
//! brought to this machine is gone when the test ends.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use provision::library::Library;
use provision::{envoy, paths, pins, process};

use super::docker::Docker;

/// The label of the images made here.
const LABEL: &str = "azure-openai-balancer.stand-in=true";

/// Long enough for a slow line; where no registry is reached the answer comes at once.
const PULL_LIMIT: Duration = Duration::from_secs(300);

/// The variables of `.env` that name the version of an image: the image is `NAME` with `VERSION` replaced.
const IMAGES: [(&str, &str); 4] = [
    ("RUST_VERSION", "rust:VERSION-slim-trixie"),
    ("ENVOY_VERSION", "envoyproxy/envoy:distroless-vVERSION"),
    ("PYTHON_VERSION", "python:VERSION-slim-trixie"),
    ("PROMETHEUS_VERSION", "prom/prometheus:VERSION"),
];

/// Debian has no package to make it of.
const GRAFANA: (&str, &str) = ("GRAFANA_VERSION", "grafana/grafana:VERSION");

/// The base images, there for as long as this lives; those it brought are gone afterwards.
pub struct Bases {
    docker: Docker,
    brought: Vec<String>,
    has_grafana: bool,
}

impl Bases {
    /// Brings what is missing, in the versions that `.env` names.
    ///
    /// # Errors
    /// When an image can neither be pulled nor be stood in for.
    pub fn bring(docker: &Docker, versions: &BTreeMap<String, String>) -> Result<Self> {
        let image = |(variable, image): (&str, &str)| {
            let version = versions.get(variable);
            let version = version.with_context(|| format!(".env: {variable} is missing"))?;
            Ok::<_, anyhow::Error>(image.replace("VERSION", version))
        };
        let mut bases = Self {
            docker: docker.clone(),
            brought: Vec::new(),
            has_grafana: false,
        };
        for named in IMAGES {
            let image = image(named)?;
            if !bases.has_or_pulls(&image) {
                process::step(&format!("stand in for {image}"), || bases.stand_in(&image))?;
            }
        }
        bases.has_grafana = bases.has_or_pulls(&image(GRAFANA)?);
        Ok(bases)
    }

    /// Whether Grafana's image could be had.
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
            self.brought.push(image.to_owned());
        }
        pulled
    }

    fn stand_in(&mut self, image: &str) -> Result<()> {
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
        self.brought.push(image.to_owned());
        Ok(())
    }
}

impl Drop for Bases {
    fn drop(&mut self) {
        for image in &self.brought {
            if let Err(error) = self.docker.output(&["image", "rm", image]) {
                eprintln!("warning: {image} could not be removed: {error:#}");
            }
        }
    }
}

/// Removes the stand-ins that an ended run left.
///
/// # Errors
/// When the engine does not let them go.
pub fn remove_left_over(docker: &Docker) -> Result<()> {
    let filter = format!("label={LABEL}");
    let images = docker.output(&["image", "ls", "--quiet", "--filter", &filter])?;
    for image in images.lines() {
        docker.output(&["image", "rm", "--force", image])?;
    }
    Ok(())
}
