//! Rendering: options and results.

use crate::check::check_list;
use crate::document::{Document, Position};
use crate::expand::Expanded;
use crate::files::{expected_files, ExpectedFile};
use crate::kubernetes::{Clusters, Kubernetes};
use crate::plugin::{Engine, Plugin};
use crate::problem::Problems;
use crate::{envoy_gateway, istio, Problem};

/// The target of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Envoy, as the one file that it starts with.
    Envoy,
    /// Istio, as resources of Kubernetes.
    Istio,
    /// Envoy Gateway, as resources of Kubernetes.
    EnvoyGateway,
    /// The rate limit service of `limits.service`, as its file of limits.
    #[value(name = "ratelimit")]
    RateLimit,
}

/// Options besides the list of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The retry engine, in place of the file's.
    pub engine: Option<Engine>,
    /// Whether clients need no key or token.
    pub open: bool,
    /// Whether to render every feature, by patches of Envoy's configuration. Envoy itself needs none.
    pub full: bool,
}

/// A configuration, with notes for its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The configuration.
    pub text: String,
    /// Sentences about missing features.
    pub notes: Vec<String>,
    /// Files that Envoy reads in addition. Files of a pod are in the comments of its resources.
    pub files: Vec<ExpectedFile>,
}

/// Renders a configuration from the list of backends in `text`.
///
/// # Errors
/// All problems of the list, in the order of the file.
pub fn render(target: Target, text: &str, options: Options) -> Result<String, Vec<Problem>> {
    rendered(target, text, options).map(|rendered| rendered.text)
}

/// Renders a configuration from the list of backends in `text`, with notes for its user.
///
/// # Errors
/// All problems of the list, in the order of the file.
pub fn rendered(target: Target, text: &str, options: Options) -> Result<Rendered, Vec<Problem>> {
    let (mut notes, mut files) = (Vec::new(), Vec::new());
    let text = match target {
        Target::Envoy => {
            let fleet = fleet(text, options)?;
            files = expected_files(&fleet);
            render::envoy(&fleet)
        }
        Target::Istio => {
            let kubernetes = kubernetes(text, options, istio::CLUSTERS)?;
            if kubernetes.fleet.engine == render::Engine::Filter && !kubernetes.full {
                no_limits(
                    &kubernetes.fleet,
                    "a WasmPlugin cannot put the filters of limits before the module; use `--full`",
                )?;
            }
            if kubernetes.fleet.engine == render::Engine::Filter {
                notes.extend(hidden_bodies(&kubernetes, "WasmPlugin"));
            }
            istio::resources(&kubernetes)
        }
        Target::EnvoyGateway => {
            let mut resources = kubernetes(text, options, envoy_gateway::CLUSTERS)?;
            if resources.fleet.engine == render::Engine::Router && !options.full {
                notes.push(
                    "Envoy Gateway's API cannot set up the router engine, so this is the filter engine; use `--full` for the router \
                     engine"
                        .to_owned(),
                );
                let options = Options {
                    engine: Some(Engine::Filter),
                    ..options
                };
                resources = kubernetes(text, options, envoy_gateway::CLUSTERS)?;
            }
            if !resources.full {
                no_limits(
                    &resources.fleet,
                    "an EnvoyExtensionPolicy cannot put the filters of limits before the module, and a BackendTrafficPolicy cannot \
                     count tokens; use `--full`",
                )?;
            }
            notes.extend(hidden_bodies(&resources, "EnvoyExtensionPolicy"));
            envoy_gateway::resources(&resources)
        }
        Target::RateLimit => {
            let limits = fleet(text, options)?.limits;
            let limits = limits.ok_or_else(|| {
                let text =
                    "is missing; use {endpoint: \"http://ratelimit:8081\"}, the service's address";
                vec![Problem::new(
                    Position::START,
                    "limits.service",
                    text.to_owned(),
                )]
            })?;
            render::limits_file(&limits)
        }
    };
    Ok(Rendered { text, notes, files })
}

/// Refuses limits of a service that cannot be rendered: they must not get lost silently.
fn no_limits(fleet: &render::Fleet, why: &str) -> Result<(), Vec<Problem>> {
    match fleet.limits {
        Some(_) => Err(vec![Problem::new(
            Position::START,
            "limits.service",
            why.to_owned(),
        )]),
        None => Ok(()),
    }
}

/// A note about features of the list that need bodies, if a resource of this kind hides bodies.
fn hidden_bodies(kubernetes: &Kubernetes, kind: &str) -> Option<String> {
    let mut lost = kubernetes.read_in_bodies();
    if kubernetes.full || lost.is_empty() {
        return None;
    }
    let last = lost.pop().unwrap_or_default();
    let lost = match lost.is_empty() {
        true => last.to_owned(),
        false => format!("{} and {last}", lost.join(", ")),
    };
    Some(format!("the filter cannot read bodies from {kind}, so these resources lack {lost}; use `--full` for every feature"))
}

/// The fleet that an Envoy configuration of a list of backends is rendered from.
///
/// # Errors
/// All problems of the list, in the order of the file.
pub fn fleet(text: &str, options: Options) -> Result<render::Fleet, Vec<Problem>> {
    let (plugin, expanded) = read(text, options, Engine::Router)?;
    Ok(crate::fleet::fleet(&plugin, &expanded, options.open))
}

/// The list of backends in `text`, checked.
fn read(text: &str, options: Options, default: Engine) -> Result<(Plugin, Expanded), Vec<Problem>> {
    let document = Document::parse(text).map_err(|problem| vec![problem])?;
    let (mut plugin, expanded) = check_list(&document, options.engine, default)?;
    if options.open {
        limit_strangers(&document, &mut plugin)?;
    }
    Ok((plugin, expanded))
}

/// If clients need no key or token, no filter sets their names, unless the list names a header for that. A client could
/// lift its limits by a name that it sets itself.
fn limit_strangers(document: &Document, plugin: &mut Plugin) -> Result<(), Vec<Problem>> {
    let Some(Some(limits)) = &plugin.limits else {
        return Ok(());
    };
    if document.value.pointer("/headers/client").is_some() {
        return Ok(());
    }
    if limits.clients.as_ref().is_some_and(|own| !own.is_empty()) {
        let mut problems = Problems::of(document);
        problems.add(
            "limits.clients",
            "with `--open` no filter tells clients apart; render without it, or name the header that a filter of your own sets in \
             `headers.client`",
        );
        return problems.into_result(());
    }
    if let Some(headers) = &mut plugin.headers {
        headers.client = None;
    }
    Ok(())
}

/// The list of backends in `text`, for Kubernetes. Its APIs support the filter engine.
fn kubernetes(
    text: &str,
    options: Options,
    clusters: Clusters,
) -> Result<Kubernetes, Vec<Problem>> {
    let (plugin, expanded) = read(text, options, Engine::Filter)?;
    Kubernetes::new(plugin, &expanded, options, clusters)
}
