//! The backends of a plugin configuration.

use core::time::Duration;

use serde_json::Value;

use super::fields::{backend, plugin};
use super::forms::read_variable;
use super::reader::{refused, Object, Problems};
use super::redact::redacted_text;
use super::{Deployments, Identity, Retry, Secret, MAX_BACKENDS, MAX_DEPLOYMENTS};
use crate::operation::Api;
use crate::prelude::*;
use crate::state::ids::Resource;

/// A host, for error messages.
pub(super) const HOST_FORM: &str =
    r#"a host name such as "contoso-eastus.openai.azure.com", without scheme or path"#;

/// A version of the dated API, for error messages.
pub(super) const VERSION_FORM: &str = r#"a version of the API such as "2024-10-21""#;

/// A prefix of paths, for error messages.
pub(super) const BASE_FORM: &str =
    r#"a path such as "/api/projects/contoso", without a slash at its end"#;

/// One Azure OpenAI resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// The name in response headers, statistics and logs.
    pub name: String,
    /// The Envoy cluster of this backend.
    pub cluster: String,
    /// The host name of the resource, sent as `:authority` on every attempt.
    pub host: String,
    /// The rank. Lower ranks come first: a backend serves only while every backend with a lower number is unavailable.
    pub priority: u8,
    /// The share of the requests within the priority.
    pub weight: u8,
    /// The time limit for the first byte of the backend's answer. The limit of an attempt applies if it is shorter.
    pub first_byte_timeout: Option<Duration>,
    /// The longest silence in an event stream. `None` applies `retry.stream_idle_timeout`.
    pub stream_idle_timeout: Option<Duration>,
    /// The deployments, by the names that clients use.
    pub deployments: Deployments,
    /// The version of the dated API that attempts request, in place of the client's.
    pub api_version: Option<String>,
    /// The prefix of the backend's paths, before `/openai`.
    pub base_path: Option<String>,
    /// The APIs that the backend has.
    pub apis: Apis,
    /// The credential that attempts send.
    pub credential: BackendCredential,
}

/// The credential that attempts on a backend send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendCredential {
    /// An API key.
    Key(Secret),
    /// The access token of the identity with this index.
    Identity(usize),
}

impl Default for BackendCredential {
    fn default() -> Self {
        Self::Identity(0)
    }
}

impl BackendCredential {
    /// The API key, if the credential is one.
    pub fn key(&self) -> Option<&Secret> {
        match self {
            Self::Key(key) => Some(key),
            Self::Identity(_) => None,
        }
    }
}

/// The APIs that a backend has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Apis {
    /// Every API, but Anthropic's only on hosts of Foundry.
    #[default]
    All,
    /// These APIs.
    Only(Vec<Api>),
}

impl Apis {
    /// Whether `api` is among these APIs.
    pub fn include(&self, api: Api) -> bool {
        match self {
            Self::All => true,
            Self::Only(apis) => apis.contains(&api),
        }
    }
}

impl Backend {
    /// The resource that has the backend's objects.
    pub fn resource(&self) -> Resource<'_> {
        Resource {
            host: &self.host,
            base_path: self.base_path.as_deref(),
        }
    }

    /// Whether the backend has this API according to the configuration.
    pub fn has(&self, api: Api) -> bool {
        match (&self.apis, api) {
            (Apis::All, Api::Messages) => is_of_foundry(&self.host),
            (apis, api) => apis.include(api),
        }
    }

    /// Whether paths of attempts differ from the paths of clients.
    pub fn renames(&self) -> bool {
        !self.deployments.is_empty() || self.api_version.is_some() || self.base_path.is_some()
    }

    /// Whether the configuration neither renames nor refuses any deployment.
    pub fn takes_any_deployment(&self) -> bool {
        self.deployments == Deployments::default()
    }

    /// The time limit for the first byte of an attempt on this backend.
    pub fn attempt_timeout(&self, retry: &Retry) -> Duration {
        let limit = self.first_byte_timeout.unwrap_or(retry.per_try_timeout);
        limit.min(retry.per_try_timeout)
    }
}

/// Whether `host` belongs to a Foundry resource.
fn is_of_foundry(host: &str) -> bool {
    const DOMAIN: &str = ".services.ai.azure.com";
    let domain = host.len().checked_sub(DOMAIN.len());
    let domain = domain.and_then(|at| host.get(at..));
    domain.is_some_and(|domain| domain.eq_ignore_ascii_case(DOMAIN))
}

