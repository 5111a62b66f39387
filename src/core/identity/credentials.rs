//! What is shown to each backend: a key of its own, or the token of its identity.

use alloc::rc::Rc;
use core::cell::Cell;
use core::time::Duration;

use super::{Authorization, Before, Renewal, TokenStore};
use crate::config::{BackendCredential, Config, Identity};
use crate::host::Host;
use crate::keys;
use crate::plan::BackendSet;
use crate::prelude::*;
use crate::swap::SwapError;
use crate::time::Timestamp;

/// For want of a token no client is told to come back sooner than after this time.
pub(crate) const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Nor later than after this one: what is not known must not read as never.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Identities, by their places in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identities(u32);

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

/// The credentials of all backends, on one worker, over the host `H`.
pub struct Credentials<H> {
    /// By backend.
    sources: Vec<Source>,
    /// By identity.
    tokens: Vec<Token<H>>,
    /// By backend: it accepted what it was last shown, as far as this worker knows.
    accepted: Vec<Cell<bool>>,
    /// Backends differ in what they need, so that some may be asked while others cannot.
    differ: bool,
    /// The backends that could not be asked when these identities had no token, as they were looked for last.
    tokenless: Cell<Option<(Identities, Option<BackendSet>)>>,
    /// The last tick's time: it is looked at no more often than that whether a token is still good.
    now: Cell<Timestamp>,
}

enum Source {
    Key(Rc<Authorization>),
    Identity(usize),
}

/// The token of one identity.
struct Token<H> {
    store: Rc<TokenStore<H>>,
    /// How long a request may wait for it.
    wait_timeout: Duration,
}

impl<H: Host> Token<H> {
    fn of(identity: &Identity, host: &H) -> Result<Self, SwapError<H::Error>> {
        let store = TokenStore::new(host.clone(), keys::token_key(identity))?;
        Ok(Self {
            store: Rc::new(store),
            wait_timeout: identity.wait_timeout,
        })
    }
}

