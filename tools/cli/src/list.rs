//! The list of backends: a plugin configuration without the derivable fields, and with fields of its own that the
//! plugin does not need.
//!
//! Every field of the plugin is also a field of the list, so a new one needs no change here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::plugin::Engine;
use crate::strict::{object, optional, optional_object, refused};

/// The fields of the list of backends that the plugin does not have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Own {
    /// The retry engine: Envoy's router, or the filter itself.
    #[serde(deserialize_with = "engine")]
    #[schemars(extend("default" = "router"))]
    pub engine: Option<Engine>,
    /// The listener for clients.
    #[serde(deserialize_with = "object")]
    pub listener: Listener,
    /// The listener of Envoy's admin interface.
    #[serde(deserialize_with = "object")]
    pub admin: Admin,
    /// The listener of the status page. By default there is none.
    #[serde(deserialize_with = "optional_object")]
    pub status: Option<Status>,
    /// The authentication of clients. By default they need a key from `/etc/envoy/clients.yaml`.
    #[serde(deserialize_with = "object")]
    pub clients: Clients,
    /// The module's file, as Envoy finds it.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "/etc/envoy/azure_openai_balancer.wasm"))]
    pub module: Option<FilePath>,
    /// The trust in certificates of backends, Entra ID and other servers.
    #[serde(deserialize_with = "object")]
    pub tls: Trust,
    /// Settings for Kubernetes only.
    #[serde(deserialize_with = "object")]
    pub kubernetes: Kubernetes,
}

/// The names of [`Own`]'s fields.
pub const OWN: [&str; 8] = [
    "engine",
    "listener",
    "admin",
    "status",
    "clients",
    "module",
    "tls",
    "kubernetes",
];

/// The field that backends and identities have in addition to the plugin's own.
pub const ENDPOINT: &str = "endpoint";

/// The field of an identity with the file of its token, with source `workload_identity`.
pub const TOKEN_FILE: &str = "token_file";

/// The field of an identity with the unix socket by which the module gets the file.
pub const TOKEN_SOCKET: &str = "token_socket";

/// The listener for clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// The IP address to listen on.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "0.0.0.0"))]
    pub address: Option<IpAddress>,
    /// The port to listen on.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = 10000))]
    pub port: Option<Port>,
    /// The certificate. Without it the listener speaks plain HTTP.
    #[serde(deserialize_with = "optional_object")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// The configured port, or the default.
    pub(crate) fn port(&self) -> u16 {
        self.port.as_ref().map_or(10000, |port| port.0)
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The file of the certificate chain, in PEM form.
    pub certificate: FilePath,
    /// The file of its private key, in PEM form.
    pub key: FilePath,
}

/// The listener of Envoy's admin interface.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The IP address to listen on.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "127.0.0.1"))]
    pub address: Option<IpAddress>,
    /// The port to listen on.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = 9901))]
    pub port: Option<Port>,
}

impl Admin {
    /// The configured port, or the default.
    pub(crate) fn port(&self) -> u16 {
        self.port.as_ref().map_or(9901, |port| port.0)
    }
}

/// The listener of the status page.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The IP address to listen on. The page has no login.
    #[serde(default, deserialize_with = "optional")]
    #[schemars(extend("default" = "127.0.0.1"))]
    pub address: Option<IpAddress>,
    /// The port to listen on.
    pub port: Port,
}

/// The authentication of clients: by the keys of a file, or by tokens of Entra ID.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// The file of keys, as Envoy finds it. `azure-openai-balancer keys` makes it. By default
    /// `/etc/envoy/clients.yaml`.
    #[serde(deserialize_with = "optional")]
    pub keys_file: Option<FilePath>,
    /// The tenant whose tokens are accepted instead of keys.
    #[serde(deserialize_with = "optional_object")]
    pub entra_id: Option<EntraId>,
}

/// Tokens of Entra ID.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraId {
    /// The tenant's id.
    pub tenant: Word,
    /// The audience of tokens: the client id, or the URI, of the application that stands for this gateway.
    pub audience: Word,
    /// The claim that names the client: `azp` in tokens of version 2, `appid` in those of version 1.
    #[serde(default, deserialize_with = "optional")]
    #[schemars(extend("default" = "azp"))]
    pub client_claim: Option<Word>,
    /// The issuer of the tokens; by default `https://login.microsoftonline.com/TENANT/v2.0`.
    #[serde(default, deserialize_with = "optional")]
    pub issuer: Option<Endpoint>,
    /// The address of the keys that sign tokens; by default
    /// `https://login.microsoftonline.com/TENANT/discovery/v2.0/keys`.
    #[serde(default, deserialize_with = "optional")]
    pub jwks: Option<Endpoint>,
}

