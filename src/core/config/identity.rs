//! Identities: the sources of access tokens.

use core::time::Duration;

use serde_json::Value;

use super::field::Text;
use super::fields::{identity, plugin};
use super::forms::{is_host, is_name, read_variable, NAME_FORM};
use super::problem::Fault;
use super::reader::{refused, Object, Problems};
use super::Secret;
use crate::prelude::*;

/// The most identities one configuration may name.
const MAX_IDENTITIES: usize = 20;

/// The managed identity whose tokens the backends accept.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name in `identities`. `None` for `identity`, which has no name.
    pub name: Option<String>,
    /// The token service and its parameters.
    pub source: Source,
    /// The Envoy cluster of the token service.
    pub cluster: String,
    /// The audience of the token.
    pub resource: String,
    /// How long a request may wait for the first token.
    pub wait_timeout: Duration,
    /// The time limit for fetching a token, for all of its calls together.
    pub fetch_timeout: Duration,
}

impl Identity {
    /// The path of this identity in the configuration.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("identities.{name}"),
            None => "identity".to_owned(),
        }
    }
}

/// A token service.
#[derive(Clone, Debug)]
pub enum Source {
    /// The instance metadata service of virtual machines and AKS nodes.
    Imds {
        /// The identity to use. `None` selects the only identity or the system-assigned one.
        selector: Option<Selector>,
    },
    /// The endpoint that App Service, Container Apps and Functions offer.
    AppService {
        /// The endpoint's `host:port`.
        authority: String,
        /// The endpoint's path.
        path: String,
        /// The secret that proves to the endpoint that the caller runs in this app.
        secret: Secret,
        /// The identity to use. `None` selects the only identity or the system-assigned one.
        selector: Option<Selector>,
    },
    /// The token endpoint of Entra ID.
    Entra {
        /// The host of the authority, such as `login.microsoftonline.com`, with an optional port.
        authority: String,
        /// The tenant's id or domain.
        tenant: String,
        /// The application's client id.
        client_id: String,
        /// The proof that the caller is the application.
        proof: Proof,
    },
}

/// An application's proof of identity for Entra ID.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A Kubernetes token, which Kubernetes writes to a file.
    TokenFile {
        /// The Envoy cluster that answers with the content of the file.
        cluster: String,
    },
    /// A client secret.
    Secret(Secret),
}

/// The query parameter by which a token service chooses among user-assigned identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The name: `client_id`, `object_id`, `principal_id`, `msi_res_id` or `mi_res_id`.
    pub parameter: &'static str,
    /// The id of the identity.
    pub value: String,
}

/// The token services, as `identity.source` names them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum SourceKind {
    #[default]
    Imds,
    AppService,
    WorkloadIdentity,
    ClientSecret,
}

// The forms of fields, for error messages.
pub(super) const AUDIENCE_FORM: &str =
    r#"the audience of the token, such as "https://cognitiveservices.azure.com""#;
pub(super) const ID_FORM: &str = "the id of an identity";
pub(super) const TENANT_FORM: &str = "the id of the tenant";
pub(super) const AUTHORITY_FORM: &str = r#"a host such as "https://login.microsoftonline.com""#;
pub(super) const TOKEN_FILE_FORM: &str =
    "the name of an Envoy cluster that answers with the token file";

