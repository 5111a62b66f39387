//! The input of a rendered configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use crate::SharedLimits;

/// Everything the Envoy configuration depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// The Azure OpenAI resources, in the order in which they appear in the file.
    pub backends: Vec<Backend>,
    /// The source of access tokens; `None` for a fleet without one.
    pub identity: Option<Identity>,
    /// The sources of backends' own identities, each through its own cluster.
    pub further_identities: Vec<Identity>,
    /// The authorities of Entra ID that give access tokens, each through a cluster of its own.
    pub authorities: Vec<Authority>,
    /// The token files of workload identity, each through a listener and a cluster of its own.
    pub token_files: Vec<TokenFile>,
    /// The listener for clients.
    pub listener: Listener,
    /// The listener of Envoy's admin interface.
    pub admin: Admin,
    /// The listener of the status page, if there is one.
    pub status: Option<Status>,
    /// The module's file, as Envoy finds it.
    pub module: PathBuf,
    /// The module's own configuration, written as JSON. A string is passed unchanged, so that a test can pass invalid
    /// JSON.
    pub plugin: Value,
    /// Environment variables for the module, with their values. Envoy's `/config_dump` shows them: for secrets use
    /// [`Fleet::host_environment`].
    pub environment: BTreeMap<String, String>,
    /// Names of Envoy's own environment variables that the module may read.
    pub host_environment: Vec<String>,
    /// The retry engine.
    pub engine: Engine,
    /// The authentication of clients.
    pub clients: Clients,
    /// The limits of clients that a rate limit service keeps for all Envoys together.
    pub limits: Option<SharedLimits>,
}

/// The request header that carries the client's name, unless the plugin names another.
pub const CLIENT_HEADER: &str = "x-aoai-client";

impl Fleet {
    /// The request header that carries the chosen cluster: the plugin's `headers.cluster`, or its default.
    pub fn cluster_header(&self) -> &str {
        self.header("cluster", "x-aoai-cluster")
    }

    /// The response header that names the backend: the plugin's `headers.backend`, or its default.
    pub fn backend_header(&self) -> &str {
        self.header("backend", "x-aoai-backend")
    }

    /// The response header that counts the attempts: the plugin's `headers.attempts`, or its default.
    pub fn attempts_header(&self) -> &str {
        self.header("attempts", "x-aoai-attempts")
    }

    /// The request header that carries the client's name: the plugin's `headers.client`, or [`CLIENT_HEADER`].
    pub fn client_header(&self) -> &str {
        self.header("client", CLIENT_HEADER)
    }

    /// The plugin's configuration with the facts that the route, the clusters and earlier filters also have, so that it
    /// cannot contradict them: the engine, the header with the client's name, and the settings left to Envoy.
    pub fn plugin_in_place(&self) -> Value {
        let mut plugin = self.plugin.clone();
        if self.clients != Clients::Open {
            let client = json!(self.client_header());
            if let Some(plugin) = plugin.as_object_mut() {
                let headers = plugin.entry("headers").or_insert_with(|| json!({}));
                if let Some(headers) = headers.as_object_mut() {
                    headers.insert("client".to_owned(), client);
                }
            }
        }
        if let Some(plugin) = plugin.as_object_mut() {
            if self.engine == Engine::Router {
                let retry = plugin.entry("retry").or_insert_with(|| json!({}));
                if let Some(retry) = retry.as_object_mut() {
                    retry.entry("engine").or_insert_with(|| json!("router"));
                }
            }
            match self.left_to_envoy() {
                nothing if nothing.is_empty() => plugin.remove("left_to_envoy"),
                some => plugin.insert("left_to_envoy".to_owned(), json!(some)),
            };
        }
        plugin
    }

    /// The authority of the backend with that name: its `host` in the plugin's configuration, which may have a port.
    pub(crate) fn authority<'a>(&'a self, backend: &'a Backend) -> &'a str {
        let backends = self.plugin["backends"].as_array();
        let configured = backends
            .into_iter()
            .flatten()
            .find(|other| other["name"] == backend.name.as_str());
        configured
            .and_then(|configured| configured["host"].as_str())
            .unwrap_or(&backend.host)
    }

    /// The settings left to Envoy: those of the plugin's configuration, or by default all possible ones. The time limit
    /// is not possible if backends have limits of their own, which only the module can pass to the router.
    pub fn left_to_envoy(&self) -> Vec<&str> {
        if let Some(configured) = self.plugin["left_to_envoy"].as_array() {
            return configured.iter().filter_map(Value::as_str).collect();
        }
        let own = self.plugin["backends"].as_array().is_some_and(|backends| {
            backends
                .iter()
                .any(|b| b.get("first_byte_timeout").is_some())
        });
        let timeout = (!own).then_some("timeout");
        timeout.into_iter().chain(["host"]).collect()
    }

    /// Whether this setting is left to Envoy.
    pub(crate) fn leaves(&self, what: &str) -> bool {
        self.left_to_envoy().contains(&what)
    }

    /// The time limit of an attempt until its headers, as Envoy writes durations, if the route has to set it.
    pub(crate) fn per_try_timeout(&self) -> Option<String> {
        if !self.leaves("timeout") {
            return None;
        }
        let limit = self.plugin["retry"].get("per_try_timeout");
        seconds(limit.map_or(Some("300s"), Value::as_str)?)
    }

    /// The most attempts of a request: the plugin's `retry.max_attempts`, or its default.
    pub(crate) fn max_attempts(&self) -> u64 {
        self.plugin["retry"]["max_attempts"].as_u64().unwrap_or(3)
    }

