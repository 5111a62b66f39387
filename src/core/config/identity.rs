//! The identity of a plugin configuration.

use serde_json::Value;

use super::forms::{is_header_text, is_host, is_name, read_variable, CLUSTER_FORM, NAME_FORM};
use super::problem::Fault;
use super::reader::{refused, Object, Problems};
use super::{Identity, Proof, Secret, Selector, Source};
use crate::prelude::*;

/// The most identities one configuration may name.
const MAX_IDENTITIES: usize = 20;

/// Reads the identities: `identity`, which has no name, and those that `identities` names.
#[inline(never)]
pub(super) fn read_identities(
    root: &mut Object<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Vec<Identity> {
    let mut identities = Vec::new();
    if let Some(value) = root.value("identity") {
        let path = root.path_of("identity");
        identities.extend(read_identity(path, None, value, environment, problems));
    }
    let Some(value) = root.value("identities") else {
        return identities;
    };
    let form = r#"an object such as {"research": {"cluster": "imds", "client_id": "..."}}"#;
    let named = value.as_object().filter(|named| !named.is_empty());
    let Some(named) = named.filter(|named| named.len() <= MAX_IDENTITIES) else {
        let form = format!("{form}, of 1 to {MAX_IDENTITIES} names");
        root.problem("identities", refused(value, &form));
        return identities;
    };
    for (name, value) in named {
        let path = format!("{}.{name}", root.path_of("identities"));
        if !is_name(name) {
            problems.add(&path, refused(&Value::from(name.as_str()), NAME_FORM));
            continue;
        }
        let name = Some(name.clone());
        identities.extend(read_identity(path, name, value, environment, problems));
    }
    identities
}

/// Reads where tokens come from.
fn read_identity(
    path: String,
    name: Option<String>,
    value: &Value,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Option<Identity> {
    let mut object = Object::new(path, value, problems)?;
    let source_form = r#""imds", "app_service", "workload_identity" or "client_secret""#;
    let kind = object
        .optional_string("source", source_form, |text| {
            matches!(
                text,
                "imds" | "app_service" | "workload_identity" | "client_secret"
            )
        })
        .unwrap_or_else(|| "imds".to_owned());
    let cluster = object.required_string("cluster", CLUSTER_FORM, is_header_text);
    let resource = object
        .optional_string(
            "resource",
            r#"the audience of the token, such as "https://cognitiveservices.azure.com""#,
            is_header_text,
        )
        // The hosts of the backends decide, which are read later.
        .unwrap_or_default();
    let wait_timeout = object.duration("wait_timeout", "0s"..="60s", "5s");
    let fetch_timeout = object.duration("fetch_timeout", "100ms"..="60s", "5s");
    let source = match kind.as_str() {
        "app_service" => read_app_service(&mut object, environment),
        "workload_identity" | "client_secret" => read_entra(&mut object, &kind, environment),
        _ => {
            let selector = read_selector(
                &mut object,
                &[
                    ("client_id", "client_id"),
                    ("object_id", "object_id"),
                    ("msi_res_id", "msi_res_id"),
                ],
            );
            Some(Source::Imds { selector })
        }
    };
    object.finish();
    Some(Identity {
        name,
        source: source?,
        cluster: cluster?,
        resource,
        wait_timeout,
        fetch_timeout,
    })
}

fn read_app_service(
    object: &mut Object<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Source> {
    let endpoint = read_variable(object, "endpoint_env", "IDENTITY_ENDPOINT", environment);
    let secret = read_variable(object, "header_env", "IDENTITY_HEADER", environment);
    // The two token services spell these differently; the configuration follows the service.
    let selector = read_selector(
        object,
        &[
            ("client_id", "client_id"),
            ("object_id", "principal_id"),
            ("mi_res_id", "mi_res_id"),
        ],
    );
    let endpoint = endpoint?;
    let Some((authority, path)) = split_url(&endpoint) else {
        // What it holds may be a secret that is under the wrong name.
        let problem =
            r#"the variable holds no URL; use one such as "http://localhost:42356/msi/token""#;
        object.problem("endpoint_env", problem);
        return None;
    };
    Some(Source::AppService {
        authority: authority.to_owned(),
        path: path.to_owned(),
        secret: Secret::new(secret?),
        selector,
    })
}

/// Reads what Entra ID has to know of an application. What is left out comes from the variables that the webhook of Azure Workload
/// Identity sets: <https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html>.
#[inline(never)]
fn read_entra(
    object: &mut Object<'_>,
    kind: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Source> {
    let tenant = read_or_variable(
        object,
        "tenant_id",
        "AZURE_TENANT_ID",
        "the id of the tenant",
        is_tenant,
        environment,
    );
    let client_id = read_or_variable(
        object,
        "client_id",
        "AZURE_CLIENT_ID",
        "the client id of the application or the managed identity",
        is_header_text,
        environment,
    );
    let authority_form = r#"a host such as "https://login.microsoftonline.com""#;
    let given = object.optional_string("authority_host", authority_form, |text| {
        authority_of(text).is_some()
    });
    // The cloud of the backends decides, whose hosts are read later, if neither names one.
    let authority = given.or_else(|| environment("AZURE_AUTHORITY_HOST"));
    let authority = match authority.as_deref().map(authority_of) {
        Some(None) => {
            object.problem(
                "authority_host",
                format_args!(
                    "the variable AZURE_AUTHORITY_HOST holds no host; use {authority_form}"
                ),
            );
            None
        }
        found => Some(found.flatten().unwrap_or_default().to_owned()),
    };
    let proof = if kind == "client_secret" {
        let secret = read_variable(
            object,
            "client_secret_env",
            "AZURE_CLIENT_SECRET",
            environment,
        );
        secret.map(|secret| Proof::Secret(Secret::new(secret)))
    } else {
        let form = "the name of an Envoy cluster that answers with the token file";
        let cluster = object.required_string("token_file_cluster", form, is_header_text);
        cluster.map(|cluster| Proof::TokenFile { cluster })
    };
    Some(Source::Entra {
        authority: authority?,
        tenant: tenant?,
        client_id: client_id?,
        proof: proof?,
    })
}

/// A field, or the variable that stands for it.
fn read_or_variable(
    object: &mut Object<'_>,
    key: &'static str,
    variable: &str,
    form: &str,
    accept: fn(&str) -> bool,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    if object.has(key) {
        return object.optional_string(key, form, accept);
    }
    // Known, although it is not there.
    object.value(key);
    let value = environment(variable).filter(|value| !value.is_empty() && accept(value));
    if value.is_none() {
        let fault = Fault::Missing {
            why: Some(format!(
                "the variable {variable:?} is not set or not of the right form"
            )),
            form: format!("{form}, or set the variable in vm_config.environment_variables"),
        };
        object.problem(key, fault);
    }
    value
}

/// Whether a text is a tenant's id or domain, which becomes a part of a path.
fn is_tenant(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

/// The host of an authority, which is written with or without scheme and slash.
fn authority_of(text: &str) -> Option<&str> {
    let host = text.strip_prefix("https://").unwrap_or(text);
    let host = host.strip_suffix('/').unwrap_or(host);
    (!host.is_empty() && is_host(host)).then_some(host)
}

/// At most one of the fields in `spellings` (the field, the query parameter it becomes).
fn read_selector(
    object: &mut Object<'_>,
    spellings: &[(&'static str, &'static str)],
) -> Option<Selector> {
    let mut found: Option<(&'static str, Selector)> = None;
    for &(key, parameter) in spellings {
        let Some(value) = object.optional_string(key, "the id of an identity", is_header_text)
        else {
            continue;
        };
        match &found {
            Some((first, _)) => object.problem(
                key,
                format_args!("not allowed beside {first}; use one of them"),
            ),
            None => found = Some((key, Selector { parameter, value })),
        }
    }
    found.map(|(_, selector)| selector)
}

/// The authority and the path of an `http` URL; the path is `/` where there is none.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at_checked(at)?,
        None => (rest, "/"),
    };
    (!authority.is_empty() && is_host(authority)).then_some((authority, path))
}
