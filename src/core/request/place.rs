//! Where a request may go, what it needs there, and whether it may go twice.

use alloc::borrow::Cow;

use super::Request;
use crate::config::{Config, Ids};
use crate::demand::{Demand, QuotaKey};
use crate::operation::{deployment_name, Api, Deployment, State};
use crate::outcome::Outcome;
use crate::plan::BackendSet;
use crate::prelude::*;

/// Where the objects that a request names live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objects {
    /// It names none.
    #[default]
    None,
    /// It names some whose ids do not say so.
    Unsaid,
    /// On the resource of this backend, the first of it.
    On(usize),
    /// On several resources, so that none can do what is asked for.
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

/// Where a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To any backend.
    Anywhere,
    /// To these only: those of one resource, or those that have an API.
    Only(BackendSet),
    /// To none: its objects live on several resources.
    Nowhere,
}

impl Request {
    /// Where it may go.
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

    /// What a backend must have to serve it.
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

    /// Whether it may be done again although it may have been done.
    pub fn is_repeatable(&self, config: &Config) -> bool {
        let once = !self.operation.state.is_repeatable() || self.in_background;
        !once || config.retry.repeat_creations
    }

    /// After what else than an answer that calls for it the router is to make another attempt, where that has to be said.
    ///
    /// The route says `reset`, which includes whatever ends an attempt that has gone out, for requests that say nothing.
    pub fn router_retries_on(&self, config: &Config) -> Option<&'static str> {
        match self.is_repeatable(config) {
            false => Some("connect-failure"),
            true if self.instructs_router => Some("reset"),
            true => None,
        }
    }

    /// What a backend spoke of with this `outcome`, for people: the API, or else the deployment, which the client chose.
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

    /// The deployment's name, as far as it was read.
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
