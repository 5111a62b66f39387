//! The plugin configuration as types: the fields that the tool reads or changes.
//!
//! The module's parser decides what is valid, and its descriptions make the schema. These types hold a configuration
//! that the parser has accepted. Fields that the tool does not need are in `rest`, and pass unchanged.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Configuration of the filter that balances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// The Azure OpenAI resources.
    pub backends: Vec<Backend>,
    /// The identity of backends that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Further identities by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identities: Option<BTreeMap<String, Identity>>,
    /// Where objects are made, and the ids that clients see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The rule that keeps requests together on one backend.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub affinity: Option<Option<Affinity>>,
    /// When and how requests are retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The names of headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// The limits of clients.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub limits: Option<Option<Limits>>,
    /// Settings that Envoy's own configuration makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_to_envoy: Option<Vec<String>>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Plugin {
    /// All identities.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        let named = self.identities.iter().flat_map(BTreeMap::values);
        self.identity.iter().chain(named)
    }

    /// All identities, mutable.
    pub fn identities_mut(&mut self) -> impl Iterator<Item = &mut Identity> {
        let named = self.identities.iter_mut().flat_map(BTreeMap::values_mut);
        self.identity.iter_mut().chain(named)
    }
}

/// One Azure OpenAI resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// The name in headers, statistics and logs.
    pub name: String,
    /// The Envoy cluster.
    pub cluster: String,
    /// The host name.
    pub host: String,
    /// The rank; lower is first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The share within the priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// The backend's own deployment names, by the names that clients use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployments: Option<BTreeMap<String, String>>,
    /// Whether the backend has deployments that it does not list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlisted_deployments: Option<Unlisted>,
    /// The environment variable with the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Whether a backend has deployments that it does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlisted {
    /// It has them, under the names that clients use.
    Pass,
    /// It does not have them.
    Refuse,
}

/// The source of access tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The token service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The Envoy cluster of the token service.
    pub cluster: String,
    /// The client id of the identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The object id of the identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// The resource id of the identity, with IMDS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msi_res_id: Option<String>,
    /// The environment variable with the URL of App Service's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_env: Option<String>,
    /// The environment variable with the secret of App Service's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_env: Option<String>,
    /// The tenant, with Entra ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The host of Entra ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_host: Option<String>,
    /// The environment variable with the client secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_env: Option<String>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Identity {
    /// Whether its tokens come from Entra ID itself.
    pub fn is_of_entra(&self) -> bool {
        matches!(
            self.source,
            Some(Source::WorkloadIdentity | Source::ClientSecret)
        )
    }
}

/// A token service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The instance metadata service of virtual machines and AKS nodes.
    Imds,
    /// The endpoint that App Service, Container Apps and Functions offer.
    AppService,
    /// Entra ID, by the token that Kubernetes projects into a pod.
    WorkloadIdentity,
    /// Entra ID, by a client secret.
    ClientSecret,
}

/// Where objects are made, and the ids that clients see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The ids that clients see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The ids that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ids {
    /// They name the backend that has the object.
    Tagged,
    /// They are the backends' own.
    Plain,
}

/// The rule that keeps requests together on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Affinity {
    /// The key that such requests share.
    pub by: AffinityKey,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The key that requests share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AffinityKey {
    /// The body's `prompt_cache_key`.
    PromptCacheKey,
    /// The client's name.
    Client,
    /// A request header.
    Header(String),
}

/// The limits of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The limits of every client that has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<ClientLimits>,
    /// The limits of single clients by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<BTreeMap<String, Option<ClientLimits>>>,
}

/// The limits of one client; `Some(None)` lifts a limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientLimits {
    /// Tokens a minute.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub tokens_per_minute: Option<Option<u64>>,
    /// Tokens a day.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub tokens_per_day: Option<Option<u64>>,
    /// Requests a minute.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub requests_per_minute: Option<Option<u64>>,
}

/// When and how requests are retried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// The engine that carries out retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The number of attempts, the first included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u8>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The engine that carries out retries.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Engine {
    /// The filter, by calls of its own: on every Envoy, but a retried answer arrives at its end.
    Filter,
    /// Envoy's router, along the filter's plan: answers always stream. Envoy 1.39 or later.
    Router,
}

impl Engine {
    /// The engine with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "filter" => Some(Self::Filter),
            "router" => Some(Self::Router),
            _ => None,
        }
    }
}

/// The names of headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Headers {
    /// The request header with the client's name.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub client: Option<Option<String>>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A field that is present, perhaps as `null`. `null` switches a default off, so it differs from a missing field.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
