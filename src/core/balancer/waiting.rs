//! The waiting list of a worker: what its streams wait for, for how long, and how that ends.

use alloc::rc::Rc;
use core::time::Duration;

use super::Balancer;
use crate::demand::Demand;
use crate::fleet::Openings;
use crate::host::Host;
use crate::identity::credentials::LEAST_RETRY_AFTER;
use crate::identity::{Authorization, Credentials, Identities, Renewal};
use crate::plan::Plan;
use crate::prelude::*;
use crate::time::Timestamp;

/// More streams than this do not wait on one worker; they are answered at once.
const MOST_WAITING: usize = 10_000;

/// How often it is looked whether another worker has brought what a stream waits for.
pub const POLL: Duration = Duration::from_millis(20);

/// What a stream waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A token of one of these identities.
    Token(Identities),
    /// A token for this backend, of another generation than this one, which it refused.
    NewerToken(usize, u32),
    /// The body of a request whose headers are held; see [`HeldBodies`](super::HeldBodies).
    RequestBody,
    /// The rest of an error's body. A backend may stall at any point of it, so this wait always has an end.
    ErrorBody,
    /// More of the start of an event stream, for this long.
    StreamStart(Duration),
    /// A backend that is free.
    Backend(Box<WantedBackend>),
}

/// What a stream waits for that waits for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedBackend {
    /// The backends that it may go to.
    pub plan: Plan,
    /// What they must have.
    pub demand: Demand,
    /// How long the shortest cooldown lasts.
    pub left: Duration,
}

impl Wish {
    /// How long a stream may wait for it.
    fn timeout<H: Host>(&self, credentials: &Credentials<H>) -> Duration {
        const BODY: Duration = Duration::from_secs(2);
        match self {
            Self::Token(identities) => credentials.wait_timeout(*identities),
            Self::NewerToken(backend, _) => credentials.renewal_timeout(*backend),
            Self::RequestBody | Self::ErrorBody => BODY,
            Self::StreamStart(longest) => *longest,
            Self::Backend(wanted) => wanted.left,
        }
    }
}

/// How a wait ended.
#[derive(Debug)]
pub enum Granted {
    /// The token.
    Token(Rc<Authorization>),
    /// There is none; it makes sense to ask again after this time.
    NoToken(Duration),
    /// The body did not come in time.
    NoBody,
    /// A backend may be free.
    Backend,
}

struct Waiting<T> {
    wish: Wish,
    deadline: Timestamp,
    stream: T,
}

/// The streams that wait, by their ids and in their order. A stream is a `T`.
pub struct WaitingList<T>(Vec<(u32, Waiting<T>)>);

impl<T> Default for WaitingList<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> WaitingList<T> {
    /// Puts a stream on the list. `false` if that is full, or there is no hope of what it wishes for.
    pub fn add<H: Host>(
        &mut self,
        id: u32,
        stream: T,
        wish: Wish,
        credentials: &Credentials<H>,
        now: Timestamp,
    ) -> bool {
        let longest = wish.timeout(credentials);
        let hopeless = match &wish {
            Wish::Token(identities) => credentials.expected_wait(*identities, now) > longest,
            _ => false,
        };
        let waiting = &mut self.0;
        if hopeless || waiting.len() >= MOST_WAITING {
            return false;
        }
        let deadline = now + longest;
        let entry = Waiting {
            wish,
            deadline,
            stream,
        };
        let at = waiting.partition_point(|(known, _)| *known < id);
        match waiting.get_mut(at) {
            Some((known, wait)) if *known == id => *wait = entry,
            _ => waiting.insert(at, (id, entry)),
        }
        true
    }

    /// Takes a stream off the list, if it is there.
    pub fn remove(&mut self, id: u32) {
        if let Ok(at) = self.0.binary_search_by_key(&id, |(id, _)| *id) {
            self.0.remove(at);
        }
    }

    /// When to look at the list again, unless no stream waits. What another worker may bring at any time is looked at every
    /// [`POLL`].
    pub fn next_timeout(&self, now: Timestamp) -> Option<Duration> {
        let timeouts = self.0.iter().map(|(_, waiting)| match waiting.wish {
            Wish::RequestBody | Wish::ErrorBody | Wish::StreamStart(_) => {
                waiting.deadline.since(now)
            }
            Wish::Token(_) | Wish::NewerToken(..) | Wish::Backend(_) => POLL,
        });
        timeouts.min()
    }

