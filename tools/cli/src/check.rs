//! Checks of files: by the module's own parser, with the place of every problem.

use azure_openai_balancer::core::config::{
    Config, Fault, Plugin as Parsed, Problem as Found, Source, OBJECT,
};
use serde_json::Value;

use crate::document::{Document, LIST};
use crate::expand::{expand, Expanded};
use crate::limits::{self, check_limits, SERVICE};
use crate::list::{ENDPOINT, OWN, TOKEN_FILE, TOKEN_SOCKET};
use crate::plugin::{Engine, Plugin};
use crate::problem::{Problem, Problems};
use crate::typed;
use crate::warnings;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The configuration of the module, as Envoy passes it.
    Plugin,
    /// The list of backends, from which configurations are rendered.
    Backends,
}

/// A valid file.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The kind of the file.
    pub form: Form,
    /// The plugin configuration; `None` for that of a cluster's filter, which has a role alone.
    pub plugin: Option<Plugin>,
    /// Probable mistakes that the configuration allows, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Checks a file. Without `form`, its fields decide what kind it is.
///
/// # Errors
/// All problems, in the order of the file.
pub fn check(text: &str, form: Option<Form>) -> Result<Checked, Vec<Problem>> {
    let document = Document::parse(text).map_err(|problem| vec![problem])?;
    match form.unwrap_or_else(|| form_of(&document.value)) {
        Form::Plugin => {
            let mut problems = Problems::of(&document);
            let parsed = parse(&document.value, Form::Plugin, &mut problems);
            let is_balancer = !matches!(parsed, Some(Parsed::Upstream));
            let plugin = in_types(&document.value, is_balancer, &mut problems);
            problems.into_result(())?;
            let mut warnings = Problems::of(&document);
            if let Some(plugin) = &plugin {
                warnings::of_plugin(plugin, &mut warnings);
            }
            Ok(Checked {
                form: Form::Plugin,
                plugin,
                warnings: warnings.in_order(),
            })
        }
        Form::Backends => {
            let (plugin, expanded) = check_list(&document, None, Engine::Router)?;
            let mut warnings = Problems::of(&document);
            warnings::of_plugin(&plugin, &mut warnings);
            limits::warn(&plugin, expanded.limit_service.as_ref(), &mut warnings);
            let in_kubernetes = document.value.get("kubernetes").is_some();
            warnings::of_own(&plugin, &expanded.own, in_kubernetes, &mut warnings);
            Ok(Checked {
                form: Form::Backends,
                plugin: Some(plugin),
                warnings: warnings.in_order(),
            })
        }
    }
}

/// Checks a list of backends, with `engine` in place of the list's. If neither is given, with `default`.
pub(crate) fn check_list(
    document: &Document,
    engine: Option<Engine>,
    default: Engine,
) -> Result<(Plugin, Expanded), Vec<Problem>> {
    let mut problems = Problems::of(document);
    let mut expanded = expand(&document.value, &mut problems);
    choose_engine(&mut expanded, engine, default, &mut problems);
    let parsed = parse(&expanded.plugin, Form::Backends, &mut problems);
    let mut plugin = in_types(&expanded.plugin, true, &mut problems);
    if let (Some(Parsed::Balancer(config)), Some(plugin)) = (parsed, &mut plugin) {
        name_authorities(&config, plugin, &mut problems);
        if expanded.limit_service.is_some() {
            check_limits(plugin, &mut problems);
        }
    }
    match (problems.into_result(())?, plugin) {
        ((), Some(plugin)) => Ok((plugin, expanded)),
        // Without a problem there is a plugin.
        ((), None) => Err(Vec::new()),
    }
}

/// The requested engine, or else that of the file, or else the default.
fn choose_engine(
    expanded: &mut Expanded,
    asked: Option<Engine>,
    default: Engine,
    problems: &mut Problems<'_>,
) {
    let written = expanded
        .plugin
        .get("retry")
        .and_then(|retry| retry.get("engine"));
    let written = written.map(|value| value.as_str().and_then(Engine::named));
    let engine = match (asked, expanded.own.engine, written) {
        // The parser reports this one.
        (_, _, Some(None)) => return,
        (_, Some(own), Some(Some(written))) if own != written => {
            problems.add("retry.engine", "differs from `engine`; use that alone");
            return;
        }
        (Some(asked), ..) => asked,
        (None, Some(own), _) => own,
        (None, None, Some(Some(written))) => written,
        (None, None, None) => default,
    };
    expanded.set_engine(engine);
}

/// A plugin configuration names a cluster for every backend, and has none of the list's own fields. A list of backends
/// mostly names no clusters.
fn form_of(value: &Value) -> Form {
    if value.get("role").is_some() {
        return Form::Plugin;
    }
    let backends = value.get("backends").and_then(Value::as_array);
    let backends: Vec<&Value> = backends.into_iter().flatten().collect();
    let has_own = OWN.iter().any(|key| value.get(key).is_some())
        || backends
            .iter()
            .any(|backend| backend.get(ENDPOINT).is_some())
        || value["limits"].get(SERVICE).is_some()
        || [ENDPOINT, TOKEN_FILE, TOKEN_SOCKET]
            .iter()
            .any(|field| value["identity"].get(field).is_some());
    let with_cluster = backends.iter();
    let with_cluster = with_cluster.filter(|backend| backend.get("cluster").is_some());
    let has_clusters =
        value.pointer("/identity/cluster").is_some() || 2 * with_cluster.count() > backends.len();
    match has_clusters && !has_own {
        true => Form::Plugin,
        false => Form::Backends,
    }
}

