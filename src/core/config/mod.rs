//! The plugin configuration: parsed once, into types that cannot be wrong.

mod audience;
mod backends;
mod deployments;
mod forms;
mod identity;
mod limits;
mod parse;
mod problem;
mod protobuf;
mod reader;
mod shown;
mod unique;
mod units;
mod usage;

use core::fmt;
use core::time::Duration;

pub use deployments::{Deployments, Unlisted};
pub use limits::{LimitRules, Limits, MAX_LIMIT, MAX_LIMITED_CLIENTS};
pub use problem::{ConfigError, Fault, Problem};
pub use reader::OBJECT;
pub use shown::{shown, without_secrets};

use super::operation::Api;
use super::plan::BackendSet;
use super::prices::Prices;
use super::state::ids::{Resource, Tags};
use crate::prelude::*;

/// The most backends one configuration may name.
pub const MAX_BACKENDS: usize = 100;

/// The most deployments one backend may name.
pub const MAX_DEPLOYMENTS: usize = 200;

/// The most attempts a request may be given, the first included.
pub const MAX_ATTEMPTS: usize = 5;

/// What a plugin configuration says.
#[derive(Clone, Debug)]
pub enum Plugin {
    /// The filter of a listener: it balances.
    Balancer(Box<Config>),
    /// The filter of a cluster, `{"role": "upstream"}`: the router engine's eye on each attempt.
    Upstream,
}

/// The configuration of the filter that balances.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Azure OpenAI resources, at least one, with different names.
    pub backends: Vec<Backend>,
    /// How one of several equal backends is chosen.
    pub policy: Policy,
    /// The rule by which requests stay on one backend; `None`: requests do not stay together.
    pub affinity: Option<AffinityRules>,
    /// Where access tokens come from; there may be none where every backend has a key.
    pub identities: Vec<Identity>,
    /// What becomes of objects that live on the backend where they were made.
    pub state: StateRules,
    /// What becomes of requests that are not for Azure OpenAI.
    pub other_paths: OtherPaths,
    /// How long a backend is left alone after what.
    pub cooldown: Cooldown,
    /// When a request is tried again.
    pub retry: Retry,
    /// The names of the headers the filter writes.
    pub headers: HeaderNames,
    /// What becomes of the tokens that answers report.
    pub usage: UsageRules,
    /// The limits of what clients may use; `None`: nothing is limited.
    pub limits: Option<LimitRules>,
    /// What is not for the filter to do.
    pub left_to_envoy: LeftToEnvoy,
}

/// What becomes of the tokens that answers report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRules {
    /// They are counted.
    pub is_counted: bool,
    /// Of which chats' streams.
    pub streams: Streams,
    /// What they cost.
    pub prices: Prices,
}

/// The streams of chats that report tokens. They do if the request says `stream_options.include_usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Those whose client asked for it.
    #[default]
    Asked,
    /// All: where the client did not ask, the filter does, and takes the tokens out of the stream.
    Always,
}

impl UsageRules {
    /// Whether the filter asks for the tokens of streams whose clients did not.
    pub fn asks(&self) -> bool {
        self.is_counted && self.streams == Streams::Always
    }

    /// Whether the name of a deployment has to be known for what its tokens cost.
    pub fn names_deployments(&self) -> bool {
        self.is_counted && !self.prices.is_empty()
    }
}

/// One Azure OpenAI resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// What people call it: in response headers, metrics and logs.
    pub name: String,
    /// The Envoy cluster it is reached through.
    pub cluster: String,
    /// Its host name, sent as `:authority` on every attempt.
    pub host: String,
    /// Lower is first; a higher one serves only while the lower ones have no one.
    pub priority: u8,
    /// Its share within its priority.
    pub weight: u8,
    /// How long it may take until the first byte of its answer, if that is less than an attempt's limit.
    pub first_byte_timeout: Option<Duration>,
    /// How long its event streams may be silent, if that is another time than that of all backends.
    pub stream_idle_timeout: Option<Duration>,
    /// Its deployments, by the names that clients use.
    pub deployments: Deployments,
    /// The version of the dated API it is asked for, whatever the client says.
    pub api_version: Option<String>,
    /// What its paths begin with, before `/openai`.
    pub base_path: Option<String>,
    /// The APIs it has.
    pub apis: Apis,
    /// What proves to it who is asking.
    pub credential: BackendCredential,
}

