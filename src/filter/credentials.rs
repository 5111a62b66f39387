//! What is shown to each backend: a key of its own, or the token of its identity.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::host::{self, HostError};
use super::tokens::Tokens;
use crate::core::config::{BackendCredential, Config};
use crate::core::identity::{Authorization, Before, Renewal};
use crate::core::metrics::Event;
use crate::core::plan::BackendSet;
use crate::core::time::Timestamp;

/// For want of a token no client is told to come back sooner than after this time.
pub(super) const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Nor later than after this one: what is not known must not read as never.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Identities, by their places in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identities(u32);

impl Identities {
    fn add(&mut self, identity: usize) {
        // A configuration has fewer than 32.
        self.0 |= u32::try_from(identity)
            .ok()
            .and_then(|identity| 1_u32.checked_shl(identity))
            .unwrap_or_default();
    }

    fn contains(self, identity: usize) -> bool {
        let mut one = Self::default();
        one.add(identity);
        self.0 & one.0 != 0
    }
}

/// The credentials of all backends, on one worker.
pub(crate) struct Credentials {
    /// By backend.
    sources: Vec<Source>,
    /// By identity.
    tokens: Vec<Tokens>,
    /// By backend: it accepted what it was last shown, as far as this worker knows.
    accepted: Vec<Cell<bool>>,
    /// Backends differ in what they need, so that some may be asked while others cannot.
    differ: bool,
    /// The last tick's time: it is looked at no more often than that whether a token is still good.
    now: Cell<Timestamp>,
}

enum Source {
    Key(Rc<Authorization>),
    Identity(usize),
}

impl Credentials {
    /// Those of `config`.
    #[inline(never)]
    pub(super) fn new(config: &Config) -> Result<Self, HostError> {
        let sources: Vec<_> = config
            .backends
            .iter()
            .map(|backend| match &backend.credential {
                BackendCredential::Key(key) => Source::Key(Rc::new(Authorization::with_key(key))),
                BackendCredential::Identity(identity) => Source::Identity(*identity),
            })
            .collect();
        let keys = sources
            .iter()
            .any(|source| matches!(source, Source::Key(_)));
        Ok(Self {
            accepted: sources.iter().map(|_| Cell::default()).collect(),
            sources,
            tokens: config
                .identities
                .iter()
                .cloned()
                .map(Tokens::new)
                .collect::<Result<_, _>>()?,
            differ: keys || config.identities.len() > 1,
            now: Cell::new(host::now()),
        })
    }

    /// What is shown to `backend`, if there is anything to show.
    ///
    /// A token is looked at once a tick, so "expired" may be a tick late; a backend then says so, and it is renewed.
    pub(crate) fn of(&self, backend: usize) -> Option<Rc<Authorization>> {
        match self.sources.get(backend)? {
            Source::Key(key) => Some(Rc::clone(key)),
            Source::Identity(identity) => self.token(*identity),
        }
    }

    fn token(&self, identity: usize) -> Option<Rc<Authorization>> {
        let (tokens, now) = (self.tokens.get(identity)?, self.now.get());
        let store = tokens.store();
        store.current(now).or_else(|| {
            // Another worker may have got one since the last tick.
            store.sync(now).ok()?;
            store.current(now)
        })
    }

    fn lacks_token(&self, identity: usize) -> bool {
        let tokens = self.tokens.get(identity);
        tokens.is_none_or(|tokens| tokens.store().current(self.now.get()).is_none())
    }

    /// Whether `backend` is shown a key.
    pub(crate) fn is_keyed(&self, backend: usize) -> bool {
        matches!(self.sources.get(backend), Some(Source::Key(_)))
    }

    /// The backends that cannot be asked now; `None` where there is no one who can. Backends that are all alike are looked at
    /// once.
    pub(super) fn tokenless(&self) -> Option<BackendSet> {
        let mut lacking = BackendSet::default();
        if !self.differ {
            return self.of(0).map(|_| lacking);
        }
        let (mut all, mut without) = (true, Identities::default());
        for identity in 0..self.tokens.len() {
            if self.token(identity).is_none() {
                without.add(identity);
            }
        }
        for (backend, source) in self.sources.iter().enumerate() {
            match source {
                Source::Identity(identity) if without.contains(*identity) => lacking.add(backend),
                _ => all = false,
            }
        }
        (!all).then_some(lacking)
    }

    /// The identities whose tokens would let one of these backends be asked, which cannot be asked now: as far as this worker has
    /// seen when it looked at the backends. What another one has stored since is for the tick, or there would be nothing to wait for.
    pub(crate) fn wanted(&self, backends: impl Fn(usize) -> bool) -> Identities {
        let mut wanted = Identities::default();
        for (backend, source) in self.sources.iter().enumerate() {
            match source {
                Source::Identity(identity) if backends(backend) && self.lacks_token(*identity) => {
                    wanted.add(*identity);
                }
                _ => {}
            }
        }
        wanted
    }

