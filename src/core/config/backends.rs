//! The backends of a plugin configuration.

use serde_json::Value;

use super::forms::{is_header_text, is_host, is_name, read_variable, CLUSTER_FORM, NAME_FORM};
use super::reader::{refused, Object, Problems};
use super::shown::shown_text;
use super::{
    Apis, Backend, BackendCredential, Deployments, Identity, Secret, Unlisted, MAX_BACKENDS,
    MAX_DEPLOYMENTS,
};
use crate::operation::Api;
use crate::prelude::*;

const HOST_FORM: &str =
    r#"a host name such as "contoso-eastus.openai.azure.com", without scheme or path"#;

/// Reads the list of backends, whose tokens are those of `identities`.
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
            "backends",
            format_args!("{too_many} backends are not allowed; use 1 to {MAX_BACKENDS}"),
        );
        return Vec::new();
    }
    let (mut names, mut clusters) = (Vec::new(), Vec::new());
    let elements = root.list("backends", list, "a list with at least one backend");
    elements
        .filter_map(|(path, value)| {
            let mut object = Object::new(path, value, problems)?;
            let name = object.required_string("name", NAME_FORM, is_name);
            let cluster = object.required_string("cluster", CLUSTER_FORM, is_header_text);
            let host = object.required_string("host", HOST_FORM, is_host);
            check_new(&object, "name", &name, &mut names);
            check_new(&object, "cluster", &cluster, &mut clusters);
            let priority = object.integer("priority", 0..=255, 0);
            let weight = object.integer("weight", 1..=100, 1);
            let first_byte_timeout = object.optional_duration("first_byte_timeout", "100ms"..="1h");
            let stream_idle_timeout = object.optional_duration("stream_idle_timeout", "1s"..="15m");
            let deployments = read_deployments(&mut object, problems);
            let version_form = r#"a version of the API such as "2024-10-21""#;
            let api_version = object.optional_string("api_version", version_form, is_name);
            let base_form = r#"a path such as "/api/projects/contoso", without a slash at its end"#;
            let base_path = object.optional_string("base_path", base_form, is_base_path);
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

/// Whether the field `key` is another one for each backend, those before this having what is `seen`.
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
                "{} stands twice; use a different {key} for each backend",
                shown_text(text)
            ),
        );
    }
    seen.push(value.clone());
}

#[inline(never)]
fn read_apis(backend: &mut Object<'_>, problems: &Problems) -> Apis {
    let Some(list) = backend.value("apis") else {
        return Apis::All;
    };
    let known = Api::ALL.map(Api::name).join(", ");
    let form = format!("a list of {known}");
    let names = backend.list("apis", list, &form);
    let apis = names.filter_map(|(path, value)| {
        let api = value.as_str().and_then(Api::named);
        if api.is_none() {
            problems.add(&path, refused(value, &format!("one of {known}")));
        }
        api
    });
    Apis::Only(apis.collect())
}

/// What is shown to the backend: its key; or else the token of the identity it names, or of the one that has no name.
#[inline(never)]
fn read_credential(
    backend: &mut Object<'_>,
    identities: &[Identity],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<BackendCredential> {
    let named = backend.optional_string("identity", "the name of one of `identities`", |_| true);
    if backend.has("api_key_env") {
        if named.is_some() {
            backend.problem(
                "identity",
                "not allowed beside api_key_env; use one of them",
            );
        }
        let key = read_variable(backend, "api_key_env", "", environment)?;
        return Some(BackendCredential::Key(Secret::new(key)));
    }
    backend.value("api_key_env");
    let index = identities
        .iter()
        .position(|identity| identity.name == named);
    if let (None, Some(name)) = (index, &named) {
        let problem = format!(
            "{} is not allowed; use the name of one of `identities`",
            shown_text(name)
        );
        backend.problem("identity", problem);
    }
    // That there is no identity at all is said once, not for every backend.
    Some(BackendCredential::Identity(index.unwrap_or(usize::MAX)))
}

#[inline(never)]
fn read_deployments(backend: &mut Object<'_>, problems: &Problems) -> Deployments {
    let form = r#""pass" or "refuse""#;
    let unlisted = backend.optional_string("unlisted_deployments", form, |text| {
        matches!(text, "pass" | "refuse")
    });
    let mut deployments = Deployments::default();
    if unlisted.as_deref() == Some("refuse") {
        deployments.unlisted = Unlisted::Refuse;
    }
    let Some(value) = backend.value("deployments") else {
        return deployments;
    };
    let path = backend.path_of("deployments");
    let Some(names) = value.as_object() else {
        problems.add(
            &path,
            refused(value, r#"an object such as {"gpt-4o": "gpt-4o-eu"}"#),
        );
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
                            "{name:?} differs from {first:?} only by upper and lower case, which Azure does not tell apart; use one of them"
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

fn is_base_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.ends_with('/')
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'))
}