    /// Takes those off the list whose wait is over. They are to be told when this has returned: a stream may come back with
    /// another wish, so the list must be free.
    pub fn take_granted<H: Host>(
        &mut self,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Vec<(u32, T, Granted)> {
        let mut granted = Vec::new();
        let mut moment = Moment {
            balancer,
            now,
            tokens: Tokens::default(),
            renewals: Renewals::default(),
            openings: None,
        };
        self.0
            .retain(|(id, waiting)| match waiting.grant(&mut moment) {
                Some(grant) => {
                    granted.push((*id, waiting.stream.clone(), grant));
                    false
                }
                None => true,
            });
        granted
    }
}

/// What streams wait for, at one moment. Each thing is looked up when the first stream asks for it.
struct Moment<'a, H> {
    balancer: &'a Balancer<H>,
    now: Timestamp,
    tokens: Tokens,
    renewals: Renewals,
    openings: Option<Openings<'a, H>>,
}

impl<H: Host> Moment<'_, H> {
    fn is_free(&mut self, wanted: &WantedBackend) -> bool {
        let (fleet, now) = (&self.balancer.fleet, self.now);
        let openings = self.openings.get_or_insert_with(|| fleet.openings(now));
        openings.are_there_for(&wanted.plan, &wanted.demand)
    }
}

/// The tokens that streams wait for, looked up once for the same identities.
#[derive(Default)]
struct Tokens(Vec<(Identities, Token)>);

/// A token that was looked up.
struct Token {
    found: Option<Rc<Authorization>>,
    /// How long until there may be one.
    expected: Duration,
    /// How long a stream may wait for one.
    timeout: Duration,
}

impl Tokens {
    fn look<H: Host>(
        &mut self,
        credentials: &Credentials<H>,
        identities: Identities,
        now: Timestamp,
    ) -> Option<&Token> {
        let known = self.0.iter().position(|(known, _)| *known == identities);
        let at = known.unwrap_or_else(|| {
            let token = Token {
                found: credentials.any(identities, now),
                expected: credentials.expected_wait(identities, now),
                timeout: credentials.wait_timeout(identities),
            };
            self.0.push((identities, token));
            self.0.len().saturating_sub(1)
        });
        self.0.get(at).map(|(_, token)| token)
    }
}

/// What became of the renewals that streams wait for, looked up once each: thousands may wait for the same one.
#[derive(Default)]
struct Renewals(Vec<Looked>);

/// A renewal that was looked up.
struct Looked {
    identity: Option<usize>,
    generation: u32,
    found: Renewal,
}

impl Renewals {
    fn look<H: Host>(
        &mut self,
        credentials: &Credentials<H>,
        backend: usize,
        generation: u32,
        now: Timestamp,
    ) -> Renewal {
        let identity = credentials.identity_of(backend);
        let mut looked = self.0.iter();
        let known =
            looked.find(|looked| looked.identity == identity && looked.generation == generation);
        if let Some(known) = known {
            return known.found.clone();
        }
        let found = credentials.renewal(backend, generation, now);
        self.0.push(Looked {
            identity,
            generation,
            found: found.clone(),
        });
        found
    }
}

impl<T> Waiting<T> {
    /// How the wait ends, if it does now.
    fn grant<H: Host>(&self, moment: &mut Moment<'_, H>) -> Option<Granted> {
        let (credentials, now) = (&moment.balancer.credentials, moment.now);
        if let Wish::Token(identities) = &self.wish {
            let token = moment.tokens.look(credentials, *identities, now)?;
            if let Some(token) = &token.found {
                return Some(Granted::Token(Rc::clone(token)));
            }
            let overdue = self.deadline.has_passed(now, token.timeout);
            let is_hopeless = token.expected > self.deadline.since(now);
            return (overdue || is_hopeless)
                .then(|| Granted::NoToken(credentials.retry_after(*identities, now)));
        }
        let overdue = self
            .deadline
            .has_passed(now, self.wish.timeout(credentials));
        match &self.wish {
            Wish::NewerToken(backend, generation) => {
                let renewals = &mut moment.renewals;
                match renewals.look(credentials, *backend, *generation, now) {
                    Renewal::Done(token) => Some(Granted::Token(token)),
                    Renewal::Pending if !overdue => None,
                    // The client has an answer already: the backend's refusal.
                    _ => Some(Granted::NoToken(LEAST_RETRY_AFTER)),
                }
            }
            Wish::Token(_) | Wish::RequestBody | Wish::ErrorBody | Wish::StreamStart(_) => {
                overdue.then_some(Granted::NoBody)
            }
            Wish::Backend(wanted) => {
                (overdue || moment.is_free(wanted)).then_some(Granted::Backend)
            }
        }
    }
}
