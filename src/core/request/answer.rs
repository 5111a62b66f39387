//! The expected properties of a request's answer.

use super::Request;
use crate::config::{Backend, Config, Ids};
use crate::operation::{parameters, Api, State, Surface};
use crate::splices::Splices;

/// The value of `stream`.
pub(super) const TRUE: &str = "true";

/// The replacement of `true` that makes the stream report its tokens.
const ASKING: &str = r#"true,"stream_options":{"include_usage":true}"#;

impl Request {
    /// Whether the answer may be an event stream of a model.
    pub fn may_stream(&self) -> bool {
        let operation = &self.operation;
        let is_asked = match operation.api {
            Some(Api::Chat | Api::Messages) => operation.state == State::None,
            Some(Api::Responses) => operation.state == State::MakesResponse,
            _ => false,
        };
        is_asked && !self.upgrade && !self.wants_no_stream
    }

    /// Whether an answer with status 200 reports its tokens. `path` is the client's.
    pub fn reports_usage(&self, path: &str) -> bool {
        let is_last = |name: &str| {
            let target = path.split('?').next().unwrap_or_default();
            let last = target.rsplit('/').find(|segment| !segment.is_empty());
            last.is_some_and(|last| last.eq_ignore_ascii_case(name))
        };
        let (api, state) = (self.operation.api, self.operation.state);
        let may_report = match api {
            Some(Api::Chat | Api::Embeddings | Api::Images) => state == State::None,
            Some(Api::Messages) => state == State::None && !is_last("count_tokens"),
            // Speech is audio data without a report.
            Some(Api::Audio) => !is_last("speech"),
            // `input_tokens` counts the tokens of a prompt without a response.
            Some(Api::Responses) => state == State::MakesResponse && !is_last("input_tokens"),
            _ => false,
        };
        may_report && !self.upgrade
    }

    /// Whether `backend` can be asked for the tokens of a stream whose client did not ask. `client_path` is the
    /// client's path.
    ///
    /// The version of the dated API has to support the option ([versions]).
    ///
    /// [versions]: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
    pub fn requests_usage(&self, client_path: &str, backend: &Backend, config: &Config) -> bool {
        const KNOWN_SINCE: &str = "2024-09-01";
        if self.plain_stream.is_none() || !config.usage.asks() {
            return false;
        }
        // The older completions API does not count as chat here.
        let target = self.path(client_path).split('?').next();
        let mut segments = target.unwrap_or_default().rsplit('/');
        let segment = segments.find(|it| it.eq_ignore_ascii_case("completions"));
        let before = segments.next().filter(|_| segment.is_some());
        if !before.is_some_and(|it| it.eq_ignore_ascii_case("chat")) {
            return false;
        }
        let of_client = || {
            let path = self.path(client_path);
            let parameter = parameters(path, "api-version").next()?;
            path.get(parameter)?
                .split_once('=')
                .map(|(_, version)| version)
        };
        match self.surface {
            Some(Surface::V1) => true,
            Some(Surface::Dated) => {
                let own = backend.api_version.as_deref();
                let version = own.or_else(of_client).unwrap_or_default();
                version
                    .get(..KNOWN_SINCE.len())
                    .is_some_and(|date| date >= KNOWN_SINCE)
            }
            _ => false,
        }
    }

    /// The edit of the body that makes its stream report tokens.
    pub fn request_usage(&self, splices: &mut Splices) {
        if let Some(range) = &self.plain_stream {
            let range = self.cuts.moved(range.start)..self.cuts.moved(range.end);
            // No other edit overlaps this range, so it cannot fail.
            let _ = splices.replace(range, ASKING.as_bytes());
        }
    }

    /// Whether ids in the answer need tags.
    pub fn tags_answer(&self, config: &Config) -> bool {
        self.operation.state.answers_with_objects()
            && config.state.ids == Ids::Tagged
            && config.has_several_resources()
    }

    /// Whether the request opens a WebSocket whose frames would need tagged ids. The filter does not read frames.
    pub fn hides_ids(&self, config: &Config) -> bool {
        let is_responses = self.operation.api == Some(Api::Responses);
        self.upgrade && is_responses && self.tags_answer(config)
    }

    /// Whether the request is for a chat completion.
    pub(super) fn is_chat(&self) -> bool {
        self.operation.api == Some(Api::Chat) && self.operation.state == State::None
    }
}
