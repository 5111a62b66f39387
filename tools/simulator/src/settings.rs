//! Settings of a simulator.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::azure::Api;

/// The settings of a [`Simulator`](crate::Simulator).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The simulated Azure OpenAI resources, with unique names.
    pub backends: Vec<BackendSettings>,
    /// The identity endpoint.
    pub imds: ImdsSettings,
    /// The port of the admin endpoint; `None` for no endpoint, 0 for a free port.
    pub admin_port: Option<u16>,
    /// The address of all listeners.
    pub bind: IpAddr,
    /// Whether backends check credentials.
    pub auth: Auth,
    /// The number of requests that each service remembers; 0 only counts them.
    pub audit_limit: usize,
    /// Whether bodies are kept and hashed. Benchmarks switch this off.
    pub audit_bodies: bool,
    /// The threads of the simulator's own runtime.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            imds: ImdsSettings::default(),
            admin_port: None,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auth: Auth::On,
            audit_limit: 100_000,
            audit_bodies: true,
            threads: 2,
        }
    }
}

/// A simulated Azure OpenAI resource. Backends with equal host and base path are one resource, and have the same
/// objects.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// The name, for tests and the admin endpoint. Answers have it in `x-sim-backend`.
    pub name: String,
    /// The host name in the certificate.
    pub host: String,
    /// The port; 0 for a free one.
    pub port: u16,
    /// Whether the listener speaks TLS.
    pub tls: Tls,
    /// The accepted value of `api-key`. Without it only tokens are accepted.
    pub api_key: Option<String>,
    /// The deployments of this resource; `None` for any.
    pub deployments: Option<Vec<String>>,
    /// The APIs that its region does not offer.
    pub not_enabled: Vec<Api>,
    /// The mode of the content filter for streamed chats.
    pub content_filter: ContentFilter,
    /// The beginning of its paths, before `/openai`, such as a Foundry project's.
    pub base_path: String,
    /// The identities that have a role on this resource, by the ids in requests for tokens; `None` for all.
    pub identities: Option<Vec<String>>,
}

impl BackendSettings {
    /// A backend without TLS on a free port, with the host `NAME.openai.azure.com`, no key, and any deployment.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: format!("{name}.openai.azure.com"),
            port: 0,
            tls: Tls::Off,
            api_key: None,
            deployments: None,
            not_enabled: Vec::new(),
            content_filter: ContentFilter::default(),
            base_path: String::new(),
            identities: None,
        }
    }
}

/// The [mode] of Azure's content filter for streamed chats.
///
/// [mode]: https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-streaming
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentFilter {
    /// Content is checked before it is sent.
    #[default]
    Buffered,
    /// Content is sent at once. The results follow in annotations, two of them after the tokens.
    Asynchronous,
}

/// Whether a backend's listener speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    #[default]
    Off,
    /// HTTP/1.1 and HTTP/2 by ALPN, with a certificate of the simulator's own authority.
    On,
}

/// Whether backends check credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// A request needs a token of this simulator's identity endpoint, or the backend's key.
    #[default]
    On,
    /// Every request is accepted. The check's result is still recorded.
    Off,
}

/// The simulated identity endpoint.
#[derive(Clone, Debug)]
pub struct ImdsSettings {
    /// The port; 0 for a free one.
    pub port: u16,
    /// The lifetime of a new token. The expiry is rounded up to a whole second of the epoch.
    pub token_lifetime: Duration,
    /// Whether a token is returned again until it is due for renewal, as the real service does.
    pub cache: bool,
    /// The remaining lifetime below which a cached token is replaced; `None` for half its lifetime.
    pub renew_below: Option<Duration>,
    /// The audience the backends accept.
    pub audience: String,
    /// The existing identities, by client, object or resource id; `None` for any, and a default one.
    pub identities: Option<Vec<String>>,
    /// The secret that the App Service form expects in `X-IDENTITY-HEADER`.
    pub identity_header: String,
    /// The application of Entra ID, whose token endpoint is on the same port.
    pub entra: EntraSettings,
}

/// An application of the simulated Entra ID.
#[derive(Clone, Debug)]
pub struct EntraSettings {
    /// The tenant.
    pub tenant: String,
    /// The application's client id.
    pub client_id: String,
    /// The application's client secret.
    pub client_secret: String,
    /// The issuer in the application's federated credential.
    pub issuer: String,
    /// The subject in the application's federated credential.
    pub subject: String,
}

impl Default for EntraSettings {
    fn default() -> Self {
        Self {
            tenant: "00000000-0000-4000-8000-00000000000a".to_owned(),
            client_id: "5c1b0d5e-0000-4000-8000-000000000001".to_owned(),
            client_secret: "Sim8Q~client-secret_value.of-the-simulator".to_owned(),
            issuer: "https://eastus.oic.prod-aks.azure.com/simulated/".to_owned(),
            subject: "system:serviceaccount:azure-openai:azure-openai".to_owned(),
        }
    }
}

impl Default for ImdsSettings {
    fn default() -> Self {
        Self {
            port: 0,
            token_lifetime: Duration::from_secs(3600),
            cache: true,
            renew_below: None,
            audience: "https://cognitiveservices.azure.com".to_owned(),
            identities: None,
            identity_header: "secret".to_owned(),
            entra: EntraSettings::default(),
        }
    }
}
