//! The current attempt's headers and body.

use alloc::borrow::Cow;

use super::Exchange;
use crate::attempt::{Attempt, RequestEdits};
use crate::balancer::Balancer;
use crate::client_credentials::is_credential_header;
use crate::config::Engine;
use crate::host::Host;
use crate::prelude::*;
use crate::replay::BodyCopy;
use crate::splices::Splices;

/// The edits of a body.
pub struct BodyEdit<'a> {
    /// The changes.
    pub splices: Splices,
    /// The original body, if the filter has a complete copy.
    pub bytes: Option<&'a [u8]>,
}

/// A call that retries the request.
pub struct Call<'a> {
    /// The attempt.
    pub attempt: Attempt<'a>,
    /// The path, if it differs from the client's.
    path: Option<String>,
    /// The body, if it differs from the client's.
    spliced: Option<Vec<u8>>,
    exchange: &'a Exchange,
}

impl Call<'_> {
    /// The headers.
    pub fn headers<'c, H: Host>(&'c self, balancer: &'c Balancer<H>) -> Vec<(&'c str, &'c str)> {
        self.attempt.headers(
            &balancer.config.headers,
            self.path.as_deref(),
            self.exchange.original.iter_utf8(),
        )
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        let copied = self.exchange.body.bytes();
        self.spliced.as_deref().unwrap_or(copied)
    }

    /// The trailers, without the client's credentials.
    pub fn trailers(&self) -> Vec<(&str, &str)> {
        let trailers = self.exchange.trailers.iter_utf8();
        trailers
            .filter(|(name, _)| !is_credential_header(name.as_bytes()))
            .collect()
    }
}

impl Exchange {
    /// The current attempt with its credential.
    fn attempt<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> Option<Attempt<'a>> {
        let backend = self.attempts.backend();
        Some(Attempt {
            request: &self.request,
            backend: balancer.config.backends.get(backend)?,
            credential: self.authorization.as_ref()?.credential(),
            timeout_ms: balancer.timeout_ms(backend),
            growth: match self.may_change_body() {
                true => self.splices(balancer).delta(),
                false => 0,
            },
            reads_answer: self.request.accepts_encodings
                && (self.request.tags_answer(&balancer.config) || self.may_request_usage(balancer)),
        })
    }

    /// Edits of the client's headers for the first attempt. A request for which this fails must not leave, because it
    /// may still have the client's credentials.
    pub fn edits<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> RequestEdits<'a> {
        let Some(attempt) = self.attempt(balancer) else {
            return RequestEdits::default();
        };
        let mut edits = attempt.edits(&balancer.config, || self.client_path());
        if self.engine == Engine::Router {
            self.instruct_router(&balancer.config, &mut edits);
        }
        edits
    }

    /// Edits of the client's body before it goes to the router.
    pub fn body_edit<H: Host>(&self, balancer: &Balancer<H>) -> Option<BodyEdit<'_>> {
        if !self.may_change_body() {
            return None;
        }
        let splices = self.splices(balancer);
        if splices.is_empty() {
            return None;
        }
        let bytes = match &self.body {
            BodyCopy::Complete { bytes, .. } => Some(bytes.as_slice()),
            _ => None,
        };
        Some(BodyEdit { splices, bytes })
    }

    /// The call that retries the request.
    pub fn call<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> Option<Call<'a>> {
        let attempt = self.attempt(balancer)?;
        let path = attempt.path(|| self.client_path());
        let path = path.map(Cow::into_owned);
        let splices = self.splices(balancer);
        Some(Call {
            attempt,
            path,
            spliced: (!splices.is_empty()).then(|| splices.apply(self.body.bytes())),
            exchange: self,
        })
    }

    /// Whether the body may need changes for a backend.
    fn may_change_body(&self) -> bool {
        let request = &self.request;
        !request.cuts.is_empty() || request.model.is_some() || request.plain_stream.is_some()
    }

    /// Edits of the body in the listener's filter.
    fn splices<H: Host>(&self, balancer: &Balancer<H>) -> Splices {
        match self.engine {
            Engine::Filter => {
                let index = self.attempts.backend();
                let backend = balancer.config.backends.get(index);
                let mut splices =
                    backend.map_or_else(Splices::default, |backend| self.request.splices(backend));
                if self.requests_usage(index, balancer) {
                    self.request.request_usage(&mut splices);
                }
                splices
            }
            // The upstream filter sets the deployment's name for each attempt.
            Engine::Router => self.request.cuts.clone(),
        }
    }

    /// The path as the client sent it.
    pub(super) fn client_path(&self) -> &str {
        self.original.get(":path").unwrap_or_default()
    }
}
