//! The credential of each backend: its own key, or the token of its identity.

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

/// The shortest `retry-after` of a reply for a missing token.
pub(crate) const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest `retry-after` of a reply for a missing token. An unknown wait must not read as "never".
const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A set of identities, by their indices in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identities(u32);

impl Identities {
    fn add(&mut self, identity: usize) {
        // A configuration has fewer than 32 identities.
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

/// The credentials of all backends on one worker. `H` is the host.
pub struct Credentials<H> {
    /// One source for each backend.
    sources: Vec<Source>,
    /// One token for each identity.
    tokens: Vec<Token<H>>,
    /// Whether each backend refused its last token, as far as this worker knows.
    refused: Vec<Cell<bool>>,
    /// Whether backends need different credentials, so that only some may be usable.
    differ: bool,
    /// The last result of looking for backends without a token, with the identities that had none.
    tokenless: Cell<Option<(Identities, Option<BackendSet>)>>,
    /// The time of the last tick. The expiry of tokens is checked against it.
    now: Cell<Timestamp>,
}

enum Source {
    Key(Rc<Authorization>),
    Identity(usize),
}

/// The token of one identity.
struct Token<H> {
    store: Rc<TokenStore<H>>,
    /// How long a request may wait for the token.
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
    /// Creates the credentials of `config`, and the shared records that no other worker has created.
    ///
    /// # Errors
    /// The host refused access to its shared data.
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
            refused: sources.iter().map(|_| Cell::default()).collect(),
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

    /// The worker's view of each identity's token, in the order of the configuration.
    pub fn stores(&self) -> impl Iterator<Item = Rc<TokenStore<H>>> + '_ {
        self.tokens.iter().map(|token| Rc::clone(&token.store))
    }

    /// Sets the time against which the expiry of tokens is checked.
    pub fn look(&self, now: Timestamp) {
        self.now.set(now);
    }

    /// The credential of `backend`, if one is available.
    ///
    /// The expiry is checked against the last tick's time, so a token may be used for a tick too long. The backend then
    /// refuses the token, and it is renewed.
    pub fn of(&self, backend: usize) -> Option<Rc<Authorization>> {
        match self.sources.get(backend)? {
            Source::Key(key) => Some(Rc::clone(key)),
            Source::Identity(identity) => self.token(*identity),
        }
    }

    fn token(&self, identity: usize) -> Option<Rc<Authorization>> {
        let (store, now) = (&self.tokens.get(identity)?.store, self.now.get());
        store.current(now).or_else(|| {
            // Another worker may have fetched a token since the last tick.
            store.sync(now).ok()?;
            store.current(now)
        })
    }

    fn lacks_token(&self, identity: usize) -> bool {
        let token = self.tokens.get(identity);
        token.is_none_or(|token| token.store.current(self.now.get()).is_none())
    }

    /// Whether `backend` has a key.
    pub fn is_keyed(&self, backend: usize) -> bool {
        matches!(self.sources.get(backend), Some(Source::Key(_)))
    }

    /// The backends without a usable credential. `None` if no backend has one. If all backends use one identity, only
    /// its token is checked.
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

    /// The backends without a usable credential while these identities have no token. `None` if no backend has one.
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

    /// The identities whose missing tokens would make one of these backends usable. Tokens that other workers stored
    /// since the last check are ignored. The next tick finds them, and the wait ends.
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

    /// A token of one of `identities`.
    pub fn any(&self, identities: Identities, now: Timestamp) -> Option<Rc<Authorization>> {
        self.each(identities)
            .find_map(|token| token.store.current(now))
    }

    /// The expected time until one of `identities` has a token.
    pub fn expected_wait(&self, identities: Identities, now: Timestamp) -> Duration {
        let waits = self
            .each(identities)
            .map(|token| token.store.expected_wait(now));
        waits.min().unwrap_or(Duration::MAX)
    }

    /// The time after which a request that needs a token of one of `identities` may succeed.
    pub fn retry_after(&self, identities: Identities, now: Timestamp) -> Duration {
        if identities == Identities::default() {
            // The token arrived meanwhile.
            return LEAST_RETRY_AFTER;
        }
        let wait = self.expected_wait(identities, now);
        wait.clamp(LEAST_RETRY_AFTER, MOST_RETRY_AFTER)
    }

    /// How long a request may wait for a token of one of `identities`.
    pub fn wait_timeout(&self, identities: Identities) -> Duration {
        let limits = self.each(identities).map(|token| token.wait_timeout);
        limits.max().unwrap_or(Duration::ZERO)
    }

    /// How long a request may wait for a newer token for `backend`.
    pub fn renewal_timeout(&self, backend: usize) -> Duration {
        self.token_of(backend)
            .map_or(Duration::ZERO, |token| token.wait_timeout)
    }

    /// The index of the identity whose token `backend` gets.
    pub fn identity_of(&self, backend: usize) -> Option<usize> {
        match self.sources.get(backend)? {
            Source::Key(_) => None,
            Source::Identity(identity) => Some(*identity),
        }
    }

    fn token_of(&self, backend: usize) -> Option<&Token<H>> {
        self.tokens.get(self.identity_of(backend)?)
    }

    /// The generation of the current token of `backend`.
    pub fn generation(&self, backend: usize) -> Option<u32> {
        let token = self.token_of(backend)?.store.current(self.now.get())?;
        Some(token.generation)
    }

    /// Notes that `backend` accepted its credential.
    pub fn accepted(&self, backend: usize) {
        if let Some(refused) = self.refused.get(backend) {
            refused.set(false);
        }
    }

    /// Requests a token for `backend` that is newer than the refused one of `generation`.
    pub fn renew(&self, backend: usize, generation: u32, now: Timestamp) -> Renewal {
        let refused = self.refused.get(backend);
        let before = match refused.is_some_and(Cell::get) {
            true => Before::Refused,
            false => Before::NotRefused,
        };
        let renewal = self.renewed(backend, |store| store.renew(generation, before, now));
        // Another backend's refusal may have renewed the token already. The newer one is not refused yet.
        if let (Some(refused), Renewal::Pending | Renewal::IsNew | Renewal::Failed) =
            (refused, &renewal)
        {
            refused.set(true);
        }
        renewal
    }

    /// The state of a renewal that [`Self::renew`] began.
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

    /// Whether a missing token may arrive within `soon`, perhaps from another worker.
    pub fn may_come(&self, now: Timestamp, soon: Duration) -> bool {
        let mut missing = self
            .tokens
            .iter()
            .filter(|token| token.store.current(now).is_none());
        missing.any(|token| token.store.expected_wait(now) < soon)
    }

    /// The seconds until each identity's token expires, in the order of the configuration. 0 for a missing token.
    pub fn seconds_left(&self, now: Timestamp) -> impl Iterator<Item = u64> + '_ {
        self.tokens.iter().map(move |token| {
            let token = token.store.current(now);
            token.map_or(0, |token| token.seconds_left(now))
        })
    }
}