/// What proves to a backend who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendCredential {
    /// An API key of its own.
    Key(Secret),
    /// The access token of the identity with this index.
    Identity(usize),
}

impl Default for BackendCredential {
    fn default() -> Self {
        Self::Identity(0)
    }
}

impl BackendCredential {
    /// The API key, if it is one.
    pub fn key(&self) -> Option<&Secret> {
        match self {
            Self::Key(key) => Some(key),
            Self::Identity(_) => None,
        }
    }
}

/// The APIs that a backend has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Apis {
    /// As far as is known, every one; Anthropic's on hosts of Foundry only.
    #[default]
    All,
    /// These.
    Only(Vec<Api>),
}

impl Apis {
    /// Whether this one is among them.
    pub fn include(&self, api: Api) -> bool {
        match self {
            Self::All => true,
            Self::Only(apis) => apis.contains(&api),
        }
    }
}

/// What becomes of objects that live on the backend where they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateRules {
    /// The backend of objects whose ids do not say where they live, and of lists; if none is named, or it does not have the
    /// API, the first one that has.
    pub home: Option<usize>,
    /// Whether clients are shown ids that say where an object lives.
    pub ids: Ids,
}

/// The ids that clients are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// They say where an object lives, so objects are made on every backend.
    #[default]
    Tagged,
    /// They are the backends' own, so all objects are made at home.
    Plain,
}

/// What becomes of requests whose paths are not Azure OpenAI's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OtherPaths {
    /// They are answered 404.
    #[default]
    Refuse,
    /// They are sent to a backend like others, and not tried again.
    Pass,
    /// So are those below one of these paths, such as `/providers/`; all others are answered 404.
    Below(Vec<String>),
}

impl OtherPaths {
    /// Whether a request for this path, which is not one of Azure OpenAI's, is sent to a backend.
    pub fn pass(&self, path: &str) -> bool {
        let roots = match self {
            Self::Refuse => return false,
            Self::Pass => return true,
            Self::Below(roots) => roots,
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        // Azure does not tell upper from lower case in the fixed parts of a path.
        let is_below = |root: &String| {
            let start = path.as_bytes().get(..root.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(root.as_bytes()))
        };
        // A backend may take these for a way out of the root.
        let leads_out = path.contains(['\\', '%']) || path.split('/').any(|part| part == "..");
        !leads_out && roots.iter().any(is_below)
    }
}

impl Config {
    /// The backend of objects of this API whose ids do not say where they live.
    pub fn home(&self, api: Option<Api>) -> usize {
        let has = |backend: &Backend| api.is_none_or(|api| backend.has(api));
        let home = self
            .state
            .home
            .filter(|home| self.backends.get(*home).is_some_and(has));
        let first = || self.backends.iter().position(has);
        home.or_else(first).unwrap_or_default()
    }

    /// The backends of the same resource as this one: they have the same objects.
    pub fn resource_of(&self, backend: usize) -> BackendSet {
        let Some(one) = self.backends.get(backend).map(Backend::resource) else {
            return BackendSet::default();
        };
        let backends = self.backends.iter().enumerate();
        let same = backends.filter(|(_, backend)| backend.resource() == one);
        same.map(|(index, _)| index).collect()
    }

    /// The backends that have this API, by the configuration.
    pub fn backends_with(&self, api: Api) -> BackendSet {
        let backends = self.backends.iter().enumerate();
        let having = backends.filter(|(_, backend)| backend.has(api));
        having.map(|(index, _)| index).collect()
    }

    /// Whether the backends are several resources, so that objects have to be told apart.
    pub fn has_several_resources(&self) -> bool {
        let mut resources = self.backends.iter().map(Backend::resource);
        let first = resources.next();
        resources.any(|other| Some(other) != first)
    }

    /// Whether the `prompt_cache_key` of a request decides where it goes.
    pub fn reads_cache_keys(&self) -> bool {
        let by = self.affinity.as_ref().map(|rules| &rules.by);
        by == Some(&AffinityKey::PromptCacheKey)
    }

    /// Why a backend that refuses a new token gets no requests, and what to do about it.
    pub fn new_token_refused(&self, backend: usize) -> String {
        let backend = self.backends.get(backend);
        let identity = backend.and_then(|backend| match backend.credential {
            BackendCredential::Identity(identity) => self.identities.get(identity),
            BackendCredential::Key(_) => None,
        });
        audience::new_token_refused(
            identity.map_or("", |identity| &identity.resource),
            backend.map_or("", |backend| &backend.host),
        )
    }