    fn header<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        match self.plugin["headers"][name].as_str() {
            Some(configured) if is_header_name(configured) => configured,
            _ => default,
        }
    }
}

/// A duration of the plugin's configuration in seconds, as Envoy writes it; `None` if it is invalid.
fn seconds(duration: &str) -> Option<String> {
    let unit_at = duration.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = duration.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    let seconds = number
        * match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
    // The plugin accepts whole milliseconds.
    Some(format!("{}s", (seconds * 1000.0).round() / 1000.0))
}

/// A header name becomes part of a format string, so only a valid one is accepted.
fn is_header_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// One Azure OpenAI resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The short name, as in the plugin's configuration.
    pub name: String,
    /// The Envoy cluster of the backend.
    pub cluster: String,
    /// The resource's host name: the server name in TLS, and the name that its certificate must have.
    pub host: String,
    /// The address: a host name, or an IP address.
    pub address: String,
    /// The port to connect to.
    pub port: u16,
    /// The TLS options; `None` for plain HTTP.
    pub tls: Option<TlsOptions>,
}

impl Backend {
    /// A resource as in Azure: TLS on port 443 of its host, in the cluster `aoai_<name>`.
    pub fn new(name: &str, host: &str) -> Self {
        Self {
            name: name.to_owned(),
            cluster: format!("aoai_{name}"),
            host: host.to_owned(),
            address: host.to_owned(),
            port: 443,
            tls: Some(TlsOptions::default()),
        }
    }

    /// The resource at another address.
    pub fn at(mut self, address: &str, port: u16) -> Self {
        self.address = address.to_owned();
        self.port = port;
        self
    }

    /// The resource with these TLS options; `None` for plain HTTP.
    pub fn tls(mut self, tls: Option<TlsOptions>) -> Self {
        self.tls = tls;
        self
    }
}

/// The check of a backend's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate authorities to trust; `None` for the system's.
    pub ca_file: Option<PathBuf>,
}

impl TlsOptions {
    /// The file of trusted certificate authorities: the given one, or the system's on Debian, Ubuntu and Envoy's
    /// images.
    pub fn authorities(&self) -> &Path {
        let system = Path::new("/etc/ssl/certs/ca-certificates.crt");
        self.ca_file.as_deref().unwrap_or(system)
    }
}

/// The endpoint that gives access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its host name or IP address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The Envoy cluster of the endpoint.
    pub cluster: String,
}

impl Identity {
    /// The instance metadata service of an Azure virtual machine, in the cluster `imds`.
    pub fn imds() -> Self {
        Self {
            address: "169.254.169.254".to_owned(),
            port: 80,
            cluster: "imds".to_owned(),
        }
    }

    /// The endpoint at another address.
    pub fn at(mut self, address: &str, port: u16) -> Self {
        self.address = address.to_owned();
        self.port = port;
        self
    }
}

/// An authority of Entra ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The Envoy cluster of the authority.
    pub cluster: String,
    /// The host name: the server name in TLS, and the name that its certificate must have.
    pub host: String,
    /// The address: a host name, or an IP address.
    pub address: String,
    /// The port to connect to.
    pub port: u16,
    /// The TLS options; `None` for plain HTTP.
    pub tls: Option<TlsOptions>,
}

/// A file with a token, which Envoy passes to the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// The name of the cluster through which the module requests it, and of the listener that answers.
    pub cluster: String,
    /// The file, as Envoy finds it.
    pub file: PathBuf,
    /// The unix socket between the two, which Envoy makes.
    pub socket: PathBuf,
}

/// The listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The IP address to listen on.
    pub address: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
    /// The certificate for clients; `None` for plain HTTP.
    pub tls: Option<Certificate>,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate chain, in PEM form.
    pub chain: PathBuf,
    /// Its private key, in PEM form.
    pub key: PathBuf,
}

/// The authentication of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// No authentication: everyone who reaches the listener is served.
    #[default]
    Open,
    /// By a key from a file. Envoy reads the file, and reads it again when another file is renamed to it; see
    /// [`crate::keys_file`].
    Keys {
        /// The file, as Envoy finds it.
        file: PathBuf,
    },
    /// By a signed token.
    Tokens(TokenIssuer),
}

/// The issuer of accepted tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The required `iss` of a token.
    pub issuer: String,
    /// The required `aud` of a token.
    pub audience: String,
    /// The claim that names the client.
    pub client_claim: String,
    /// The URL of the keys that sign tokens.
    pub jwks: String,
    /// The host of that URL.
    pub host: String,
    /// The port of that URL.
    pub port: u16,
    /// The TLS options; `None` for plain HTTP.
    pub tls: Option<TlsOptions>,
}

/// The listener of Envoy's admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The IP address to listen on.
    pub address: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

/// The listener of the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The IP address to listen on.
    pub address: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

/// The retry engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// The module sends the request again itself.
    #[default]
    Filter,
    /// Envoy's router retries along the module's plan. Envoy 1.39 or later.
    Router,
}

/// The shortest plugin configuration for these backends. All other fields keep their defaults.
pub fn minimal_plugin(backends: &[Backend], identity: Option<&Identity>) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|b| json!({"name": b.name, "cluster": b.cluster, "host": b.host}))
        .collect();
    match identity {
        Some(identity) => {
            json!({"backends": backends, "identity": {"cluster": identity.cluster}})
        }
        None => json!({"backends": backends}),
    }
}
