//! The access token on one worker: its share of the work to keep the token fresh.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::envoy::Envoy;
use super::host::{self, Buffer, HostError, Map};
use crate::core::config::{Identity, Proof, Source};
use crate::core::identity::{
    claims, Answer, Call, Failure, Fetch, Fetched, Next, Record, TokenStore,
};
use crate::core::metrics::Event;
use crate::core::text::number;
use crate::core::time::{Pretty, Timestamp};

/// One worker's view of the token.
pub(crate) struct Tokens {
    identity: Identity,
    store: Rc<TokenStore<Envoy>>,
    /// The fetch and the call whose answer it awaits, if the fetch is this worker's.
    fetching: Cell<Option<(u32, Fetch)>>,
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
        let (fetch, call) = Fetch::start(&self.identity, now);
        self.make(fetch, &call, now, count)
    }

    /// Makes a call that the fetch needs.
    #[inline(never)]
    fn make(
        &self,
        fetch: Fetch,
        call: &Call,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), HostError> {
        let headers = call.headers.iter();
        let headers = headers.map(|(name, value)| (*name, value.as_str()));
        let made = host::call(
            &call.cluster,
            headers.collect(),
            call.body.reveal().as_bytes(),
            Vec::new(),
            call.timeout,
        );
        match made {
            Ok(number) => {
                self.fetching.set(Some((number, fetch)));
                Ok(())
            }
            Err(error) => {
                let failure = Fetch::refused(&self.identity, &call.cluster, &error.to_string());
                self.finish(Err(failure), now, count)
            }
        }
    }

    /// The answer to `call`, if that is the fetch's.
    ///
    /// # Errors
    /// What the host refused; the lease ends by itself.
    pub(crate) fn on_call_response(
        &self,
        call: u32,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), HostError> {
        let fetch = match self.fetching.take() {
            Some((number, fetch)) if number == call => fetch,
            other => {
                self.fetching.set(other);
                return Ok(());
            }
        };
        const LARGEST_ANSWER: usize = 64 * 1024;
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, LARGEST_ANSWER)?;
        let answer = Answer {
            status: headers
                .get(":status")
                .and_then(|status| number(status.as_bytes())),
            retry_after: headers.get("retry-after"),
            body: &body,
        };
        match fetch.on_answer(&self.identity, answer, now) {
            Next::Call(fetch, call) => self.make(fetch, &call, now, count),
            Next::Done(answer) => self.finish(answer, now, count),
        }
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
        let level = match failure.is_permanent() {
            true => log::Level::Error,
            false => log::Level::Warn,
        };
        log::log!(
            level,
            "{label}: {}; next try in {wait}; {serving}",
            failure.text(&label)
        );
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
            Source::Entra {
                proof: Proof::TokenFile { .. },
                ..
            } => "workload identity",
            Source::Entra {
                proof: Proof::Secret(_),
                ..
            } => "a client secret",
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
