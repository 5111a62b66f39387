//! The body of a request: the facts that the filter needs from it, and its edits.

use core::ops::Range;

use super::answer::TRUE;
use super::{BodyForm, Objects, Request};
use crate::config::{Backend, Config, Ids};
use crate::demand::DeploymentId;
use crate::json::scan::{Findings, FOR_BATCH};
use crate::multipart::Value;
use crate::operation::{Api, Deployment, State};
use crate::prelude::*;
use crate::splices::Splices;
use crate::state::ids::Tags;

/// The fact that the filter needs from a body before it can choose a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No fact.
    Nothing,
    /// The `prompt_cache_key`. A request without one is served too.
    CacheKey,
    /// The deployment.
    Deployment,
    /// The objects that the body names, and the deployment.
    Objects,
    /// The purpose of the file that the request creates.
    Purpose,
    /// A fact that cannot be read, because the body is encoded.
    Unreadable,
    /// Whether the request asks for the tokens of its stream.
    StreamOptions,
}

/// The facts in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or malformed content, which the backend has to refuse.
    Nothing,
    /// The facts in a JSON document.
    Json(Findings),
    /// The `model` or the `purpose` in a form.
    Form(Value),
}

/// The name of the deployment in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The byte range of the name.
    pub range: Range<usize>,
    /// The name that the client uses.
    pub name: String,
}

impl Request {
    /// The fact that the filter needs from the body before it can choose a backend. `models_matter` if a backend lacks
    /// a deployment that others may have. Then the deployment is useful, but not required.
    pub fn needs(&self, config: &Config, models_matter: bool) -> Need {
        match self.encoding() {
            None => self.needs_of_plain(config, models_matter),
            Some(_) => match self.needs_of_plain(config, false) {
                // A file of unknown purpose can be created too.
                Need::Nothing | Need::Purpose | Need::CacheKey | Need::StreamOptions => {
                    Need::Nothing
                }
                Need::Deployment | Need::Objects | Need::Unreadable => Need::Unreadable,
            },
        }
    }

    fn needs_of_plain(&self, config: &Config, models_matter: bool) -> Need {
        // With one backend too: the ids may be from a time with more backends.
        let objects = config.state.ids == Ids::Tagged
            && !matches!(self.operation.state, State::None | State::Contents);
        let is_json = self.form == BodyForm::Json;
        if self.upgrade {
            Need::Nothing
        } else if objects && is_json {
            Need::Objects
        } else if objects
            && self.operation.state == State::MakesFile
            && config.has_several_resources()
        {
            Need::Purpose
        } else if self.operation.deployment == Deployment::InBody
            && (models_matter || !config.backends.iter().all(Backend::takes_any_deployment))
        {
            Need::Deployment
        } else if self.may_have_cache_key() && config.reads_cache_keys() {
            Need::CacheKey
        } else if models_matter && self.is_chat() && config.usage.asks() {
            Need::StreamOptions
        } else {
            Need::Nothing
        }
    }

    /// Whether the API supports `prompt_cache_key`.
    fn may_have_cache_key(&self) -> bool {
        self.form == BodyForm::Json
            && matches!(self.operation.api, Some(Api::Chat | Api::Responses))
    }

    /// Applies the facts that were found in the body.
    pub fn learn(&mut self, found: Found, tags: &Tags) {
        self.has_known_body = true;
        match found {
            Found::Nothing => {}
            Found::Form(value) if self.operation.state == State::MakesFile => {
                self.for_batch = value.text.as_deref() == Some(FOR_BATCH);
            }
            Found::Form(value) => {
                self.take_model(value.range, value.text);
            }
            Found::Json(findings) => {
                for tagged in &findings.tags {
                    if let Some(backend) = tags.backend_of(tagged.tag) {
                        self.objects = self.objects.also(Some(backend));
                        // Tags do not overlap, so this cannot fail.
                        let _ = self.cuts.cut(tagged.range());
                    }
                }
                if findings.untagged && self.objects == Objects::None {
                    self.objects = Objects::Unsaid;
                }
                self.in_background = findings.background;
                self.for_batch = findings.for_batch;
                self.wants_no_stream = !findings.stream;
                if findings.stream && !findings.fixes_stream_options && self.is_chat() {
                    let end = findings.stream_end;
                    self.plain_stream = Some(end.saturating_sub(TRUE.len())..end);
                }
                self.cache_key = findings.cache_key;
                if let Some(model) = findings.model {
                    self.take_model(model.range, model.name);
                }
            }
        }
    }

    fn take_model(&mut self, range: Range<usize>, name: Option<String>) {
        if self.operation.deployment != Deployment::InBody {
            return;
        }
        if let Some(name) = name {
            self.deployment = Some(DeploymentId::of(&name));
            self.model = Some(Model { range, name });
        }
    }

    /// Whether the request may name a deployment in an unread body.
    pub fn names_unread_deployment(&self) -> bool {
        let is_unread = self.deployment.is_none() && !self.has_known_body;
        self.operation.deployment == Deployment::InBody && is_unread
    }

    /// The edits of the body for `backend`.
    pub fn splices(&self, backend: &Backend) -> Splices {
        let mut splices = self.cuts.clone();
        if let Some((model, alias)) = self.alias(backend) {
            // A model and the tag of an id do not overlap.
            let _ = splices.replace(model.range.clone(), alias.as_bytes());
        }
        splices
    }

    /// The edits for `backend` in a body from which the tags are already cut.
    pub fn renaming(&self, backend: &Backend) -> Splices {
        let mut splices = Splices::default();
        if let Some((model, alias)) = self.alias(backend) {
            let range = self.cuts.moved(model.range.start)..self.cuts.moved(model.range.end);
            // This is the only edit, so it cannot fail.
            let _ = splices.replace(range, alias.as_bytes());
        }
        splices
    }

    fn alias<'a>(&'a self, backend: &'a Backend) -> Option<(&'a Model, &'a str)> {
        let model = self.model.as_ref()?;
        let alias = backend.deployments.alias(&model.name)?;
        Some((model, alias))
    }
}