    /// The tags by which ids name the backends.
    pub fn tags(&self) -> Tags {
        // That no two have the same was seen to when the configuration was read.
        Tags::new(self.backends.iter().map(Backend::resource)).unwrap_or_default()
    }

    /// The time limit that the router is told for the first byte of an attempt on `backend`. The router engine's router has one
    /// for all attempts of a request, so it is the largest there is: no backend may be cut short for another's sake.
    pub fn router_timeout(&self, backend: &Backend) -> Duration {
        match self.retry.engine {
            Engine::Filter => backend.attempt_timeout(&self.retry),
            Engine::Router => {
                let limits = self.backends.iter();
                let limits = limits.map(|backend| backend.attempt_timeout(&self.retry));
                limits.max().unwrap_or(self.retry.per_try_timeout)
            }
        }
    }
}

/// Whether a host is that of a Foundry resource.
fn is_of_foundry(host: &str) -> bool {
    const DOMAIN: &str = ".services.ai.azure.com";
    let domain = host.len().checked_sub(DOMAIN.len());
    let domain = domain.and_then(|at| host.get(at..));
    domain.is_some_and(|domain| domain.eq_ignore_ascii_case(DOMAIN))
}

/// How one of several backends of the same priority is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, as often as the weights say.
    #[default]
    RoundRobin,
    /// In proportion to the tokens that are left of each one's quota, where that is known.
    LeastThrottled,
}

/// The rule by which requests with equal keys stay on one backend, so that its prompt cache serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityRules {
    /// Where a request has its key.
    pub by: AffinityKey,
    /// How much of its fair share of the attempts a backend gets at most, in percent.
    pub most_percent: u16,
}

/// Where a request has its affinity key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityKey {
    /// In the body, as `prompt_cache_key`: clients give the same one to prompts that begin alike.
    ///
    /// Source: <https://platform.openai.com/docs/guides/prompt-caching>
    PromptCacheKey,
    /// In this request header, in lower case.
    Header(String),
    /// The client's name is the key. It is in the header [`HeaderNames::client`].
    Client,
}

/// How long a backend is left alone after what.
#[derive(Clone, Debug)]
pub struct Cooldown {
    /// After a 429 that does not say how long.
    pub throttled: Duration,
    /// The least that a 429 can ask for.
    pub shortest: Duration,
    /// The most that a 429 can ask for, and that failures lead to. Zero: there are no cooldowns for either.
    pub longest: Duration,
    /// After too many failures; doubled each time it turns out not to be enough.
    pub failing: Duration,
    /// How many failures in a row are too many.
    pub consecutive_failures: u32,
    /// How large a share of failures is too many, in percent.
    pub failure_percent: u8,
    /// After a refusal of the identity, or for a deployment that is missing. Zero: there is none.
    pub misconfigured: Duration,
    /// How long a request may wait for a backend when all cool down.
    pub wait_timeout: Duration,
}

impl Backend {
    /// The resource on which its objects live.
    pub fn resource(&self) -> Resource<'_> {
        Resource {
            host: &self.host,
            base_path: self.base_path.as_deref(),
        }
    }

    /// Whether it has this API, as far as the configuration tells.
    pub fn has(&self, api: Api) -> bool {
        match (&self.apis, api) {
            (Apis::All, Api::Messages) => is_of_foundry(&self.host),
            (apis, api) => apis.include(api),
        }
    }

    /// Whether it has a name of its own for anything in a path.
    pub fn renames(&self) -> bool {
        !self.deployments.is_empty() || self.api_version.is_some() || self.base_path.is_some()
    }

    /// Whether it has every deployment that a client may name, by the same name.
    pub fn takes_any_deployment(&self) -> bool {
        self.deployments == Deployments::default()
    }

    /// How long an attempt on it may take until its first byte.
    pub fn attempt_timeout(&self, retry: &Retry) -> Duration {
        let limit = self.first_byte_timeout.unwrap_or(retry.per_try_timeout);
        limit.min(retry.per_try_timeout)
    }
}