    fn each(&self, identities: Identities) -> impl Iterator<Item = &Tokens> {
        let tokens = self.tokens.iter().enumerate();
        let tokens = tokens.filter(move |(identity, _)| identities.contains(*identity));
        tokens.map(|(_, tokens)| tokens)
    }

    /// A token of one of these.
    pub(super) fn any(&self, identities: Identities, now: Timestamp) -> Option<Rc<Authorization>> {
        self.each(identities)
            .find_map(|tokens| tokens.store().current(now))
    }

    /// How long until one of these may have a token, as far as is known.
    pub(super) fn expected_wait(&self, identities: Identities, now: Timestamp) -> Duration {
        let waits = self
            .each(identities)
            .map(|tokens| tokens.store().expected_wait(now));
        waits.min().unwrap_or(Duration::MAX)
    }

    /// When it makes sense to ask again for what needs a token of one of these.
    pub(super) fn retry_after(&self, identities: Identities) -> Duration {
        if identities == Identities::default() {
            // It has come meanwhile.
            return LEAST_RETRY_AFTER;
        }
        let wait = self.expected_wait(identities, host::now());
        wait.clamp(LEAST_RETRY_AFTER, MOST_RETRY_AFTER)
    }

    /// How long a request may wait for a token of one of these.
    pub(super) fn wait_timeout(&self, identities: Identities) -> Duration {
        let limits = self.each(identities).map(Tokens::wait_timeout);
        limits.max().unwrap_or(Duration::ZERO)
    }

    /// How long a request may wait for a newer token for `backend`.
    pub(super) fn renewal_timeout(&self, backend: usize) -> Duration {
        self.tokens_of(backend)
            .map_or(Duration::ZERO, Tokens::wait_timeout)
    }

    /// The identity whose token `backend` gets, by its place in the configuration.
    pub(super) fn identity_of(&self, backend: usize) -> Option<usize> {
        match self.sources.get(backend)? {
            Source::Key(_) => None,
            Source::Identity(identity) => Some(*identity),
        }
    }

    fn tokens_of(&self, backend: usize) -> Option<&Tokens> {
        self.tokens.get(self.identity_of(backend)?)
    }

    /// The generation of the token that `backend` gets, if there is one.
    pub(super) fn generation(&self, backend: usize) -> Option<u32> {
        let token = self.tokens_of(backend)?.store().current(self.now.get())?;
        Some(token.generation)
    }

    /// `backend` accepted what it was shown.
    pub(crate) fn accepted(&self, backend: usize) {
        if let Some(accepted) = self.accepted.get(backend) {
            accepted.set(true);
        }
    }

    /// Asks for a token for `backend` that is newer than the refused one of `generation`.
    pub(crate) fn renew(&self, backend: usize, generation: u32) -> Result<Renewal, HostError> {
        let accepted = self.accepted.get(backend).is_some_and(Cell::take);
        let before = match accepted {
            true => Before::Accepted,
            false => Before::Unknown,
        };
        match self.tokens_of(backend) {
            Some(tokens) => Ok(tokens.store().renew(generation, before, host::now())?),
            None => Ok(Renewal::Failed),
        }
    }

    /// What has become of that.
    pub(super) fn renewal(
        &self,
        backend: usize,
        generation: u32,
        now: Timestamp,
    ) -> Result<Renewal, HostError> {
        match self.tokens_of(backend) {
            Some(tokens) => Ok(tokens.store().renewal(generation, now)?),
            None => Ok(Renewal::Failed),
        }
    }

    /// Keeps every token fresh.
    #[inline(never)]
    pub(super) fn on_tick(&self, now: Timestamp, count: &dyn Fn(Event)) {
        self.now.set(now);
        for tokens in &self.tokens {
            if let Err(error) = tokens.keep_fresh(now, count) {
                log::error!("identity: {error}");
            }
        }
    }

    /// Whether a token is missing that may come within `soon`: from another worker, perhaps.
    pub(super) fn may_come(&self, now: Timestamp, soon: Duration) -> bool {
        let mut missing = self
            .tokens
            .iter()
            .filter(|tokens| tokens.store().current(now).is_none());
        missing.any(|tokens| tokens.store().expected_wait(now) < soon)
    }

    /// The answer to `call`, if that is a fetch.
    pub(super) fn on_call_response(&self, call: u32, now: Timestamp, count: &dyn Fn(Event)) {
        self.now.set(now);
        for tokens in &self.tokens {
            if let Err(error) = tokens.on_call_response(call, now, count) {
                log::error!("identity: {error}");
            }
        }
    }

    /// The seconds until the first of the tokens expires; 0 where one is missing, or there is none.
    pub(super) fn seconds_to_expiry(&self, now: Timestamp) -> u64 {
        let left = self.tokens.iter().map(|tokens| {
            let token = tokens.store().current(now);
            token.map_or(0, |token| token.seconds_left(now))
        });
        left.min().unwrap_or(0)
    }
}