/// Sets the authority of each identity of Entra ID. The identity's cluster leads there, so a variable must not change
/// it later.
fn name_authorities(config: &Config, plugin: &mut Plugin, problems: &mut Problems<'_>) {
    let mut known: Vec<(&str, &str)> = Vec::new();
    for identity in &config.identities {
        let Source::Entra { authority, .. } = &identity.source else {
            continue;
        };
        let cluster = identity.cluster.as_str();
        match known.iter().find(|(other, _)| *other == cluster) {
            Some((_, other)) if other != authority => problems.add(
                &format!("{}.authority_host", identity.label()),
                format!("{authority:?} is not that of another identity with cluster {cluster:?}; use a cluster of its own"),
            ),
            _ => known.push((cluster, authority)),
        }
        let typed = match &identity.name {
            None => plugin.identity.as_mut(),
            Some(name) => plugin
                .identities
                .as_mut()
                .and_then(|named| named.get_mut(name)),
        };
        if let Some(typed) = typed {
            typed.authority_host = Some(format!("https://{authority}"));
        }
    }
}

/// Reads the configuration with the module's parser.
fn parse(value: &Value, form: Form, problems: &mut Problems<'_>) -> Option<Parsed> {
    let bytes = value.to_string();
    match Parsed::from_bytes(bytes.as_bytes(), &any_variable) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let before = problems.count();
            let is_list = form == Form::Backends;
            let (derived, own): (Vec<_>, Vec<_>) = error
                .problems()
                .iter()
                .partition(|problem| is_list && is_derived(problems, problem));
            for Found { path, fault } in own {
                problems.add(path, in_words_of(form, path, fault));
            }
            // A refusal must have at least one problem.
            if problems.count() == before {
                for Found { path, fault } in derived {
                    problems.add(path, in_words_of(form, path, fault));
                }
            }
            None
        }
    }
}

/// Whether a problem follows from another one: a missing name from a missing host, a missing cluster from a missing
/// name, a missing identity from invalid backends.
fn is_derived(problems: &Problems<'_>, problem: &Found) -> bool {
    let Found { path, fault } = problem;
    let is_missing = matches!(fault, Fault::Missing { .. });
    let filled_in = path == "identity" || path.ends_with(".name");
    filled_in && is_missing || path.ends_with(".cluster") && !problems.is_written(path)
}

/// The fault in words for the author of such a file.
fn in_words_of(form: Form, path: &str, fault: &Fault) -> Fault {
    match (form, fault) {
        (Form::Plugin, fault) => fault.clone(),
        (Form::Backends, Fault::Unknown { known }) => Fault::Unknown {
            known: [known, own_fields(path, known)].concat(),
        },
        (Form::Backends, Fault::Missing { why, form }) => Fault::Missing {
            why: why.clone(),
            form: with_example(path, form),
        },
        (Form::Backends, Fault::Refused { value, form }) => Fault::Refused {
            value: value.clone(),
            form: with_example(path, form),
        },
        (Form::Backends, Fault::Other(_)) => fault.clone(),
    }
}

/// The form of an object or of the list of backends, with an example.
fn with_example(path: &str, form: &str) -> String {
    if path == "backends" {
        return format!("{form} such as [{{host: contoso-eastus.openai.azure.com}}]");
    }
    if form != OBJECT {
        return form.to_owned();
    }
    let example = match path {
        "" => return LIST.to_owned(),
        "identity" => "{source: workload_identity}, or leave it out for IMDS",
        "state" => "{ids: plain}",
        "cooldown" => "{wait_timeout: 2s}, or null to switch cooldowns off",
        "retry" => "{max_attempts: 2}",
        "retry.budget" => "{percent: 20}, or null for retries without limit",
        "headers" => "{why: x-aoai-why}",
        "limits" => "{default: {tokens_per_minute: 10000}}, or null for none",
        "limits.default" => "{tokens_per_minute: 10000}",
        path if path.starts_with("limits.clients.") => {
            "{tokens_per_minute: 50000}, or null for no limits"
        }
        path if path.starts_with("backends[") => "{host: contoso-eastus.openai.azure.com}",
        path if path.starts_with("identities.") => {
            "{client_id: 11111111-2222-3333-4444-555555555555}"
        }
        _ => return form.to_owned(),
    };
    format!("{form} such as {example}")
}

/// The fields at `path` that only a list of backends has.
fn own_fields(path: &str, known: &[&str]) -> &'static [&'static str] {
    let Some((parent, _)) = path.rsplit_once('.') else {
        return &OWN;
    };
    if parent == "limits" {
        return &[SERVICE];
    }
    let is_identity = parent == "identity" || parent.starts_with("identities.");
    let is_backend = parent.starts_with("backends[") && parent.ends_with(']');
    match is_identity || is_backend {
        true if known.contains(&"token_file_cluster") => &[ENDPOINT, TOKEN_FILE, TOKEN_SOCKET],
        true => &[ENDPOINT],
        false => &[],
    }
}

/// A value for every variable, because variables need not be set where a file is checked. It is a URL where a list of
/// backends names one.
fn any_variable(name: &str) -> Option<String> {
    match name {
        "AZURE_TENANT_ID" | "AZURE_CLIENT_ID" => Some("set-when-it-runs".to_owned()),
        // The file states the backends' cloud itself.
        "AZURE_AUTHORITY_HOST" => None,
        _ => Some("http://set-when-it-runs".to_owned()),
    }
}

/// Checks the types of the tool, which accept every configuration that the parser accepts.
fn in_types(value: &Value, is_balancer: bool, problems: &mut Problems<'_>) -> Option<Plugin> {
    if !is_balancer || !problems.is_empty() {
        return None;
    }
    match typed::from_value::<Plugin>(value) {
        Ok(plugin) => Some(plugin),
        Err((path, fault)) => {
            problems.add(&path, fault);
            None
        }
    }
}
