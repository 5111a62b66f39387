//! The plugin configuration, parsed once into types that rule out invalid values.

mod affinity;
mod audience;
mod backend;
mod cooldown;
mod deployments;
mod field;
mod fields;
mod forms;
mod headers;
mod identity;
mod left_to_envoy;
mod limits;
mod objects;
mod other_paths;
mod parse;
mod problem;
mod protobuf;
mod reader;
mod redact;
mod retry;
mod secret;
mod unique;
mod units;
mod usage;

use core::time::Duration;

pub use affinity::{AffinityKey, AffinityRules};
pub use backend::{Apis, Backend, BackendCredential};
pub use cooldown::Cooldown;
pub use deployments::{Deployments, Unlisted};
pub use field::{Description, Group, Values};
pub use fields::plugin::group as described;
pub use headers::HeaderNames;
pub use identity::{Identity, Proof, Selector, Source};
pub use left_to_envoy::LeftToEnvoy;
pub use limits::{LimitRules, Limits, MAX_LIMIT, MAX_LIMITED_CLIENTS};
pub use objects::{Ids, StateRules};
pub use other_paths::OtherPaths;
pub use problem::{ConfigError, Fault, Problem};
pub use reader::OBJECT;
pub use redact::{redacted, without_secrets};
pub use retry::{Budget, Engine, Retry, MAX_ATTEMPTS};
pub use secret::Secret;
pub use usage::{Streams, UsageRules};

use super::operation::Api;
use super::plan::BackendSet;
use super::state::ids::Tags;
use crate::prelude::*;

/// The most backends one configuration may name.
pub const MAX_BACKENDS: usize = 100;

/// The most deployments one backend may name.
pub const MAX_DEPLOYMENTS: usize = 200;

/// The configuration of one instance of the filter.
#[derive(Clone, Debug)]
pub enum Plugin {
    /// A filter of a listener. It balances requests.
    Balancer(Box<Config>),
    /// A filter of a cluster, `{"role": "upstream"}`. It reports each attempt of the router engine.
    Upstream,
}

/// The configuration of the filter that balances.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Azure OpenAI resources, at least one, with different names.
    pub backends: Vec<Backend>,
    /// The rule that chooses among backends of the same priority.
    pub policy: Policy,
    /// The rule that keeps requests on one backend. `None` disables it.
    pub affinity: Option<AffinityRules>,
    /// The sources of access tokens. The list is empty if every backend has a key.
    pub identities: Vec<Identity>,
    /// The backend for new objects, and the ids that clients see.
    pub state: StateRules,
    /// The treatment of requests that are not for Azure OpenAI.
    pub other_paths: OtherPaths,
    /// Cooldown per cause.
    pub cooldown: Cooldown,
    /// When and how requests are retried.
    pub retry: Retry,
    /// The names of the headers that the filter reads and writes.
    pub headers: HeaderNames,
    /// How tokens are counted.
    pub usage: UsageRules,
    /// The limits of clients. `None` disables them.
    pub limits: Option<LimitRules>,
    /// Settings that Envoy makes instead of the filter.
    pub left_to_envoy: LeftToEnvoy,
}

impl Config {
    /// The home backend of an API. It has the API's objects whose ids carry no tag.
    pub fn home(&self, api: Option<Api>) -> usize {
        let has = |backend: &Backend| api.is_none_or(|api| backend.has(api));
        let home = self
            .state
            .home
            .filter(|home| self.backends.get(*home).is_some_and(has));
        let first = || self.backends.iter().position(has);
        home.or_else(first).unwrap_or_default()
    }

    /// The backends with the same resource as `backend`. They share their objects.
    pub fn resource_of(&self, backend: usize) -> BackendSet {
        let Some(one) = self.backends.get(backend).map(Backend::resource) else {
            return BackendSet::default();
        };
        let backends = self.backends.iter().enumerate();
        let same = backends.filter(|(_, backend)| backend.resource() == one);
        same.map(|(index, _)| index).collect()
    }

    /// The backends that have this API according to the configuration.
    pub fn backends_with(&self, api: Api) -> BackendSet {
        let backends = self.backends.iter().enumerate();
        let having = backends.filter(|(_, backend)| backend.has(api));
        having.map(|(index, _)| index).collect()
    }

    /// Whether the backends belong to several resources. Ids of objects then need tags.
    pub fn has_several_resources(&self) -> bool {
        let mut resources = self.backends.iter().map(Backend::resource);
        let first = resources.next();
        resources.any(|other| Some(other) != first)
    }

    /// Whether a request's `prompt_cache_key` affects the choice of its backend.
    pub fn reads_cache_keys(&self) -> bool {
        let by = self.affinity.as_ref().map(|rules| &rules.by);
        by == Some(&AffinityKey::PromptCacheKey)
    }

    /// The reason why a backend that refuses a new token gets no requests, and how to fix it.
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

    /// The tags that name resources in ids of objects.
    pub fn tags(&self) -> Tags {
        // The parser refuses two resources with the same tag.
        Tags::new(self.backends.iter().map(Backend::resource)).unwrap_or_default()
    }

    /// The time limit for the first byte of an attempt on `backend` that the filter sets for Envoy's router.
    ///
    /// With the router engine, Envoy has one limit for all attempts of a request. The filter then sets the largest limit of all
    /// backends, so that no backend has less time than its own limit.
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

/// The rule that chooses among backends of the same priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// In proportion to the tokens left of each backend's quota. An unknown quota counts as the average.
    LeastThrottled,
}