impl<H: Host> Credentials<H> {
    /// Those of `config`, and the shared records that no other worker has made.
    ///
    /// # Errors
    /// The map of the host refused.
    #[inline(never)]
    pub fn new(host: &H, config: &Config) -> Result<Self, SwapError<H::Error>> {
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
                .map(|identity| Token::of(identity, host))
                .collect::<Result<_, _>>()?,
            differ: keys || config.identities.len() > 1,
            tokenless: Cell::default(),
            now: Cell::new(host.now()),
        })
    }

    /// What this worker knows of each identity's token, in the order of the configuration.
    pub fn stores(&self) -> impl Iterator<Item = Rc<TokenStore<H>>> + '_ {
        self.tokens.iter().map(|token| Rc::clone(&token.store))
    }

    /// From now on tokens are good or expired as of this time.
    pub fn look(&self, now: Timestamp) {
        self.now.set(now);
    }

    /// What is shown to `backend`, if there is anything to show.
    ///
    /// A token is looked at once a tick, so "expired" may be a tick late; a backend then says so, and it is renewed.
    pub fn of(&self, backend: usize) -> Option<Rc<Authorization>> {
        match self.sources.get(backend)? {
            Source::Key(key) => Some(Rc::clone(key)),
            Source::Identity(identity) => self.token(*identity),
        }
    }

    fn token(&self, identity: usize) -> Option<Rc<Authorization>> {
        let (store, now) = (&self.tokens.get(identity)?.store, self.now.get());
        store.current(now).or_else(|| {
            // Another worker may have got one since the last tick.
            store.sync(now).ok()?;
            store.current(now)
        })
    }

    fn lacks_token(&self, identity: usize) -> bool {
        let token = self.tokens.get(identity);
        token.is_none_or(|token| token.store.current(self.now.get()).is_none())
    }

    /// Whether `backend` is shown a key.
    pub fn is_keyed(&self, backend: usize) -> bool {
        matches!(self.sources.get(backend), Some(Source::Key(_)))
    }

    /// The backends that cannot be asked now; `None` where there is no one who can. Backends that are all alike are looked at
    /// once.
    pub fn tokenless(&self) -> Option<BackendSet> {
        if !self.differ {
            return self.of(0).map(|_| BackendSet::default());
        }
        let mut without = Identities::default();
        for identity in 0..self.tokens.len() {
            if self.token(identity).is_none() {
                without.add(identity);
            }
        }
        match self.tokenless.get() {
            Some((known, tokenless)) if known == without => tokenless,
            _ => {
                let tokenless = self.lacking(without);
                self.tokenless.set(Some((without, tokenless)));
                tokenless
            }
        }
    }

    /// The backends that cannot be asked while these identities have no token; `None` where there is no one who can.
    #[inline(never)]
    fn lacking(&self, without: Identities) -> Option<BackendSet> {
        let (mut all, mut lacking) = (true, BackendSet::default());
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
    pub fn wanted(&self, backends: impl Fn(usize) -> bool) -> Identities {
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

    fn each(&self, identities: Identities) -> impl Iterator<Item = &Token<H>> {
        let tokens = self.tokens.iter().enumerate();
        let tokens = tokens.filter(move |(identity, _)| identities.contains(*identity));
        tokens.map(|(_, tokens)| tokens)
    }

    /// A token of one of these.
    pub fn any(&self, identities: Identities, now: Timestamp) -> Option<Rc<Authorization>> {
        self.each(identities)
            .find_map(|token| token.store.current(now))
    }

    /// How long until one of these may have a token, as far as is known.
    pub fn expected_wait(&self, identities: Identities, now: Timestamp) -> Duration {
        let waits = self
            .each(identities)
            .map(|token| token.store.expected_wait(now));
        waits.min().unwrap_or(Duration::MAX)
    }

    /// When it makes sense to ask again for what needs a token of one of these.
    pub fn retry_after(&self, identities: Identities, now: Timestamp) -> Duration {
        if identities == Identities::default() {
            // It has come meanwhile.
            return LEAST_RETRY_AFTER;
        }
        let wait = self.expected_wait(identities, now);
        wait.clamp(LEAST_RETRY_AFTER, MOST_RETRY_AFTER)
    }

    /// How long a request may wait for a token of one of these.
    pub fn wait_timeout(&self, identities: Identities) -> Duration {
        let limits = self.each(identities).map(|token| token.wait_timeout);
        limits.max().unwrap_or(Duration::ZERO)
    }

    /// How long a request may wait for a newer token for `backend`.
    pub fn renewal_timeout(&self, backend: usize) -> Duration {
        self.token_of(backend)
            .map_or(Duration::ZERO, |token| token.wait_timeout)
    }

    /// The identity whose token `backend` gets, by its place in the configuration.
    pub fn identity_of(&self, backend: usize) -> Option<usize> {
        match self.sources.get(backend)? {
            Source::Key(_) => None,
            Source::Identity(identity) => Some(*identity),
        }
    }

    fn token_of(&self, backend: usize) -> Option<&Token<H>> {
        self.tokens.get(self.identity_of(backend)?)
    }

    /// The generation of the token that `backend` gets, if there is one.
    pub fn generation(&self, backend: usize) -> Option<u32> {
        let token = self.token_of(backend)?.store.current(self.now.get())?;
        Some(token.generation)
    }

    /// `backend` accepted what it was shown.
    pub fn accepted(&self, backend: usize) {
        if let Some(accepted) = self.accepted.get(backend) {
            accepted.set(true);
        }
    }

    /// Asks for a token for `backend` that is newer than the refused one of `generation`.
    pub fn renew(&self, backend: usize, generation: u32, now: Timestamp) -> Renewal {
        let accepted = self.accepted.get(backend).is_some_and(Cell::take);
        let before = match accepted {
            true => Before::Accepted,
            false => Before::Unknown,
        };
        self.renewed(backend, |store| store.renew(generation, before, now))
    }

    /// What has become of that.
    pub fn renewal(&self, backend: usize, generation: u32, now: Timestamp) -> Renewal {
        self.renewed(backend, |store| store.renewal(generation, now))
    }

    fn renewed(
        &self,
        backend: usize,
        ask: impl FnOnce(&TokenStore<H>) -> Result<Renewal, SwapError<H::Error>>,
    ) -> Renewal {
        let Some(token) = self.token_of(backend) else {
            return Renewal::Failed;
        };
        ask(&token.store).unwrap_or_else(|error| {
            log::error!("identity: {error}");
            Renewal::Failed
        })
    }

    /// Whether a token is missing that may come within `soon`: from another worker, perhaps.
    pub fn may_come(&self, now: Timestamp, soon: Duration) -> bool {
        let mut missing = self
            .tokens
            .iter()
            .filter(|token| token.store.current(now).is_none());
        missing.any(|token| token.store.expected_wait(now) < soon)
    }

    /// The seconds until the token of each identity expires, in the order of the configuration; 0 where it is missing.
    pub fn seconds_left(&self, now: Timestamp) -> impl Iterator<Item = u64> + '_ {
        self.tokens.iter().map(move |token| {
            let token = token.store.current(now);
            token.map_or(0, |token| token.seconds_left(now))
        })
    }
}