/// The managed identity whose tokens the backends accept.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What the configuration calls it, if there are several.
    pub name: Option<String>,
    /// Which token service is asked, and how.
    pub source: Source,
    /// The Envoy cluster the token service is reached through.
    pub cluster: String,
    /// The audience of the token.
    pub resource: String,
    /// How long a request may wait for the first token.
    pub wait_timeout: Duration,
    /// How long the token service may take to answer.
    pub fetch_timeout: Duration,
}

impl Identity {
    /// The path of the identity in the configuration.
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
        /// Which of several user-assigned identities.
        selector: Option<Selector>,
    },
    /// The endpoint that App Service, Container Apps and Functions offer.
    AppService {
        /// The endpoint's `host:port`.
        authority: String,
        /// The endpoint's path.
        path: String,
        /// What proves to the endpoint that the caller runs in this app.
        secret: Secret,
        /// Which of several user-assigned identities.
        selector: Option<Selector>,
    },
    /// The token endpoint of Entra ID.
    Entra {
        /// The host of the authority, such as `login.microsoftonline.com`; it may have a port.
        authority: String,
        /// The tenant's id or domain.
        tenant: String,
        /// The application's client id.
        client_id: String,
        /// What proves to Entra ID that the caller is the application.
        proof: Proof,
    },
}

/// What proves to Entra ID that the caller is an application.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A token of the cluster's own, which Kubernetes keeps in a file.
    TokenFile {
        /// The Envoy cluster that answers with the file's content.
        cluster: String,
    },
    /// A client secret.
    Secret(Secret),
}

/// One of several user-assigned identities: a query parameter of the token service, in its own spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// `client_id`, `object_id`, `principal_id`, `msi_res_id` or `mi_res_id`.
    pub parameter: &'static str,
    /// The identity's id.
    pub value: String,
}

/// Who carries out the attempts after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The filter, by calls of its own: on every Envoy, but a re-issued answer arrives at once.
    #[default]
    Filter,
    /// Envoy's router, along the filter's plan: answers always stream. Envoy 1.39 or later.
    Router,
}

/// What Envoy's own configuration does in the filter's place, for less: each saves a host call of every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftToEnvoy {
    /// The route limits how long an attempt may take until its headers are there (`retry_policy.per_try_timeout`, which is to be
    /// what [`Config::router_timeout`] says).
    pub timeout: bool,
    /// The route addresses a request to the host of its cluster (`auto_host_rewrite`; its hosts have the backend's name).
    pub host: bool,
}

/// When a request is tried again, and how long an attempt may take.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Who carries out the attempts after the first.
    pub engine: Engine,
    /// Attempts in all, the first included: 1 to [`MAX_ATTEMPTS`].
    pub max_attempts: u8,
    /// Statuses that send a request on to the next backend.
    pub statuses: Vec<u16>,
    /// How long an attempt may take: its headers in the first attempt, its whole answer in the ones the filter re-issues.
    pub per_try_timeout: Duration,
    /// How long an event stream is held for its first content, so that an error before that can be retried; zero: not at all.
    pub stream_start: Duration,
    /// How long an event stream may be silent before it is cut off; `None`: as long as Envoy allows.
    pub stream_idle_timeout: Option<Duration>,
    /// The largest request body, in bytes, that is kept for another attempt.
    pub replay_limit: usize,
    /// The most that one worker keeps of all request bodies together, in bytes.
    pub replay_memory: usize,
    /// What makes an object may be tried again although the object may have been made.
    pub repeat_creations: bool,
    /// How many failures are tried again, over all requests; `None`: all.
    pub budget: Option<Budget>,
}

/// How many retries after failures there may be, over all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// As a share of the requests, in percent.
    pub percent: u8,
    /// On top of that, in every second.
    pub min_per_second: u16,
}

/// The names of the headers the filter reads and writes, in lower case.
#[derive(Clone, Debug)]
pub struct HeaderNames {
    /// The request header that names the cluster for the route.
    pub cluster: String,
    /// The response header that names the backend, unless switched off.
    pub backend: Option<String>,
    /// The response header that counts the attempts, unless switched off.
    pub attempts: Option<String>,
    /// The response header that explains the attempts, if it is switched on.
    pub why: Option<String>,
    /// The request header in which a filter before this one put the client's name, if one does.
    pub client: Option<String>,
}

/// A string that must not be shown: its `Debug` says nothing, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
