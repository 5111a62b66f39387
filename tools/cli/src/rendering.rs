//! Rendering: what is asked for, and what is made of it.

use crate::check::check_short;
use crate::document::Document;
use crate::expand::Expanded;
use crate::kubernetes::{Clusters, Kubernetes};
use crate::plugin::{Engine, Plugin};
use crate::{envoy_gateway, istio, Problem};

/// What a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Envoy, as one file that it starts from.
    Envoy,
    /// Istio, as resources of Kubernetes.
    Istio,
    /// Envoy Gateway, as resources of Kubernetes.
    EnvoyGateway,
}

/// What is asked for beside the short form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Another engine than the file's.
    pub engine: Option<Engine>,
    /// Everyone may ask.
    pub open: bool,
}

/// Makes a configuration of the short form in `text`.
///
/// # Errors
/// Everything that is wrong with the short form, in the order of the file.
pub fn render(target: Target, text: &str, options: Options) -> Result<String, Vec<Problem>> {
    match target {
        Target::Envoy => fleet(text, options).map(|fleet| render::envoy(&fleet)),
        Target::Istio => kubernetes(text, options, istio::CLUSTERS).map(|k| istio::resources(&k)),
        Target::EnvoyGateway => {
            let options = Options {
                // Its API has no place for what the router engine needs.
                engine: Some(Engine::Filter),
                ..options
            };
            kubernetes(text, options, envoy_gateway::CLUSTERS).map(|k| envoy_gateway::resources(&k))
        }
    }
}

/// What the Envoy configuration of a short form is made from.
///
/// # Errors
/// Everything that is wrong with the short form, in the order of the file.
pub fn fleet(text: &str, options: Options) -> Result<render::Fleet, Vec<Problem>> {
    let (plugin, expanded) = read(text, options, Engine::Router)?;
    Ok(crate::fleet::fleet(&plugin, &expanded, options.open))
}

/// The short form in `text`, checked.
fn read(text: &str, options: Options, default: Engine) -> Result<(Plugin, Expanded), Vec<Problem>> {
    let document = Document::parse(text).map_err(|problem| vec![problem])?;
    check_short(&document, options.engine, default)
}

/// The short form in `text`, for Kubernetes: the filter engine is what the APIs there have a place for.
fn kubernetes(
    text: &str,
    options: Options,
    clusters: Clusters,
) -> Result<Kubernetes, Vec<Problem>> {
    let (plugin, expanded) = read(text, options, Engine::Filter)?;
    Kubernetes::new(plugin, &expanded, options.open, clusters)
}
