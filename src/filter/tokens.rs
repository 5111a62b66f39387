//! The access token on one worker: its share of the work to keep the token fresh.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::envoy::Envoy;
use super::host::{self, Buffer, HostError, Map};
use crate::core::config::{Identity, Source};
use crate::core::identity::source;
use crate::core::identity::{claims, Failure, Fetched, Record, TokenStore};
use crate::core::metrics::Event;
use crate::core::text::number;
use crate::core::time::{Pretty, Timestamp};

/// One worker's view of the token.
pub(crate) struct Tokens {
    identity: Identity,
    store: Rc<TokenStore<Envoy>>,
    /// The call that fetches, if it is this worker's.
    fetching: Cell<Option<u32>>,
    last_failure: RefCell<Option<Failure>>,
}

impl Tokens {
    /// The work for `identity`'s token in `store`.
    pub(crate) fn new(identity: Identity, store: Rc<TokenStore<Envoy>>) -> Self {
        Self {
            identity,
            store,
            fetching: Cell::default(),
            last_failure: RefCell::default(),
        }
    }

    /// Takes over what other workers found, and starts a fetch if it falls to this one.
    ///
    /// # Errors
    /// What the host refused; the next tick tries again.
    #[inline(never)]
    pub(crate) fn keep_fresh(
        &self,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), HostError> {
        if self.store.is_fresh(now) {
            return Ok(());
        }
        if self.store.claim_fetch(now, self.identity.fetch_timeout)? {
            count(Event::TokenFetch);
            self.fetch(now, count)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn fetch(&self, now: Timestamp, count: &dyn Fn(Event)) -> Result<(), HostError> {
        let identity = &self.identity;
        let headers = source::request(identity);
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let call = host::call(
            &identity.cluster,
            headers.collect(),
            &[],
            Vec::new(),
            identity.fetch_timeout,
        );
        match call {
            Ok(call) => {
                self.fetching.set(Some(call));
                Ok(())
            }
            Err(error) => {
                let failure = Failure::Misconfigured {
                    reason: format!(
                        "{}.cluster: Envoy did not take a call to {:?} ({error}); use the name of a cluster it has",
                        self.identity.label(), identity.cluster
                    ),
                };
                self.finish(Err(failure), now, count)
            }
        }
    }

    /// The answer to `call`, if that is the fetch.
    ///
    /// # Errors
    /// What the host refused; the lease ends by itself.
    pub(crate) fn on_call_response(
        &self,
        call: u32,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), HostError> {
        if self.fetching.get() != Some(call) {
            return Ok(());
        }
        self.fetching.set(None);
        const LARGEST_ANSWER: usize = 64 * 1024;
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, LARGEST_ANSWER)?;
        let status = headers
            .get(":status")
            .and_then(|status| number(status.as_bytes()));
        let answer = source::read_answer(status, headers.get("retry-after"), &body, now);
        self.finish(answer, now, count)
    }

    fn finish(
        &self,
        answer: Result<Fetched, Failure>,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), HostError> {
        let record = self.store.finish(&answer, now)?;
        match answer {
            Ok(fetched) => self.log_token(&fetched, now),
            Err(failure) => {
                count(Event::TokenFailure);
                self.log_failure(failure, &record, now);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn log_token(&self, fetched: &Fetched, now: Timestamp) {
        if let Ok(mut last) = self.last_failure.try_borrow_mut() {
            *last = None;
        }
        let claims = claims::read(fetched.token.reveal()).unwrap_or_default();
        log::info!(
            "{}: new access token for {} (audience {}, identity {}), expires in {}",
            self.identity.label(),
            self.identity.resource,
            claims.audience.as_deref().unwrap_or("unknown"),
            claims.object_id.as_deref().unwrap_or("unknown"),
            Pretty(Duration::from_secs(fetched.expires_on.since(now).as_secs())),
        );
    }

    /// Once per kind of failure, not once per try.
    #[inline(never)]
    fn log_failure(&self, failure: Failure, record: &Record, now: Timestamp) {
        let Ok(mut last) = self.last_failure.try_borrow_mut() else {
            return;
        };
        if last.as_ref() == Some(&failure) {
            return;
        }
        let wait = Pretty(record.next_fetch(now).since(now));
        let serving = match record.token(now) {
            Some(token) => format!(
                "the old token serves for {}",
                Pretty(Duration::from_secs(token.expires_on.since(now).as_secs()))
            ),
            None => "requests are answered 503".to_owned(),
        };
        let label = self.identity.label();
        match &failure {
            Failure::Transient { reason, .. } => {
                log::warn!("{label}: no token ({reason}); next try in {wait}; {serving}");
            }
            Failure::Updating { .. } => {
                log::warn!("{label}: the token service is being updated (status 410); next try in {wait}; {serving}");
            }
            Failure::Malformed { reason } => {
                log::warn!("{label}: an answer without a usable token ({reason}); next try in {wait}; {serving}");
            }
            Failure::Misconfigured { reason } => {
                log::error!(
                    "{label}: the token service refused ({reason}); check the identity of this machine and the \
                     plugin's `{label}`; next try in {wait}; {serving}"
                );
            }
        }
        *last = Some(failure);
    }
}

/// Where tokens come from, for logs.
#[inline(never)]
pub(crate) fn describe(identities: &[Identity]) -> String {
    let mut sources = Vec::new();
    for identity in identities {
        let source = match identity.source {
            Source::Imds { .. } => "IMDS",
            Source::AppService { .. } => "App Service",
        };
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    match sources.is_empty() {
        true => "nowhere: every backend has a key".to_owned(),
        false => sources.join(" and "),
    }
}
