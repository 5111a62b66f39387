//! The plugin configuration as types: what the renderer writes, and where its JSON Schema comes from.
//!
//! The module reads its configuration by hand, so that it can tell every mistake at once, and its parser remains the judge.
//! These types say the same once more; the test `schema` probes the parser with everything that they allow and forbid. A new
//! field of the module is one field here.
//!
//! Beside JSON Schema's own keywords there are three: `x-minimum` and `x-maximum` bound quantities with a unit, and
//! `x-nullable` marks what `null` switches off.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Configuration of the Azure OpenAI balancer, an Envoy HTTP filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// The Azure OpenAI resources.
    #[schemars(length(min = 1, max = 100))]
    pub backends: Vec<Backend>,
    /// Where access tokens come from; required unless every backend has an `api_key_env`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Further identities, by the names that backends know them by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "minProperties" = 1,
        "maxProperties" = 20,
        "propertyNames" = {"pattern": "^[A-Za-z0-9_-]{1,64}$"},
    ))]
    pub identities: Option<BTreeMap<String, Identity>>,
    /// What becomes of objects that live on the backend where they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// What becomes of requests whose paths are not Azure OpenAI's: answered 404, or passed to a backend, all or those below some paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "refuse"))]
    pub other_paths: Option<OtherPaths>,
    /// How one of several backends of the same priority is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "round_robin"))]
    pub policy: Option<Policy>,
    /// What keeps requests together on one backend, so that its prompt cache serves them. Without it, or with `null`, nothing does.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-nullable" = true))]
    pub affinity: Option<Option<Affinity>>,
    /// How long a backend is left alone after what; `null`: nothing is remembered of failures.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-nullable" = true))]
    pub cooldown: Option<Option<Cooldown>>,
    /// When a request is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The names of the headers the filter reads and writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Whether the tokens that answers report are counted, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub usage: Option<UsageSetting>,
    /// What each client may use. Without it, or with `null`, nothing is limited.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-nullable" = true))]
    pub limits: Option<Option<Limits>>,
    /// What Envoy's own configuration does in the filter's place, for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = []))]
    pub left_to_envoy: Option<Vec<LeftToEnvoy>>,
}

/// Whether tokens are counted, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UsageSetting {
    /// Whether they are counted.
    Switch(bool),
    /// They are counted like this.
    Rules(Usage),
}

/// How tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Of which chats' streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "asked"))]
    pub streams: Option<Streams>,
    /// What tokens cost, by the names of deployments that clients use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 200))]
    pub prices: Option<BTreeMap<String, Price>>,
}

/// The streams of chats whose tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Streams {
    /// Those whose client sends `stream_options.include_usage`.
    Asked,
    /// All: where the client does not ask, the filter does, and takes the tokens out of the stream.
    Always,
}

/// What a million tokens of a deployment cost, in any currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens of the prompt.
    pub prompt: Money,
    /// Tokens of the prompt that came from a cache; as much as others if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<Money>,
    /// Tokens of the completion. Without it, answers with a completion have no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Money>,
}

/// An amount of money with at most six digits behind the point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Money {
    /// As a number.
    Number(#[schemars(with = "f64", range(min = 0, max = 10_000_000))] serde_json::Number),
    /// As text.
    Text(#[schemars(regex(pattern = r"^[0-9]+(\.[0-9]{1,6})?$"))] String),
}

/// What Envoy's own configuration can do in the filter's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LeftToEnvoy {
    /// The route limits how long an attempt may take until its headers are there: `retry_policy.per_try_timeout`, which is to be
    /// the same as `retry.per_try_timeout`.
    Timeout,
    /// The route addresses a request to the host of its cluster (`auto_host_rewrite`), whose hostname is to be the backend's
    /// `host`.
    Host,
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

impl Plugin {
    /// Every identity there is.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        let named = self.identities.iter().flat_map(BTreeMap::values);
        self.identity.iter().chain(named)
    }

    /// The same, to change them.
    pub fn identities_mut(&mut self) -> impl Iterator<Item = &mut Identity> {
        let named = self.identities.iter_mut().flat_map(BTreeMap::values_mut);
        self.identity.iter_mut().chain(named)
    }
}

