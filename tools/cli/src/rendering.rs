//! Rendering: what is asked for, and what is made of it.

use crate::check::check_list;
use crate::document::{Document, Position};
use crate::expand::Expanded;
use crate::files::{expected_files, ExpectedFile};
use crate::kubernetes::{Clusters, Kubernetes};
use crate::plugin::{Engine, Plugin};
use crate::problem::Problems;
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
    /// The rate limit service of `limits.service`, as the file of limits that it reads.
    #[value(name = "ratelimit")]
    RateLimit,
}

/// What is asked for beside the list of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Another engine than the file's.
    pub engine: Option<Engine>,
    /// Everyone may ask.
    pub open: bool,
    /// Every feature, by patches of what the control plane tells Envoy. Envoy itself needs none.
    pub full: bool,
}

/// A configuration, and what its user has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The configuration.
    pub text: String,
    /// Sentences about what it does not do.
    pub notes: Vec<String>,
    /// Files that Envoy reads beside it. Those of a pod are in the comments of its resources.
    pub files: Vec<ExpectedFile>,
}

/// Makes a configuration of the list of backends in `text`.
///
/// # Errors
/// Everything that is wrong with the list, in the order of the file.
pub fn render(target: Target, text: &str, options: Options) -> Result<String, Vec<Problem>> {
    rendered(target, text, options).map(|rendered| rendered.text)
}

/// The same with what its user has to know.
///
/// # Errors
/// Everything that is wrong with the list, in the order of the file.
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
                    "a WasmPlugin is no place for what has to come before the module; use `--full`",
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
                    "Envoy Gateway's API has no place for the router engine, so this is the filter engine; use `--full` for the \
                     other"
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
                    "an EnvoyExtensionPolicy is no place for what has to come before the module, and a BackendTrafficPolicy knows no \
                     tokens; use `--full`",
                )?;
            }
            notes.extend(hidden_bodies(&resources, "EnvoyExtensionPolicy"));
            envoy_gateway::resources(&resources)
        }
        Target::RateLimit => {
            let limits = fleet(text, options)?.limits;
            let limits = limits.ok_or_else(|| {
                let text =
                    "is missing; use {endpoint: \"http://ratelimit:8081\"}, where the service is";
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

/// Refuses limits that a service keeps, where they cannot be rendered: they must not be lost in silence.
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

/// What the list of backends asks for that only bodies tell, where a resource of this kind does not show them.
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
    Some(format!("the filter cannot read bodies from {kind}, so this leaves out {lost}; use `--full` for everything"))
}

/// What the Envoy configuration of a list of backends is made from.
///
/// # Errors
/// Everything that is wrong with the list of backends, in the order of the file.
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

/// Where everyone may ask, no filter says who a client is, unless the list names a header of its own for that: a name that a client
/// gives itself must not lift its limits.
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

/// The list of backends in `text`, for Kubernetes: the filter engine is what the APIs there have a place for.
fn kubernetes(
    text: &str,
    options: Options,
    clusters: Clusters,
) -> Result<Kubernetes, Vec<Problem>> {
    let (plugin, expanded) = read(text, options, Engine::Filter)?;
    Kubernetes::new(plugin, &expanded, options, clusters)
}
