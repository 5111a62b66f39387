//! The possible backends of a request, its demand, and whether it can be repeated.

use alloc::borrow::Cow;

use super::Request;
use crate::config::{Config, Ids};
use crate::demand::{Demand, QuotaKey};
use crate::operation::{deployment_name, Api, Deployment, State};
use crate::outcome::Outcome;
use crate::plan::BackendSet;
use crate::prelude::*;

/// The place of the objects that a request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objects {
    /// The request names no objects.
    #[default]
    None,
    /// The request names objects whose ids have no tag.
    Unsaid,
    /// On one resource. The index is that of its first backend.
    On(usize),
    /// On several resources, so that no backend can serve the request.
    Apart,
}

impl Objects {
    pub(super) fn also(self, on: Option<usize>) -> Self {
        match (self, on) {
            (known, None) => known,
            (Self::None | Self::Unsaid, Some(backend)) => Self::On(backend),
            (Self::On(known), Some(backend)) if known == backend => self,
            _ => Self::Apart,
        }
    }
}

/// The possible backends of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To any backend.
    Anywhere,
    /// Only these backends: those of one resource, or those with an API.
    Only(BackendSet),
    /// No backend, because its objects are on several resources.
    Nowhere,
}

impl Request {
    /// The possible backends of the request.
    pub fn place(&self, config: &Config) -> Place {
        let only = |backend| Place::Only(config.resource_of(backend));
        let home = || only(config.home(self.operation.api));
        if self.operation.api == Some(Api::Messages) {
            let having = config.backends_with(Api::Messages);
            return match having.len() == config.backends.len() {
                true => Place::Anywhere,
                false => Place::Only(having),
            };
        }
        match (self.objects, self.operation.state) {
            (Objects::On(backend), _) => only(backend),
            (Objects::Apart, _) => Place::Nowhere,
            (_, State::None) => Place::Anywhere,
            (Objects::None, State::Makes | State::MakesResponse | State::MakesKey)
                if config.state.ids == Ids::Tagged =>
            {
                Place::Anywhere
            }
            (Objects::None, State::MakesFile)
                if config.state.ids == Ids::Tagged && self.for_batch =>
            {
                Place::Anywhere
            }
            _ => home(),
        }
    }

    /// The properties that a backend needs to serve the request.
    pub fn demand(&self) -> Demand {
        Demand {
            deployment: self.deployment,
            api: self.operation.api,
            quota: match self.deployment {
                Some(deployment) => QuotaKey::of_deployment(deployment),
                None if self.names_unread_deployment() => QuotaKey::UNREAD,
                None => QuotaKey::of_api(self.operation.api),
            },
            size: self
                .content_length
                .map(|length| u32::try_from(length).unwrap_or(u32::MAX)),
            client: self.client,
        }
    }

    /// Whether the request can be repeated although it may have been carried out.
    pub fn is_repeatable(&self, config: &Config) -> bool {
        let once = !self.operation.state.is_repeatable() || self.in_background;
        !once || config.retry.repeat_creations
    }

    /// The failures after which the router should retry, if they differ from the route's.
    ///
    /// The route has `reset`, which covers any end of an attempt that was sent.
    pub fn router_retries_on(&self, config: &Config) -> Option<&'static str> {
        match self.is_repeatable(config) {
            false => Some("connect-failure"),
            true if self.instructs_router => Some("reset"),
            true => None,
        }
    }

    /// The subject of an answer with this `outcome`, for log lines: the API, or the deployment, whose name is the
    /// client's.
    pub fn wanted(&self, client_path: &str, outcome: Outcome) -> String {
        const SHOWN: usize = 64;
        if let (Outcome::ApiNotEnabled, Some(api)) = (outcome, self.operation.api) {
            return format!("API {}", api.name());
        }
        match (self.deployment_name(client_path), self.operation.api) {
            (Some(name), _) => {
                let name: String = name.chars().take(SHOWN).collect();
                format!("deployment {name:?}")
            }
            _ if self.names_unread_deployment() => "a deployment whose name was not read".into(),
            (None, Some(api)) => format!("API {}", api.name()),
            (None, None) => "everything without a deployment".into(),
        }
    }

    /// The deployment's name, if it was read.
    pub fn deployment_name<'a>(&'a self, client_path: &'a str) -> Option<Cow<'a, str>> {
        match (&self.operation.deployment, &self.model) {
            (Deployment::InPath(range), _) => {
                deployment_name(self.path(client_path), range.clone())
            }
            (_, Some(model)) => Some(model.name.as_str().into()),
            _ => None,
        }
    }
}