/// One Azure OpenAI resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// What people call it, in headers, statistics and logs.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub name: String,
    /// The Envoy cluster it is reached through.
    #[schemars(regex(pattern = "^[!-~]+$"))]
    pub cluster: String,
    /// Its host name, sent as `:authority`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9\-.:_\[\]]+$"))]
    pub host: String,
    /// Lower is first; a backend of a higher number serves only while every one of the lower numbers is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255), extend("default" = 0))]
    pub priority: Option<u8>,
    /// Its share of the requests within its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("default" = 1))]
    pub weight: Option<u8>,
    /// How long it may take until its answer begins, where that is less than `retry.per_try_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9.]+(ms|s|m|h)$"), extend("x-minimum" = "100ms", "x-maximum" = "1h"))]
    pub first_byte_timeout: Option<String>,
    /// How long its event streams may be silent before they are cut off, where that is not `retry.stream_idle_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9.]+(ms|s|m|h)$"), extend("x-minimum" = "1s", "x-maximum" = "15m"))]
    pub stream_idle_timeout: Option<String>,
    /// Its own names for deployments, by the names that clients use, in upper or lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 200,
        "propertyNames" = {"pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "additionalProperties" = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    ))]
    pub deployments: Option<BTreeMap<String, String>>,
    /// What of a deployment that is not among them: it is called the same there, or, with `refuse`, it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "pass"))]
    pub unlisted_deployments: Option<Unlisted>,
    /// The `api-version` it is asked for, whatever the client says; the v1 API is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub api_version: Option<String>,
    /// What its paths begin with, before `/openai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r#"^/[!-"$->@-~]*[!-"$-.0->@-~]$"#))]
    pub base_path: Option<String>,
    /// The APIs it has; by default, as far as is known, every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub apis: Option<Vec<Api>>,
    /// Which of `identities` it is shown the token of; by default that of `identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub identity: Option<String>,
    /// The environment variable that holds its API key, where it is to be shown that and not a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(?!.*[A-Za-z0-9]{32})[A-Za-z_][A-Za-z0-9_]*$"))]
    pub api_key_env: Option<String>,
}

/// One of the APIs of an Azure OpenAI resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Api {
    /// Chat completions and completions.
    Chat,
    /// Responses and conversations.
    Responses,
    /// Embeddings.
    Embeddings,
    /// Images: generations, edits, variations.
    Images,
    /// Audio: transcriptions, translations, speech.
    Audio,
    /// Videos.
    Videos,
    /// Files, uploads, vector stores and containers.
    Files,
    /// Batches.
    Batches,
    /// Realtime sessions.
    Realtime,
    /// Assistants and threads.
    Assistants,
    /// Fine-tuning jobs.
    FineTuning,
    /// Anthropic's Messages API, for Claude.
    Messages,
}

/// What becomes of objects that live on the backend where they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The backend of objects whose ids do not say where they live, and of lists; by default the first that has the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub home: Option<String>,
    /// The ids that clients are shown: they say where an object lives, or are the backends' own, so all are made at home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "tagged"))]
    pub ids: Option<Ids>,
}

/// The ids that clients are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Ids {
    /// They say where an object lives.
    Tagged,
    /// They are the backends' own.
    Plain,
}

/// What becomes of requests whose paths are not Azure OpenAI's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum OtherPaths {
    /// All the same.
    All(EveryOtherPath),
    /// Those below one of these are sent to a backend, and not tried again; all others are answered 404.
    Below(
        #[schemars(
            length(min = 1),
            inner(regex(pattern = r"^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)+$"))
        )]
        Vec<String>,
    ),
}

/// What becomes of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum EveryOtherPath {
    /// They are answered 404.
    Refuse,
    /// They are sent to a backend, and not tried again.
    Pass,
}

/// What of a deployment that a backend does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Unlisted {
    /// It is called the same there.
    Pass,
    /// It is not there.
    Refuse,
}

/// How one of several backends of the same priority is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// In proportion to the tokens that are left of each one's quota.
    LeastThrottled,
}