/// Reads the list of backends. Backends without a key name one of `identities`.
#[inline(never)]
pub(super) fn read_backends(
    root: &Object<'_>,
    list: &Value,
    identities: &[Identity],
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Vec<Backend> {
    if let Some(too_many) = list.as_array().map(Vec::len).filter(|n| *n > MAX_BACKENDS) {
        root.problem(
            plugin::BACKENDS.name,
            format_args!("{too_many} backends are not allowed; use 1 to {MAX_BACKENDS}"),
        );
        return Vec::new();
    }
    let (mut names, mut clusters) = (Vec::new(), Vec::new());
    let elements = root.list(
        plugin::BACKENDS.name,
        list,
        "a list with at least one backend",
    );
    elements
        .filter_map(|(path, value)| {
            let mut object = Object::new(path, value, problems)?;
            let name = object.text(&backend::NAME);
            let cluster = object.text(&backend::CLUSTER);
            let host = object.text(&backend::HOST);
            check_new(&object, backend::NAME.name, &name, &mut names);
            check_new(&object, backend::CLUSTER.name, &cluster, &mut clusters);
            let priority = object.integer(&backend::PRIORITY);
            let weight = object.integer(&backend::WEIGHT);
            let first_byte_timeout = object.optional_duration(&backend::FIRST_BYTE_TIMEOUT);
            let stream_idle_timeout = object.optional_duration(&backend::STREAM_IDLE_TIMEOUT);
            let deployments = read_deployments(&mut object, problems);
            let api_version = object.text(&backend::API_VERSION);
            let base_path = object.text(&backend::BASE_PATH);
            let apis = read_apis(&mut object, problems);
            let credential = read_credential(&mut object, identities, environment);
            object.finish();
            Some(Backend {
                name: name?,
                cluster: cluster?,
                host: host?,
                priority: u8::try_from(priority).unwrap_or(u8::MAX),
                weight: u8::try_from(weight).unwrap_or(u8::MAX),
                first_byte_timeout,
                stream_idle_timeout,
                deployments,
                api_version,
                base_path,
                apis,
                credential: credential?,
            })
        })
        .collect()
}

/// Adds a problem if an earlier backend has the same value of the field `key`. `seen` has the values of earlier
/// backends.
#[inline(never)]
fn check_new(
    backend: &Object<'_>,
    key: &str,
    value: &Option<String>,
    seen: &mut Vec<Option<String>>,
) {
    if let Some(text) = value.as_ref().filter(|_| seen.contains(value)) {
        backend.problem(
            key,
            format_args!(
                "{} is used twice; use a different {key} for each backend",
                redacted_text(text)
            ),
        );
    }
    seen.push(value.clone());
}

#[inline(never)]
fn read_apis(object: &mut Object<'_>, problems: &Problems) -> Apis {
    let Some(list) = object.value(backend::APIS.name) else {
        return Apis::All;
    };
    let known = Api::ALL.map(Api::name).join(", ");
    let form = format!("a list of {known}");
    let names = object.list(backend::APIS.name, list, &form);
    let apis = names.filter_map(|(path, value)| {
        let api = value.as_str().and_then(Api::named);
        if api.is_none() {
            problems.add(&path, refused(value, &format!("one of {known}")));
        }
        api
    });
    Apis::Only(apis.collect())
}

/// The backend's credential: its key, or the token of the identity it names, or the token of `identity`.
#[inline(never)]
fn read_credential(
    object: &mut Object<'_>,
    identities: &[Identity],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<BackendCredential> {
    let named = object.text(&backend::IDENTITY);
    if object.has(backend::API_KEY_ENV.name) {
        if named.is_some() {
            object.problem(
                backend::IDENTITY.name,
                "not allowed beside api_key_env; use one of them",
            );
        }
        let key = read_variable(object, &backend::API_KEY_ENV, environment)?;
        return Some(BackendCredential::Key(Secret::new(key)));
    }
    object.value(backend::API_KEY_ENV.name);
    let index = identities
        .iter()
        .position(|identity| identity.name == named);
    if let (None, Some(name)) = (index, &named) {
        let problem = format!(
            "{} is not allowed; use the name of one of `identities`",
            redacted_text(name)
        );
        object.problem(backend::IDENTITY.name, problem);
    }
    // A configuration without any identity gets one problem, not one per backend.
    Some(BackendCredential::Identity(index.unwrap_or(usize::MAX)))
}

#[inline(never)]
fn read_deployments(object: &mut Object<'_>, problems: &Problems) -> Deployments {
    let mut deployments = Deployments::default();
    deployments.unlisted = object.choice(&backend::UNLISTED_DEPLOYMENTS);
    let Some(value) = object.value(backend::DEPLOYMENTS.name) else {
        return deployments;
    };
    let path = object.path_of(backend::DEPLOYMENTS.name);
    let Some(names) = value.as_object() else {
        problems.add(&path, refused(value, backend::DEPLOYMENTS.form));
        return deployments;
    };
    if names.len() > MAX_DEPLOYMENTS {
        let many = names.len();
        let problem = format!("{many} names are not allowed; use at most {MAX_DEPLOYMENTS}");
        problems.add(&path, problem);
        return deployments;
    }
    for (name, own) in names {
        match own.as_str() {
            Some(own) if is_deployment(name) && is_deployment(own) => {
                let mut same = names
                    .keys()
                    .filter(|other| other.eq_ignore_ascii_case(name));
                match same.next().filter(|first| *first != name) {
                    None => deployments.add(name, own),
                    Some(first) => {
                        let problem = format!(
                            "{name:?} differs from {first:?} only in case, and Azure ignores case; use one of them"
                        );
                        problems.add(&format!("{path}.{name}"), problem);
                    }
                }
            }
            _ => {
                let form = "names of 1 to 128 letters, digits, '-', '_' or '.' on both sides";
                problems.add(&format!("{path}.{name}"), refused(own, form));
            }
        }
    }
    deployments
}

fn is_deployment(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) fn is_base_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.ends_with('/')
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'))
}
