//! The access token on one worker: a local copy of the shared record, and its share of the work to keep that fresh.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::host::{self, Buffer, HostError, Map};
use super::swap::{create_shared, read_shared, swap_shared};
use crate::core::attempt::Credential;
use crate::core::config::{Identity, Secret, Source};
use crate::core::identity::source;
use crate::core::identity::{claims, Failure, Fetched, Record};
use crate::core::metrics::Event;
use crate::core::shared;
use crate::core::text::number;
use crate::core::time::{Pretty, Timestamp};

/// A token or a key in the form requests use it.
pub(crate) struct Authorization {
    name: &'static str,
    value: String,
    /// Which of the tokens there have been.
    pub(crate) generation: u32,
    expires_on: Timestamp,
    refresh_at: Timestamp,
}

impl Authorization {
    /// With a backend's key.
    pub(crate) fn with_key(key: &Secret) -> Self {
        Self {
            name: "api-key",
            value: key.reveal().to_owned(),
            generation: 0,
            expires_on: Timestamp::from_millis(u64::MAX),
            refresh_at: Timestamp::from_millis(u64::MAX),
        }
    }

    /// The header that carries it.
    pub(crate) fn credential(&self) -> Credential<'_> {
        Credential {
            name: self.name,
            value: &self.value,
        }
    }

    pub(crate) fn seconds_left(&self, now: Timestamp) -> u64 {
        self.expires_on.since(now).as_secs()
    }
}

/// What became of the wish for a newer token.
pub(crate) enum Renewal {
    /// Here it is.
    Done(Rc<Authorization>),
    /// It is being fetched.
    Pending,
    /// None is to be had soon.
    Failed,
}

/// One worker's view of the token.
pub(crate) struct Tokens {
    identity: Identity,
    key: String,
    current: RefCell<Option<Rc<Authorization>>>,
    /// The call that fetches, if it is this worker's.
    fetching: Cell<Option<u32>>,
    /// When a token may be there, as far as this worker knows.
    expected: Cell<Timestamp>,
    last_failure: RefCell<Option<Failure>>,
}

impl Tokens {
    /// The view of `identity`'s token, and the shared record if no other worker has made it.
    pub(crate) fn new(identity: Identity) -> Result<Self, HostError> {
        let tokens = Self {
            key: shared::token_key(&identity),
            identity,
            current: RefCell::default(),
            fetching: Cell::default(),
            expected: Cell::default(),
            last_failure: RefCell::default(),
        };
        // A value that does not exist cannot be compared and swapped, so the first to be configured creates it.
        create_shared(&tokens.key, &Record::default().encode())?;
        Ok(tokens)
    }

    /// Where the configuration has the identity.
    fn label(&self) -> String {
        match &self.identity.name {
            Some(name) => format!("identities.{name}"),
            None => "identity".to_owned(),
        }
    }

    /// The token, unless it is missing or expired.
    pub(crate) fn current(&self, now: Timestamp) -> Option<Rc<Authorization>> {
        let current = self.current.try_borrow().ok()?;
        let current = current.as_ref().filter(|token| now < token.expires_on);
        current.cloned()
    }

    /// How long a request may wait for a token.
    pub(crate) fn wait_timeout(&self) -> Duration {
        self.identity.wait_timeout
    }

    /// How long until a token may be there, seen from a request that has none.
    pub(crate) fn expected_wait(&self, now: Timestamp) -> Duration {
        self.expected.get().since(now)
    }

    /// Takes over what other workers found.
    ///
    /// # Errors
    /// What the host refused.
    pub(crate) fn sync(&self, now: Timestamp) -> Result<(), HostError> {
        let record = self.read()?;
        self.adopt(&record, now);
        Ok(())
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
        if self
            .current(now)
            .is_some_and(|token| now < token.refresh_at)
        {
            return Ok(());
        }
        let (record, claimed) = swap_shared(&self.key, |bytes| {
            let mut record = Record::decode(bytes);
            let claimed = record.claim_fetch(now, self.identity.fetch_timeout);
            let store = claimed.then(|| record.encode());
            ((record, claimed), store)
        })?;
        self.adopt(&record, now);
        if claimed {
            count(Event::TokenFetch);
            self.fetch(now, count)?;
        }
        Ok(())
    }

    /// A backend refused the token of `generation`: asks for a newer one.
    ///
    /// # Errors
    /// What the host refused.
    pub(crate) fn renew(&self, generation: u32, now: Timestamp) -> Result<Renewal, HostError> {
        let record = swap_shared(&self.key, |bytes| {
            let record = Record::decode(bytes);
            let mut marked = record.clone();
            marked.refused(generation, now);
            let store = (marked != record).then(|| marked.encode());
            (marked, store)
        })?;
        self.adopt(&record, now);
        Ok(self.renewal_in(&record, generation, now))
    }

    /// What has become of a renewal that was asked for.
    ///
    /// # Errors
    /// What the host refused.
    pub(crate) fn renewal(&self, generation: u32, now: Timestamp) -> Result<Renewal, HostError> {
        let record = self.read()?;
        self.adopt(&record, now);
        Ok(self.renewal_in(&record, generation, now))
    }

    fn renewal_in(&self, record: &Record, generation: u32, now: Timestamp) -> Renewal {
        match self.current(now) {
            Some(token) if token.generation != generation => Renewal::Done(token),
            _ if record.renewing(now) => Renewal::Pending,
            _ => Renewal::Failed,
        }
    }

    fn read(&self) -> Result<Record, HostError> {
        read_shared(&self.key, Record::decode)
    }

    fn adopt(&self, record: &Record, now: Timestamp) {
        self.expected.set(record.token_expected(now));
        let Ok(mut current) = self.current.try_borrow_mut() else {
            return;
        };
        let Some(token) = record.token(now) else {
            *current = None;
            return;
        };
        match current.as_deref() {
            Some(old)
                if old.generation == token.generation && old.refresh_at == token.refresh_at => {}
            _ => {
                *current = Some(Rc::new(Authorization {
                    name: "authorization",
                    value: format!("Bearer {}", token.secret.reveal()),
                    generation: token.generation,
                    expires_on: token.expires_on,
                    refresh_at: token.refresh_at,
                }));
            }
        }
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
                        self.label(), identity.cluster
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
        let record = swap_shared(&self.key, |bytes| {
            let mut record = Record::decode(bytes);
            match &answer {
                Ok(fetched) => record.fetched(fetched.clone(), now),
                Err(failure) => record.failed(failure, now),
            }
            let bytes = record.encode();
            (record, Some(bytes))
        })?;
        self.adopt(&record, now);
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
            self.label(),
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
        let label = self.label();
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