/// Reads `identity`, which has no name, and the named `identities`.
#[inline(never)]
pub(super) fn read_identities(
    root: &mut Object<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Vec<Identity> {
    let mut identities = Vec::new();
    if let Some(value) = root.value(plugin::IDENTITY.name) {
        let path = root.path_of(plugin::IDENTITY.name);
        identities.extend(read_identity(path, None, value, environment, problems));
    }
    let Some(value) = root.value(plugin::IDENTITIES.name) else {
        return identities;
    };
    let form = r#"an object such as {"research": {"cluster": "imds", "client_id": "..."}}"#;
    let named = value.as_object().filter(|named| !named.is_empty());
    let Some(named) = named.filter(|named| named.len() <= MAX_IDENTITIES) else {
        let form = format!("{form}, of 1 to {MAX_IDENTITIES} names");
        root.problem(plugin::IDENTITIES.name, refused(value, &form));
        return identities;
    };
    for (name, value) in named {
        let path = format!("{}.{name}", root.path_of(plugin::IDENTITIES.name));
        if !is_name(name) {
            problems.add(&path, refused(&Value::from(name.as_str()), NAME_FORM));
            continue;
        }
        let name = Some(name.clone());
        identities.extend(read_identity(path, name, value, environment, problems));
    }
    identities
}

/// Reads one identity.
fn read_identity(
    path: String,
    name: Option<String>,
    value: &Value,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Option<Identity> {
    let mut object = Object::new(path, value, problems)?;
    let kind = object.choice(&identity::SOURCE);
    let cluster = object.text(&identity::CLUSTER);
    // The default follows from the backends' hosts, which are read later.
    let resource = object.text(&identity::RESOURCE).unwrap_or_default();
    let wait_timeout = object.duration(&identity::WAIT_TIMEOUT);
    let fetch_timeout = object.duration(&identity::FETCH_TIMEOUT);
    let source = match kind {
        SourceKind::AppService => read_app_service(&mut object, environment),
        SourceKind::WorkloadIdentity | SourceKind::ClientSecret => {
            read_entra(&mut object, kind, environment)
        }
        SourceKind::Imds => {
            let selector = read_selector(
                &mut object,
                &[
                    (&identity::CLIENT_ID, "client_id"),
                    (&identity::OBJECT_ID, "object_id"),
                    (&identity::MSI_RES_ID, "msi_res_id"),
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
    let endpoint = read_variable(object, &identity::ENDPOINT_ENV, environment);
    let secret = read_variable(object, &identity::HEADER_ENV, environment);
    // The two token services spell these differently; the configuration follows the service.
    let selector = read_selector(
        object,
        &[
            (&identity::CLIENT_ID, "client_id"),
            (&identity::OBJECT_ID, "principal_id"),
            (&identity::MI_RES_ID, "mi_res_id"),
        ],
    );
    let endpoint = endpoint?;
    let Some((authority, path)) = split_url(&endpoint) else {
        // The variable's value may be a secret, so the message omits it.
        let problem = r#"the variable's value is not a URL; use one such as "http://localhost:42356/msi/token""#;
        object.problem(identity::ENDPOINT_ENV.name, problem);
        return None;
    };
    Some(Source::AppService {
        authority: authority.to_owned(),
        path: path.to_owned(),
        secret: Secret::new(secret?),
        selector,
    })
}

/// Reads an application of Entra ID. Omitted fields come from the variables that the webhook of Azure Workload Identity
/// sets: <https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html>.
#[inline(never)]
fn read_entra(
    object: &mut Object<'_>,
    kind: SourceKind,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Source> {
    let tenant = read_or_variable(
        object,
        &identity::TENANT_ID,
        "AZURE_TENANT_ID",
        TENANT_FORM,
        environment,
    );
    let client_id = read_or_variable(
        object,
        &identity::CLIENT_ID,
        "AZURE_CLIENT_ID",
        "the client id of the application or the managed identity",
        environment,
    );
    let given = object.text(&identity::AUTHORITY_HOST);
    // Without either, the default follows from the backends' cloud. Their hosts are read later.
    let authority = given.or_else(|| environment("AZURE_AUTHORITY_HOST"));
    let authority = match authority.as_deref().map(authority_of) {
        Some(None) => {
            object.problem(
                identity::AUTHORITY_HOST.name,
                format_args!(
                    "the variable AZURE_AUTHORITY_HOST is not a host; use {AUTHORITY_FORM}"
                ),
            );
            None
        }
        found => Some(found.flatten().unwrap_or_default().to_owned()),
    };
    let proof = if kind == SourceKind::ClientSecret {
        let secret = read_variable(object, &identity::CLIENT_SECRET_ENV, environment);
        secret.map(|secret| Proof::Secret(Secret::new(secret)))
    } else {
        let cluster = object.text(&identity::TOKEN_FILE_CLUSTER);
        cluster.map(|cluster| Proof::TokenFile { cluster })
    };
    Some(Source::Entra {
        authority: authority?,
        tenant: tenant?,
        client_id: client_id?,
        proof: proof?,
    })
}

/// The value of `field`, or of the environment variable if the field is omitted.
fn read_or_variable(
    object: &mut Object<'_>,
    field: &Text,
    variable: &str,
    form: &'static str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let field = &Text { form, ..*field };
    if object.has(field.name) {
        return object.text(field);
    }
    // Marks the absent field as known.
    object.value(field.name);
    let value = environment(variable).filter(|value| !value.is_empty() && (field.accept)(value));
    if value.is_none() {
        let fault = Fault::Missing {
            why: Some(format!(
                "the variable {variable:?} is not set or has the wrong form"
            )),
            form: format!("{form}, or set the variable in vm_config.environment_variables"),
        };
        object.problem(field.name, fault);
    }
    value
}

/// Whether a text is a tenant's id or domain. It becomes a part of a path.
pub(super) fn is_tenant(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

/// Whether a text names the host of Entra ID.
pub(super) fn is_authority(text: &str) -> bool {
    authority_of(text).is_some()
}

/// The host of an authority, with or without the scheme and a final slash.
fn authority_of(text: &str) -> Option<&str> {
    let host = text.strip_prefix("https://").unwrap_or(text);
    let host = host.strip_suffix('/').unwrap_or(host);
    (!host.is_empty() && is_host(host)).then_some(host)
}

/// Reads the id of an identity from one of the fields in `spellings`. Each field is paired with its query parameter.
fn read_selector(object: &mut Object<'_>, spellings: &[(&Text, &'static str)]) -> Option<Selector> {
    let mut found: Option<(&'static str, Selector)> = None;
    for &(field, parameter) in spellings {
        let Some(value) = object.text(field) else {
            continue;
        };
        match &found {
            Some((first, _)) => object.problem(
                field.name,
                format_args!("not allowed beside {first}; use one of them"),
            ),
            None => found = Some((field.name, Selector { parameter, value })),
        }
    }
    found.map(|(_, selector)| selector)
}

/// The authority and the path of an `http` or `https` URL. The default path is `/`.
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
