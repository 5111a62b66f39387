//! What a simulator is started with.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::azure::Api;

/// Everything a [`Simulator`](crate::Simulator) needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Azure OpenAI resources to stand in for; names must be unique.
    pub backends: Vec<BackendSettings>,
    /// The identity endpoint.
    pub imds: ImdsSettings,
    /// The port of the admin endpoint; `None` leaves it out, 0 takes a free port.
    pub admin_port: Option<u16>,
    /// The address every listener binds to.
    pub bind: IpAddr,
    /// Whether backends check credentials.
    pub auth: Auth,
    /// How many requests each service remembers; 0 only counts them.
    pub audit_limit: usize,
    /// Whether bodies are kept and hashed; switch it off for benchmarks.
    pub audit_bodies: bool,
    /// Threads of the simulator's own runtime.
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

/// One simulated Azure OpenAI resource, or with the same host and base path as others a part of it: they have the same objects.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// The name tests and the admin endpoint use; answers carry it in `x-sim-backend`.
    pub name: String,
    /// The host name in the certificate.
    pub host: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// Whether the listener speaks TLS.
    pub tls: Tls,
    /// The key accepted in `api-key`; without one, only tokens are accepted.
    pub api_key: Option<String>,
    /// The deployments this resource has; `None` means any.
    pub deployments: Option<Vec<String>>,
    /// The parts of the API that its region does not offer.
    pub not_enabled: Vec<Api>,
    /// What its paths begin with, before `/openai`, as those of a Foundry project do.
    pub base_path: String,
    /// The identities that have a role on this resource, by the ids their tokens are asked for with; `None` means all.
    pub identities: Option<Vec<String>>,
}

impl BackendSettings {
    /// A plain-text backend on a free port, with the host `NAME.openai.azure.com`, no key and any deployment.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: format!("{name}.openai.azure.com"),
            port: 0,
            tls: Tls::Off,
            api_key: None,
            deployments: None,
            not_enabled: Vec::new(),
            base_path: String::new(),
            identities: None,
        }
    }
}

/// Whether a backend's listener speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    #[default]
    Off,
    /// HTTP/1.1 and HTTP/2 by ALPN, the certificate signed by the simulator's own authority.
    On,
}

/// Whether backends check credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// A token of this simulator's identity endpoint, or the backend's key, is needed.
    #[default]
    On,
    /// Everyone is let in; the check's result is still recorded.
    Off,
}

/// The simulated identity endpoint.
#[derive(Clone, Debug)]
pub struct ImdsSettings {
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// How long a new token is valid. Expiry is a whole second of the epoch, rounded up.
    pub token_lifetime: Duration,
    /// Whether the same token is given out until it is due for renewal, as the real service does.
    pub cache: bool,
    /// A cached token with less than this left is replaced; `None` means half its lifetime.
    pub renew_below: Option<Duration>,
    /// The audience the backends accept.
    pub audience: String,
    /// The identities that exist, by client, object or resource id; `None` means any, and one by default.
    pub identities: Option<Vec<String>>,
    /// The secret the App Service form expects in `X-IDENTITY-HEADER`.
    pub identity_header: String,
    /// What Entra ID knows, whose token endpoint is on the same port.
    pub entra: EntraSettings,
}

/// An application of the simulated Entra ID.
#[derive(Clone, Debug)]
pub struct EntraSettings {
    /// The tenant.
    pub tenant: String,
    /// The application's client id.
    pub client_id: String,
    /// Its client secret.
    pub client_secret: String,
    /// The issuer in its federated credential.
    pub issuer: String,
    /// The subject in its federated credential.
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
