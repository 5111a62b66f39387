//! What the client is answered: a backend's answer, signed, or one of the filter's own.

use std::borrow::Cow;
use std::time::Duration;

use super::{outcomes, Answer, AnswerBody, Journey};
use crate::core::config::Engine;
use crate::core::exchange::digit;
use crate::core::fleet::Wait;
use crate::core::metrics::Event;
use crate::core::plan::Plan;
use crate::core::reply::{retry_after, LocalReply};
use crate::core::request::Place;
use crate::core::why::Why;
use crate::filter::host::{self, HostError, Map};
use crate::filter::tagging::Tagging;

/// Headers of an answer that belong to its connection (RFC 9110, section 7.6.1), the status, which is given apart, and what a backend
/// tells an Envoy of its own health.
const NOT_PASSED_ON: [&[u8]; 6] = [
    b":status",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"x-envoy-immediate-health-check-fail",
];

/// What Envoy puts on the answer to a filter's call, in the place of the backend's own.
const SERVICE_TIME: &[u8] = b"x-envoy-upstream-service-time";

/// How an answer took the place of the one that Envoy has for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(in crate::filter) enum Replaced {
    /// By an answer of Envoy's own.
    ByReply,
    /// The headers and the body that Envoy has became those of the answer, which is to pass now.
    InPlace,
}

impl Journey {
    /// Answers the client for want of a backend.
    pub(in crate::filter) fn refuse(&self, wait: Wait) -> Result<(), HostError> {
        self.worker.count(match wait.throttled {
            true => Event::AllThrottled,
            false => Event::AllUnavailable,
        });
        self.reply_without_backend(&match self.request.place(&self.worker.config) {
            Place::Only(_) if self.worker.config.backends.len() > 1 => LocalReply::home_out(wait),
            _ => LocalReply::all_out(wait),
        })
    }

    /// Answers the client with a reply of the filter's own.
    pub(in crate::filter) fn reply(&self, reply: &LocalReply) -> Result<(), HostError> {
        self.reply_because(reply, self.why.as_deref())
    }

    /// [`Self::reply`] because no backend can be asked.
    #[inline(never)]
    pub(super) fn reply_without_backend(&self, reply: &LocalReply) -> Result<(), HostError> {
        let mut why = self.why.as_deref().cloned();
        if let Some(why) = &mut why {
            self.explain_others(why);
        }
        self.reply_because(reply, why.as_ref())
    }

    /// Explains why no other backend was chosen than those that were tried.
    #[inline(never)]
    pub(super) fn explain_others(&self, why: &mut Why) {
        let (config, backends) = (&self.worker.config, &self.worker.backends);
        let plan = match self.request.place(config) {
            _ if self.planned => *self.exchange.plan(),
            Place::Only(backend) => Plan::only(backend, config.backends.len()),
            Place::Anywhere | Place::Nowhere => Plan::default(),
        };
        let tokenless = |backend| self.worker.credentials.of(backend).is_none();
        backends.explain(config, &plan, &self.request.demand(), &tokenless, why);
    }

    fn reply_because(&self, reply: &LocalReply, why: Option<&Why>) -> Result<(), HostError> {
        let mut headers = reply.headers();
        let why = why.and_then(Why::text);
        if let (Some(name), Some(why)) = (&self.worker.config.headers.why, why) {
            headers.push((name, why.to_owned()));
        }
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
        self.reply_without_backend(&LocalReply::identity_unavailable(retry_after))
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
    ///
    /// Mostly by an answer of Envoy's own, to which the route adds its headers (`response_headers_to_add`). But Envoy gives such an answer
    /// a type if it has a body, and no type nor length if it has none, as the answer to a `HEAD` has none. An answer that would be
    /// changed by that takes the place of the one that Envoy has, if `put_body` can put its body there.
    #[inline(never)]
    pub(in crate::filter) fn replace(
        &self,
        answer: &Answer,
        put_body: &mut dyn FnMut(&[u8]) -> Result<bool, HostError>,
    ) -> Result<Replaced, HostError> {
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
        let is_from_call = self.worker.config.retry.engine == Engine::Filter;
        let replaced = |name: &[u8]| {
            !is_whole && name == b"content-encoding"
                || is_from_call && name == SERVICE_TIME
                || report.iter().any(|(other, _)| name == other.as_bytes())
        };
        let kept = answer.headers.iter();
        let kept = kept.filter(|(name, _)| !NOT_PASSED_ON.contains(name) && !replaced(name));
        let added = report
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut headers: Vec<_> = kept.chain(added).collect();
        let has = |name: &[u8]| headers.iter().any(|(known, _)| *known == name);
        let (has_type, has_length) = (has(b"content-type"), has(b"content-length"));
        let is_changed_by_reply = match body.is_empty() {
            true => has_type || has_length,
            false => !has_type,
        };
        if is_whole && is_changed_by_reply {
            let placed = put_body(body).and_then(|placed| {
                if placed {
                    put_headers(answer.status, &headers)?;
                }
                Ok(placed)
            });
            match placed {
                Ok(true) => return Ok(Replaced::InPlace),
                Ok(false) => {}
                Err(error) => log::error!("{error}"),
            }
        }
        // Envoy writes it itself.
        headers.retain(|(name, _)| *name != b"content-length");
        let tagged = match self.worker.tags.of_backend(answer.backend) {
            Some(tag) if self.request.tags_answer(&self.worker.config) => {
                Tagging::whole(tag, answer.status, &answer.headers, body)
            }
            _ => None,
        };
        let body = tagged.as_ref().unwrap_or(body);
        host::send_local_response(answer.status, "aoai_reissued", &headers, body)?;
        Ok(Replaced::ByReply)
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
        if self.why.is_some() || self.exchange.throttled().contains(backend) {
            for (name, value) in self.further_report(backend) {
                say(name, value.into())?;
            }
        }
        Ok(())
    }

    /// The headers that few answers have: an explanation, and the wait of all backends.
    #[inline(never)]
    fn further_report(&self, backend: usize) -> Vec<(&str, String)> {
        let config = &self.worker.config;
        let mut report = Vec::new();
        let why = self.why.as_deref().and_then(Why::text);
        if let (Some(header), Some(why)) = (&config.headers.why, why) {
            report.push((header.as_str(), why.to_owned()));
        }
        if self.exchange.throttled().contains(backend) {
            // The backend spoke for itself; the client asks all of those that can serve it.
            let plan = match self.request.place(config) {
                Place::Only(backend) => Plan::only(backend, config.backends.len()),
                Place::Anywhere | Place::Nowhere => Plan::default(),
            };
            let backends = &self.worker.backends;
            let wait = backends.wait_of_all(&plan, &self.request.demand());
            report.extend(wait.into_iter().flat_map(retry_after));
        }
        report
    }
}

/// Puts an answer's status and headers in the place of those that Envoy has.
#[inline(never)]
fn put_headers(status: u16, headers: &[(&[u8], &[u8])]) -> Result<(), HostError> {
    let status = status.to_string();
    let status: [(&[u8], &[u8]); 1] = [(b":status", status.as_bytes())];
    host::replace_headers(Map::ResponseHeaders, &[&status, headers].concat())
}
