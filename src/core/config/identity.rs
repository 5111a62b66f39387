//! The identity of a plugin configuration.

use serde_json::Value;

use super::backends::{is_host, is_name, NAME_FORM};
use super::parse::{is_header_text, read_variable, CLUSTER_FORM};
use super::reader::{refused, Object, Problems};
use super::shown::shown_text;
use super::{Identity, Secret, Selector, Source};

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
            problems.add(
                &path,
                format_args!("{} is not allowed; use {NAME_FORM}", shown_text(name)),
            );
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
    let source_form = r#""imds" or "app_service""#;
    let kind = object
        .optional_string("source", source_form, |text| {
            matches!(text, "imds" | "app_service")
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
    let source = if kind == "app_service" {
        read_app_service(&mut object, environment)
    } else {
        let selector = read_selector(
            &mut object,
            &[
                ("client_id", "client_id"),
                ("object_id", "object_id"),
                ("msi_res_id", "msi_res_id"),
            ],
        );
        Some(Source::Imds { selector })
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
