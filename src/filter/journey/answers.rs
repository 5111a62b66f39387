//! What the client is answered: a backend's answer, signed, or one of the filter's own.

use std::borrow::Cow;
use std::time::Duration;

use super::{outcomes, Answer, AnswerBody, Journey};
use crate::core::exchange::digit;
use crate::core::fleet::Wait;
use crate::core::metrics::Event;
use crate::core::plan::Plan;
use crate::core::reply::{retry_after, LocalReply};
use crate::core::request::Place;
use crate::filter::host::{self, HostError, Map};
use crate::filter::tagging::Tagging;

/// Headers of an answer that belong to its connection, or that Envoy writes itself.
const NOT_PASSED_ON: [&[u8]; 6] = [
    b":status",
    b"connection",
    b"content-length",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
];

impl Journey {
    /// Answers the client for want of a backend.
    pub(in crate::filter) fn refuse(&self, wait: Wait) -> Result<(), HostError> {
        self.worker.count(match wait.throttled {
            true => Event::AllThrottled,
            false => Event::AllUnavailable,
        });
        self.reply(&match self.request.place(&self.worker.config) {
            Place::Only(_) if self.worker.config.backends.len() > 1 => LocalReply::home_out(wait),
            _ => LocalReply::all_out(wait),
        })
    }

    /// Answers the client with a reply of the filter's own.
    pub(in crate::filter) fn reply(&self, reply: &LocalReply) -> Result<(), HostError> {
        let mut headers = reply.headers();
        if let Some(name) = &self.worker.config.headers.attempts {
            headers.push((name, self.exchange.attempts().to_string()));
        }
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        host::send_local_response(reply.status, reply.code, &headers, &reply.body())
    }

    pub(in crate::filter) fn reply_without_token(
        &self,
        retry_after: Duration,
    ) -> Result<(), HostError> {
        self.worker.count(Event::IdentityUnavailable);
        self.reply(&LocalReply::identity_unavailable(retry_after))
    }

    /// Answers the client for want of any answer of a backend.
    pub(in crate::filter) fn reply_without_answer(&self) -> Result<(), HostError> {
        self.reply(&LocalReply::no_answer(
            self.timed_out,
            self.exchange.attempts(),
        ))
    }

    /// An answer of the current backend begins to pass to the client: its ids are tagged, if it has any.
    pub(in crate::filter) fn open_answer(&mut self) -> Result<(), HostError> {
        if self.request.tags_answer(&self.worker.config) {
            let tag = self.worker.tags.of_backend(self.exchange.backend());
            self.tagging = match tag {
                Some(tag) => Tagging::begin(tag, outcomes::status()?)?,
                None => None,
            };
        }
        Ok(())
    }

    /// So many bytes of that answer pass.
    pub(in crate::filter) fn pass_answer(&mut self, size: usize) -> Result<(), HostError> {
        match &mut self.tagging {
            Some(tagging) => tagging.pass(size),
            None => Ok(()),
        }
    }

    /// Answers the client with what a backend answered to an attempt.
    pub(in crate::filter) fn replace(&self, answer: &Answer) -> Result<(), HostError> {
        let mut report = Vec::new();
        self.report(answer.backend, |name, value| {
            report.push((name, value));
            Ok(())
        })?;
        let stalled_body;
        let body = match &answer.body {
            AnswerBody::Whole(body) => body,
            AnswerBody::Stalled => {
                report.push(("content-type", "application/json".into()));
                stalled_body = LocalReply::stalled_error(answer.status).body();
                &stalled_body
            }
        };
        let is_whole = matches!(answer.body, AnswerBody::Whole(_));
        let replaced = |name: &[u8]| {
            !is_whole && name == b"content-encoding"
                || report.iter().any(|(other, _)| name == other.as_bytes())
        };
        let kept = answer.headers.iter();
        let kept = kept.filter(|(name, _)| !NOT_PASSED_ON.contains(name) && !replaced(name));
        let added = report
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let headers: Vec<_> = kept.chain(added).collect();
        let tagged = match self.worker.tags.of_backend(answer.backend) {
            Some(tag) if self.request.tags_answer(&self.worker.config) => {
                Tagging::whole(tag, answer.status, &answer.headers, body)
            }
            _ => None,
        };
        let body = tagged.as_ref().unwrap_or(body);
        host::send_local_response(answer.status, "aoai_reissued", &headers, body)
    }

    /// Tells the client, on the answer that passes, which backend it is from and how many attempts it took.
    pub(in crate::filter) fn sign(&self, backend: usize) -> Result<(), HostError> {
        self.report(backend, |name, value| {
            host::set_header(Map::ResponseHeaders, name, &value)
        })
    }

    /// Tells `say` each header that the client gets with the answer of `backend`.
    fn report<'a>(
        &'a self,
        backend: usize,
        mut say: impl FnMut(&'a str, Cow<'a, str>) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let config = &self.worker.config;
        let name = config.backends.get(backend);
        if let (Some(header), Some(backend)) = (&config.headers.backend, name) {
            say(header, Cow::from(&backend.name))?;
        }
        if let Some(header) = &config.headers.attempts {
            say(header, digit(self.exchange.attempts()).into())?;
        }
        if self.exchange.throttled().contains(backend) {
            // The backend spoke for itself; the client asks all of those that can serve it.
            let plan = match self.request.place(config) {
                Place::Only(backend) => Plan::only(backend, config.backends.len()),
                Place::Anywhere | Place::Nowhere => Plan::default(),
            };
            let wait = self
                .worker
                .backends
                .wait_of_all(&plan, &self.request.demand());
            for (name, value) in wait.into_iter().flat_map(retry_after) {
                say(name, value.into())?;
            }
        }
        Ok(())
    }
}