/// Where access tokens come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Where the token comes from: the token service of virtual machines, the one of App Service, Container Apps and Functions, or
    /// Entra ID, by a token of Kubernetes or by a client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "imds"))]
    pub source: Option<Source>,
    /// The Envoy cluster the token service is reached through.
    #[schemars(regex(pattern = "^[!-~]+$"))]
    pub cluster: String,
    /// The audience of the token. The default follows the hosts of the backends, as in Foundry and the sovereign clouds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"), extend("default" = "https://cognitiveservices.azure.com"))]
    pub resource: Option<String>,
    /// Which of several user-assigned identities, by its client id. At most one of the ids. With `workload_identity` and
    /// `client_secret`: the client id of the application or the identity; by default the variable AZURE_CLIENT_ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"))]
    pub client_id: Option<String>,
    /// Which of several user-assigned identities, by its object id; with source `imds` or `app_service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"), extend("x-source" = ["imds", "app_service"]))]
    pub object_id: Option<String>,
    /// Which of several user-assigned identities, by its resource id; with source `imds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"), extend("x-source" = "imds"))]
    pub msi_res_id: Option<String>,
    /// Which of several user-assigned identities, by its resource id; with source `app_service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"), extend("x-source" = "app_service"))]
    pub mi_res_id: Option<String>,
    /// The environment variable that holds the token service's URL; with source `app_service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(?!.*[A-Za-z0-9]{32})[A-Za-z_][A-Za-z0-9_]*$"), extend("default" = "IDENTITY_ENDPOINT", "x-source" = "app_service"))]
    pub endpoint_env: Option<String>,
    /// The environment variable that holds the token service's secret; with source `app_service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(?!.*[A-Za-z0-9]{32})[A-Za-z_][A-Za-z0-9_]*$"), extend("default" = "IDENTITY_HEADER", "x-source" = "app_service"))]
    pub header_env: Option<String>,
    /// The tenant of the application, by its id or domain; with source `workload_identity` or `client_secret`. By default the
    /// variable AZURE_TENANT_ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9.-]+$"), extend("x-source" = ["workload_identity", "client_secret"]))]
    pub tenant_id: Option<String>,
    /// The host of Entra ID; with source `workload_identity` or `client_secret`. By default the variable AZURE_AUTHORITY_HOST, or
    /// the host of the cloud of the backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(https://)?[A-Za-z0-9\-.:_\[\]]+/?$"), extend("x-source" = ["workload_identity", "client_secret"]))]
    pub authority_host: Option<String>,
    /// The Envoy cluster that answers with the token file; with source `workload_identity`, which requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[!-~]+$"), extend("x-source" = "workload_identity"))]
    pub token_file_cluster: Option<String>,
    /// The environment variable that holds the client secret; with source `client_secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(?!.*[A-Za-z0-9]{32})[A-Za-z_][A-Za-z0-9_]*$"), extend("default" = "AZURE_CLIENT_SECRET", "x-source" = "client_secret"))]
    pub client_secret_env: Option<String>,
    /// How long a request may wait for the first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "5s", "x-minimum" = "0s", "x-maximum" = "60s")
    )]
    pub wait_timeout: Option<String>,
    /// How long a fetch of a token may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "5s", "x-minimum" = "100ms", "x-maximum" = "60s")
    )]
    pub fetch_timeout: Option<String>,
}

/// A token service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
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

/// What keeps requests together on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// Where the key is that they have in common: in the body's `prompt_cache_key`, in a request header, or the client's name.
    pub by: AffinityKey,
    /// How many times its fair share of the attempts of about a minute a backend gets at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10), extend("default" = 1.25, "multipleOf" = 0.01))]
    pub most: Option<f64>,
}

/// Where the key is that requests have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AffinityKey {
    /// In the body's `prompt_cache_key`.
    PromptCacheKey,
    /// It is the client's name, which is in `headers.client`.
    Client,
    /// In this request header.
    Header(#[schemars(regex(pattern = "^[a-z0-9_-]+$"))] String),
}

/// The limits of what clients may use, each client for itself, in each Envoy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The limits of every client that has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ClientLimits>,
    /// The limits of single clients, by their names as statistics have them. A limit that is not named is the default's; `null` in the
    /// place of a client's limits lifts them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 1000,
        "propertyNames" = {"pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "additionalProperties" = {
            "x-nullable": true,
            "anyOf": [{"$ref": "#/$defs/ClientLimits"}, {"type": "null"}],
        },
    ))]
    pub clients: Option<BTreeMap<String, Option<ClientLimits>>>,
}

/// What one client may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientLimits {
    /// Tokens a minute, those of prompts and completions together; `null`: no limit.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-nullable" = true))]
    pub tokens_per_minute: Option<Option<u64>>,
    /// Tokens a day, from midnight to midnight UTC; `null`: no limit.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-nullable" = true))]
    pub tokens_per_day: Option<Option<u64>>,
    /// Requests a minute; `null`: no limit.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-nullable" = true))]
    pub requests_per_minute: Option<Option<u64>>,
}

