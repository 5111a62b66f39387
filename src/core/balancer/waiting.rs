//! The waiting list of a worker's streams.

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

/// The most waiting streams on one worker. Further streams are answered at once.
const MOST_WAITING: usize = 10_000;

/// The period of checking for results of other workers.
pub const POLL: Duration = Duration::from_millis(20);

/// The thing that a stream waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A token of one of these identities.
    Token(Identities),
    /// A token for this backend, of another generation than this refused one.
    NewerToken(usize, u32),
    /// The body of a request whose headers are held; see [`HeldBodies`](super::HeldBodies).
    RequestBody,
    /// The rest of an error's body. A backend may stall anywhere in it, so this wait has a limit.
    ErrorBody,
    /// More of the start of an event stream, at most for this long.
    StreamStart(Duration),
    /// A free backend.
    Backend(Box<WantedBackend>),
}

/// The backends that a waiting stream can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedBackend {
    /// The allowed backends.
    pub plan: Plan,
    /// The request's demand.
    pub demand: Demand,
    /// The rest of the shortest cooldown.
    pub left: Duration,
}

impl Awaited {
    /// The time limit of the wait.
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

/// The result of a wait.
#[derive(Debug)]
pub enum WaitResult {
    /// The token arrived.
    Token(Rc<Authorization>),
    /// No token arrived. Asking again makes sense after this time.
    NoToken(Duration),
    /// The body did not arrive in time.
    TimedOut,
    /// A backend may be free.
    Backend,
}

struct Waiting<T> {
    awaited: Awaited,
    deadline: Timestamp,
    stream: T,
}

/// The waiting streams, sorted by id. `T` is a stream.
pub struct WaitingList<T>(Vec<(u32, Waiting<T>)>);

impl<T> Default for WaitingList<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> WaitingList<T> {
    /// Adds a stream to the list. `false` if the list is full, or what it waits for cannot come in time.
    pub fn add<H: Host>(
        &mut self,
        id: u32,
        stream: T,
        awaited: Awaited,
        credentials: &Credentials<H>,
        now: Timestamp,
    ) -> bool {
        let longest = awaited.timeout(credentials);
        let hopeless = match &awaited {
            Awaited::Token(identities) => credentials.expected_wait(*identities, now) > longest,
            _ => false,
        };
        let waiting = &mut self.0;
        if hopeless || waiting.len() >= MOST_WAITING {
            return false;
        }
        let deadline = now + longest;
        let entry = Waiting {
            awaited,
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

    /// Removes a stream from the list.
    pub fn remove(&mut self, id: u32) {
        if let Ok(at) = self.0.binary_search_by_key(&id, |(id, _)| *id) {
            self.0.remove(at);
        }
    }

    /// The time until the next check of the list. `None` if no stream waits. Waits that another worker can
    /// end are checked every [`POLL`].
    pub fn next_timeout(&self, now: Timestamp) -> Option<Duration> {
        let timeouts = self.0.iter().map(|(_, waiting)| match waiting.awaited {
            Awaited::RequestBody | Awaited::ErrorBody | Awaited::StreamStart(_) => {
                waiting.deadline.since(now)
            }
            Awaited::Token(_) | Awaited::NewerToken(..) | Awaited::Backend(_) => POLL,
        });
        timeouts.min()
    }

    /// Removes and returns the streams whose wait is over. The caller resumes them after this call, because a stream
    /// may wait again.
    pub fn take_ended<H: Host>(
        &mut self,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Vec<(u32, T, WaitResult)> {
        let mut ended = Vec::new();
        let mut moment = Moment {
            balancer,
            now,
            tokens: Tokens::default(),
            renewals: Renewals::default(),
            openings: None,
        };
        self.0
            .retain(|(id, waiting)| match waiting.result(&mut moment) {
                Some(result) => {
                    ended.push((*id, waiting.stream.clone(), result));
                    false
                }
                None => true,
            });
        ended
    }
}

/// Cached answers for what streams wait for at one moment. Each is computed when the first stream needs it.
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

/// The tokens that streams wait for, looked up once for each set of identities.
#[derive(Default)]
struct Tokens(Vec<(Identities, Token)>);

/// The result of looking up a token.
struct Token {
    found: Option<Rc<Authorization>>,
    /// The expected time until a token arrives.
    expected: Duration,
    /// The time limit of a stream's wait.
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

/// The results of the renewals that streams wait for, looked up once each. Thousands may wait for one renewal.
#[derive(Default)]
struct Renewals(Vec<Looked>);

/// The result of looking up a renewal.
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
    /// The result of the wait, if it is over.
    fn result<H: Host>(&self, moment: &mut Moment<'_, H>) -> Option<WaitResult> {
        let (credentials, now) = (&moment.balancer.credentials, moment.now);
        if let Awaited::Token(identities) = &self.awaited {
            let token = moment.tokens.look(credentials, *identities, now)?;
            if let Some(token) = &token.found {
                return Some(WaitResult::Token(Rc::clone(token)));
            }
            let overdue = self.deadline.has_passed(now, token.timeout);
            let is_hopeless = token.expected > self.deadline.since(now);
            return (overdue || is_hopeless)
                .then(|| WaitResult::NoToken(credentials.retry_after(*identities, now)));
        }
        let overdue = self
            .deadline
            .has_passed(now, self.awaited.timeout(credentials));
        match &self.awaited {
            Awaited::NewerToken(backend, generation) => {
                let renewals = &mut moment.renewals;
                match renewals.look(credentials, *backend, *generation, now) {
                    Renewal::Done(token) => Some(WaitResult::Token(token)),
                    Renewal::Pending if !overdue => None,
                    // The client has an answer already: the backend's refusal.
                    _ => Some(WaitResult::NoToken(LEAST_RETRY_AFTER)),
                }
            }
            Awaited::Token(_)
            | Awaited::RequestBody
            | Awaited::ErrorBody
            | Awaited::StreamStart(_) => overdue.then_some(WaitResult::TimedOut),
            Awaited::Backend(wanted) => {
                (overdue || moment.is_free(wanted)).then_some(WaitResult::Backend)
            }
        }
    }
}