/// The trust in certificates of servers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    /// The file of the certificate authorities that Envoy trusts, as Envoy finds it, in PEM form. The default is that of Debian, Ubuntu
    /// and Envoy's images; Red Hat has `/etc/pki/tls/certs/ca-bundle.crt`, Alpine `/etc/ssl/cert.pem`.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "/etc/ssl/certs/ca-certificates.crt"))]
    pub trusted_ca: Option<FilePath>,
}

/// Settings for Kubernetes only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// The namespace of all rendered resources.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "azure-openai"))]
    pub namespace: Option<KubernetesName>,
    /// The image that holds the module.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "ghcr.io/contoso/azure-openai-balancer:0.1.0"))]
    pub image: Option<Word>,
    /// The host name that clients use.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "openai.example.com"))]
    pub host: Option<Word>,
    /// The Gateway's name. With Istio, also the value of the `istio` label of its pods.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "azure-openai"))]
    pub gateway: Option<KubernetesName>,
    /// The Secret with the certificate for clients.
    #[serde(deserialize_with = "optional")]
    #[schemars(extend("default" = "azure-openai-tls"))]
    pub tls_secret: Option<KubernetesName>,
}

/// The names of the engines, for error messages.
const ENGINE_FORM: &str = r#""filter" or "router""#;

fn engine<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Engine>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    let engine = value.as_str().and_then(Engine::named);
    let problem = || serde::de::Error::custom(refused(&value, ENGINE_FORM));
    engine.map(Some).ok_or_else(problem)
}

/// A text that is checked while it is parsed.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident($inner:ty), $form:expr, $pattern:expr, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(from)?;
                let parse: fn(&serde_json::Value) -> Option<$inner> = $parse;
                parse(&value).map(Self).ok_or_else(|| {
                    serde::de::Error::custom(refused(&value, $form))
                })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $pattern
            }
        }
    };
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

checked! {
    /// A text without spaces.
    Word(String), "a text without spaces", json_schema!({"type": "string", "pattern": "^[!-~]+$"}),
    |value| value.as_str().filter(|text| is_word(text)).map(str::to_owned)
}

fn is_kubernetes_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let is_edge = |b: Option<u8>| b.is_some_and(|b| inner(b) && b.is_ascii_alphanumeric());
    let edges = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= 253 && text.bytes().all(inner) && edges.into_iter().all(is_edge)
}

checked! {
    /// A name that Kubernetes takes.
    KubernetesName(String), "lower-case letters, digits, '-' and '.', such as \"azure-openai\"",
    json_schema!({"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}),
    |value| value.as_str().filter(|text| is_kubernetes_name(text)).map(str::to_owned)
}

checked! {
    /// The path of a file.
    FilePath(PathBuf), "the path of a file", json_schema!({"type": "string", "minLength": 1}),
    |value| value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from)
}

checked! {
    /// An IP address.
    IpAddress(std::net::IpAddr), r#"an IP address such as "0.0.0.0" or "127.0.0.1""#, json_schema!({"type": "string"}),
    |value| value.as_str()?.parse().ok()
}

checked! {
    /// A port.
    Port(u16), "a port from 1 to 65535", json_schema!({"type": "integer", "minimum": 1, "maximum": 65535}),
    |value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

checked! {
    /// The address of a server.
    Endpoint(Url), r#"a URL such as "https://10.0.0.4" or "http://127.0.0.1:8080""#,
    json_schema!({"type": "string", "pattern": r#"^https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[!-~]*)?$"#}),
    |value| value.as_str()?.parse().ok()
}

/// An `http` or `https` URL, reduced to the parts in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    /// A host name or an IPv4 address.
    pub host: String,
    /// The port, explicit or implied.
    pub port: u16,
    /// The path, starting with a slash; empty if there is none.
    pub path: String,
}

impl FromStr for Url {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").ok_or(())?),
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or(())?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        if host.is_empty() || !host.bytes().all(is_host) || !(path.is_empty() || is_word(path)) {
            return Err(());
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tls,
            host,
            port,
            path,
        } = self;
        let scheme = if *tls { "https" } else { "http" };
        match (tls, port) {
            (true, 443) | (false, 80) => write!(f, "{scheme}://{host}{path}"),
            _ => write!(f, "{scheme}://{host}:{port}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, url) in [
            ("https://10.0.0.4", Some((true, "10.0.0.4", 443, ""))),
            (
                "http://127.0.0.1:8080/",
                Some((false, "127.0.0.1", 8080, "/")),
            ),
            ("http://a/b?c", Some((false, "a", 80, "/b?c"))),
            ("10.0.0.4", None),
            ("ftp://a", None),
            ("http://", None),
            ("http://a:0", None),
            ("http://a:70000", None),
            ("http://a b", None),
            ("http://u@a", None),
        ] {
            let parsed = text.parse::<Url>().ok();
            let parts = parsed
                .as_ref()
                .map(|u| (u.tls, u.host.as_str(), u.port, u.path.as_str()));
            assert_eq!(parts, url, "{text}");
            if let Some(url) = parsed {
                assert_eq!(url.to_string(), text);
            }
        }
    }
}
