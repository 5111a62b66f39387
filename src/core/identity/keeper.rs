//! A worker's part in keeping an identity's token fresh.

use alloc::rc::Rc;
use core::time::Duration;

use super::{claims, Answer, Call, Failure, Fetch, Fetched, Next, Record, TokenStore};
use crate::config::{Identity, Proof, Source};
use crate::metrics::Event;
use crate::prelude::*;
use crate::swap::{SharedMap, SwapError};
use crate::time::{Pretty, Timestamp};

/// A worker's part in keeping one identity's token fresh. All workers share the map `M`.
///
/// It returns the calls to make, and takes their answers. All methods take the current time and a function that counts
/// events.
pub struct Keeper<M> {
    identity: Identity,
    store: Rc<TokenStore<M>>,
    /// This worker's fetch, if one runs, with the id of its call once the call was made.
    fetching: Option<(Option<u32>, Fetch)>,
    last_failure: Option<Failure>,
}

type Result<T, M> = core::result::Result<T, SwapError<<M as SharedMap>::Error>>;

impl<M: SharedMap> Keeper<M> {
    /// Keeps the token of `identity` in `store` fresh.
    pub fn new(identity: Identity, store: Rc<TokenStore<M>>) -> Self {
        Self {
            identity,
            store,
            fetching: None,
            last_failure: None,
        }
    }

    /// Reads what other workers stored. Returns a call if this worker has to fetch a token. Pass its result to
    /// [`Self::called`].
    ///
    /// # Errors
    /// The host refused access to its shared data. The next tick tries again.
    #[inline(never)]
    pub fn keep_fresh(&mut self, now: Timestamp, count: &dyn Fn(Event)) -> Result<Option<Call>, M> {
        if self.store.is_fresh(now) || !self.store.claim_fetch(now, self.identity.fetch_timeout)? {
            return Ok(None);
        }
        count(Event::TokenFetch);
        let (fetch, call) = Fetch::start(&self.identity, now);
        self.fetching = Some((None, fetch));
        Ok(Some(call))
    }

    /// Notes the result of a call to `cluster`: its id, or the host's reason to refuse it.
    ///
    /// # Errors
    /// The host refused access to its shared data. The lease then expires.
    pub fn called(
        &mut self,
        cluster: &str,
        made: core::result::Result<u32, String>,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), M> {
        match (made, &mut self.fetching) {
            (Ok(number), Some((call, _))) => *call = Some(number),
            (Ok(_), None) => {}
            (Err(reason), fetching) => {
                *fetching = None;
                let failure = Fetch::refused(&self.identity, cluster, &reason);
                self.finish(Err(failure), now, count)?;
            }
        }
        Ok(())
    }

    /// Whether the fetch awaits the answer to this call.
    pub fn awaits(&self, call: u32) -> bool {
        matches!(self.fetching, Some((Some(awaited), _)) if awaited == call)
    }

    /// Handles the answer to the awaited call. Another call may follow.
    ///
    /// # Errors
    /// The host refused access to its shared data. The lease then expires.
    pub fn on_answer(
        &mut self,
        answer: Answer<'_>,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<Option<Call>, M> {
        let Some((_, fetch)) = self.fetching.take() else {
            return Ok(None);
        };
        match fetch.on_answer(&self.identity, answer, now) {
            Next::Call(fetch, call) => {
                self.fetching = Some((None, fetch));
                Ok(Some(call))
            }
            Next::Done(answer) => self.finish(answer, now, count).map(|()| None),
        }
    }

    fn finish(
        &mut self,
        answer: core::result::Result<Fetched, Failure>,
        now: Timestamp,
        count: &dyn Fn(Event),
    ) -> Result<(), M> {
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
    fn log_token(&mut self, fetched: &Fetched, now: Timestamp) {
        self.last_failure = None;
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

    /// Logs each kind of failure once, not every try.
    #[inline(never)]
    fn log_failure(&mut self, failure: Failure, record: &Record, now: Timestamp) {
        if self.last_failure.as_ref() == Some(&failure) {
            return;
        }
        let wait = Pretty(record.next_fetch(now).since(now));
        let serving = match record.token(now) {
            Some(token) => format!(
                "the current token is valid for {}",
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
        self.last_failure = Some(failure);
    }
}

/// The sources of tokens, for the log.
#[inline(never)]
pub fn describe(identities: &[Identity]) -> String {
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
        true => "none, every backend has a key".to_owned(),
        false => sources.join(" and "),
    }
}