/// How long backends get no requests, by cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cooldown {
    /// The wait after a 429 that states none, for the deployment that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "10s", "x-minimum" = "100ms", "x-maximum" = "1h")
    )]
    pub throttled: Option<String>,
    /// The shortest wait after a 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "250ms", "x-minimum" = "0s", "x-maximum" = "1h")
    )]
    pub shortest: Option<String>,
    /// The longest wait after a 429, and the longest cooldown after failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "5m", "x-minimum" = "1s", "x-maximum" = "24h")
    )]
    pub longest: Option<String>,
    /// The first cooldown after failures. It doubles each time the backend fails again right after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "5s", "x-minimum" = "100ms", "x-maximum" = "1h")
    )]
    pub failing: Option<String>,
    /// The number of failures in a row that starts a cooldown. Of each request only the first failure counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    pub consecutive_failures: Option<u16>,
    /// The share of failed attempts that starts a cooldown, in percent of at least 20 attempts within 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("default" = 50))]
    pub failure_percent: Option<u8>,
    /// The cooldown of a backend that refuses the identity or the key, and how long a deployment counts as missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "5m", "x-minimum" = "1s", "x-maximum" = "24h")
    )]
    pub misconfigured: Option<String>,
    /// How long a request may wait for a backend when all are throttled or misconfigured, before it is answered 429 or 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "0s", "x-minimum" = "0s", "x-maximum" = "60s")
    )]
    pub wait_timeout: Option<String>,
}

/// When a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Who carries out the attempts after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "filter"))]
    pub engine: Option<Engine>,
    /// Attempts in all, the first included: one on each backend, and a second one, with a renewed token, where a token was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5), extend("default" = 3))]
    pub max_attempts: Option<u8>,
    /// Statuses that send a request on to the next backend; 401 has rules of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1),
        extend(
            "default" = [408, 429, 500, 502, 503, 504, 529],
            "items" = {"type": "integer", "minimum": 400, "maximum": 599, "not": {"const": 401}}
        )
    )]
    pub statuses: Option<Vec<u16>>,
    /// How long an attempt may take until its headers are there; one that the filter engine re-issues, until its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "300s", "x-minimum" = "100ms", "x-maximum" = "1h")
    )]
    pub per_try_timeout: Option<String>,
    /// How long an event stream is held for its first content, so that an error before that is retried; `0s`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(ms|s|m|h)$"),
        extend("default" = "1s", "x-minimum" = "0s", "x-maximum" = "1m")
    )]
    pub stream_start: Option<String>,
    /// How long an event stream may be silent before it is cut off; by default as long as Envoy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9.]+(ms|s|m|h)$"), extend("x-minimum" = "1s", "x-maximum" = "15m"))]
    pub stream_idle_timeout: Option<String>,
    /// The largest request body that is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(B|KiB|MiB|GiB)$"),
        extend("default" = "4MiB", "x-minimum" = "0B", "x-maximum" = "64MiB")
    )]
    pub replay_limit: Option<String>,
    /// The most that one worker keeps of all request bodies together, to send them again. Filter engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[0-9.]+(B|KiB|MiB|GiB)$"),
        extend("default" = "512MiB", "x-minimum" = "64MiB", "x-maximum" = "2GiB")
    )]
    pub replay_memory: Option<String>,
    /// Whether what makes an object may be tried again although it may have been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub repeat_creations: Option<bool>,
    /// How many failures are tried again, over all requests; `null`: all.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-nullable" = true))]
    pub budget: Option<Option<Budget>>,
}

/// Who carries out the attempts after the first.
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
    /// The engine of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "filter" => Some(Self::Filter),
            "router" => Some(Self::Router),
            _ => None,
        }
    }
}

/// How many retries after failures there may be, over all requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// As a share of the requests, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("default" = 20))]
    pub percent: Option<u8>,
    /// On top of that, in every second, saved up for ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000), extend("default" = 10))]
    pub min_per_second: Option<u16>,
}

/// The names of the headers the filter reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// The request header that names the cluster for the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), extend("default" = "x-aoai-cluster"))]
    pub cluster: Option<String>,
    /// The response header that names the backend; `null` switches it off.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), extend("default" = "x-aoai-backend", "x-nullable" = true))]
    pub backend: Option<Option<String>>,
    /// The response header that counts the attempts; `null` switches it off.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), extend("default" = "x-aoai-attempts", "x-nullable" = true))]
    pub attempts: Option<Option<String>>,
    /// The response header that explains each attempt: its backend, why that was chosen, and its outcome. An example of its value is
    /// `east free throttled; west soft success`. Without a name, or with `null`, it is off.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), extend("default" = null, "x-nullable" = true))]
    pub why: Option<Option<String>>,
    /// The request header in which a filter before this one put the client's name, for statistics, the access log and cooldowns.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), extend("default" = null, "x-nullable" = true))]
    pub client: Option<Option<String>>,
}

/// A field that is there, be it `null`: what switches something off is not the same as what is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
