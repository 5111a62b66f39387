//! One worker's view of an identity's token. All workers share the record.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::time::Duration;

use super::{Before, Failure, Fetched, Record};
use crate::attempt::Credential;
use crate::config::Secret;
use crate::prelude::*;
use crate::swap::{create, read, swap, SharedMap, SwapError};
use crate::time::Timestamp;

/// A token or a key, formatted for requests.
pub struct Authorization {
    name: &'static str,
    value: String,
    /// The number of the token, see [`Token::generation`](super::record::Token::generation).
    pub generation: u32,
    /// The expiry.
    pub expires_on: Timestamp,
    /// The time from which a newer token should be fetched.
    pub refresh_at: Timestamp,
}

impl fmt::Debug for Authorization {
    /// Omits the value, which is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Authorization {
    /// The client's own key for the resource that issued it, with `Bearer`.
    pub fn with_session_key(value: &str) -> Self {
        Self {
            name: "authorization",
            value: value.to_owned(),
            generation: 0,
            expires_on: Timestamp::from_millis(u64::MAX),
            refresh_at: Timestamp::from_millis(u64::MAX),
        }
    }

    /// A backend's key, which does not expire.
    pub fn with_key(key: &Secret) -> Self {
        Self {
            name: "api-key",
            value: key.reveal().to_owned(),
            generation: 0,
            expires_on: Timestamp::from_millis(u64::MAX),
            refresh_at: Timestamp::from_millis(u64::MAX),
        }
    }

    /// The header with the credential.
    pub fn credential(&self) -> Credential<'_> {
        Credential {
            name: self.name,
            value: &self.value,
        }
    }

    /// Whole seconds until the token expires.
    pub fn seconds_left(&self, now: Timestamp) -> u64 {
        self.expires_on.since(now).as_secs()
    }
}

/// The state of a requested renewal.
#[derive(Clone)]
pub enum Renewal {
    /// The newer token.
    Done(Rc<Authorization>),
    /// The newer token is being fetched.
    Pending,
    /// The refused token was itself fetched recently, after another refusal.
    IsNew,
    /// No newer token will arrive soon.
    Failed,
}

/// One worker's view of the token in the map `M`.
pub struct TokenStore<M> {
    map: M,
    key: String,
    current: RefCell<Option<Rc<Authorization>>>,
    /// The time when a token may arrive, as far as this worker knows.
    expected: Cell<Timestamp>,
}

impl<M: SharedMap> TokenStore<M> {
    /// The view of the token record at `key`. Creates the record if no other worker has.
    ///
    /// # Errors
    /// The map refused an operation.
    pub fn new(map: M, key: String) -> Result<Self, SwapError<M::Error>> {
        // Compare-and-swap cannot create a value, so the first configured worker creates it.
        create(&map, &key, &Record::default().encode())?;
        Ok(Self {
            map,
            key,
            current: RefCell::default(),
            expected: Cell::default(),
        })
    }

    /// The token, unless it is missing or expired.
    pub fn current(&self, now: Timestamp) -> Option<Rc<Authorization>> {
        let current = self.current.borrow();
        let current = current.as_ref().filter(|token| now < token.expires_on);
        current.cloned()
    }

    /// Whether the token exists and needs no refresh yet.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let current = self.current(now);
        current.is_some_and(|token| now < token.refresh_at)
    }

    /// The expected time until a missing token arrives.
    pub fn expected_wait(&self, now: Timestamp) -> Duration {
        self.expected.get().since(now)
    }

    /// Reads what other workers stored.
    ///
    /// # Errors
    /// The map refused an operation.
    pub fn sync(&self, now: Timestamp) -> Result<(), SwapError<M::Error>> {
        let record = self.read()?;
        self.adopt(&record, now);
        Ok(())
    }

    /// Reads what other workers stored. `true` if this worker has to fetch a token within `fetch_timeout`.
    ///
    /// # Errors
    /// The map refused an operation. Try again later.
    pub fn claim_fetch(
        &self,
        now: Timestamp,
        fetch_timeout: Duration,
    ) -> Result<bool, SwapError<M::Error>> {
        let (record, claimed) = swap(&self.map, &self.key, |bytes| {
            let mut record = Record::decode(bytes);
            let claimed = record.claim_fetch(now, fetch_timeout);
            let store = claimed.then(|| record.encode());
            ((record, claimed), store)
        })?;
        self.adopt(&record, now);
        Ok(claimed)
    }

    /// Stores the result of a fetch. Returns the new record.
    ///
    /// # Errors
    /// The map refused an operation. The lease then expires.
    pub fn finish(
        &self,
        answer: &Result<Fetched, Failure>,
        now: Timestamp,
    ) -> Result<Record, SwapError<M::Error>> {
        let record = swap(&self.map, &self.key, |bytes| {
            let mut record = Record::decode(bytes);
            match answer {
                Ok(fetched) => record.fetched(fetched.clone(), now),
                Err(failure) => record.failed(failure, now),
            }
            let bytes = record.encode();
            (record, Some(bytes))
        })?;
        self.adopt(&record, now);
        Ok(record)
    }

    /// Requests a token newer than the refused one of `generation`. `before` is the backend's last answer before the
    /// refusal.
    ///
    /// # Errors
    /// The map refused an operation.
    pub fn renew(
        &self,
        generation: u32,
        before: Before,
        now: Timestamp,
    ) -> Result<Renewal, SwapError<M::Error>> {
        let record = swap(&self.map, &self.key, |bytes| {
            let record = Record::decode(bytes);
            let mut marked = record.clone();
            marked.refused(generation, before, now);
            let store = (marked != record).then(|| marked.encode());
            (marked, store)
        })?;
        self.adopt(&record, now);
        Ok(self.renewal_in(&record, generation, now))
    }

    /// The state of a renewal that [`Self::renew`] began.
    ///
    /// # Errors
    /// The map refused an operation.
    pub fn renewal(&self, generation: u32, now: Timestamp) -> Result<Renewal, SwapError<M::Error>> {
        let record = self.read()?;
        self.adopt(&record, now);
        Ok(self.renewal_in(&record, generation, now))
    }

    fn renewal_in(&self, record: &Record, generation: u32, now: Timestamp) -> Renewal {
        match self.current(now) {
            Some(token) if token.generation != generation => Renewal::Done(token),
            _ if record.renewing(now) => Renewal::Pending,
            _ if record.was_renewed(generation, now) => Renewal::IsNew,
            _ => Renewal::Failed,
        }
    }

    fn read(&self) -> Result<Record, SwapError<M::Error>> {
        read(&self.map, &self.key, Record::decode)
    }

    fn adopt(&self, record: &Record, now: Timestamp) {
        self.expected.set(record.token_expected(now));
        let mut current = self.current.borrow_mut();
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
}
