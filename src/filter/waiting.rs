//! The waiting list of a worker: what its streams wait for, for how long, and how that ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::backends::Backends;
use super::credentials::{Credentials, Identities, LEAST_RETRY_AFTER};
use super::host;
use super::swap::SharedData;
use super::worker::Stream;
use crate::core::demand::Demand;
use crate::core::fleet::Openings;
use crate::core::identity::{Authorization, Renewal};
use crate::core::plan::Plan;
use crate::core::time::Timestamp;

/// More streams than this do not wait on one worker; they are answered at once.
const MOST_WAITING: usize = 10_000;

/// What a stream waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// A token of one of these identities.
    Token(Identities),
    /// A token for this backend, of another generation than this one, which it refused.
    NewerToken(usize, u32),
    /// The body of a request whose headers are held; see [`HeldBodies`](super::held_bodies::HeldBodies).
    RequestBody,
    /// The rest of an error's body. A backend may stall at any point of it, so this wait always has an end.
    ErrorBody,
    /// A backend that is free.
    Backend(WantedBackend),
}

/// What a stream waits for that waits for a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedBackend {
    pub(super) plan: Plan,
    pub(super) demand: Demand,
    /// How long the shortest cooldown lasts.
    pub(super) left: Duration,
}

impl Wish {
    /// How long a stream may wait for it.
    fn timeout(self, credentials: &Credentials) -> Duration {
        const BODY: Duration = Duration::from_secs(2);
        match self {
            Self::Token(identities) => credentials.wait_timeout(identities),
            Self::NewerToken(backend, _) => credentials.renewal_timeout(backend),
            Self::RequestBody | Self::ErrorBody => BODY,
            Self::Backend(wanted) => wanted.left,
        }
    }
}

/// How a wait ended.
pub(super) enum Granted {
    Token(Rc<Authorization>),
    /// There is none; it makes sense to ask again after this time.
    NoToken(Duration),
    /// The body did not come in time.
    NoBody,
    /// A backend may be free.
    Backend,
}

struct Waiting {
    wish: Wish,
    deadline: Timestamp,
    stream: Rc<dyn Stream>,
}

/// The streams that wait, by their ids and in their order.
#[derive(Default)]
pub(super) struct WaitingList(RefCell<Vec<(u32, Waiting)>>);

impl WaitingList {
    /// Puts a stream on the list. `false` if that is full, or there is no hope of what it wishes for.
    pub(super) fn add(
        &self,
        id: u32,
        stream: Rc<dyn Stream>,
        wish: Wish,
        credentials: &Credentials,
    ) -> bool {
        let longest = wish.timeout(credentials);
        let now = host::now();
        let hopeless = match wish {
            Wish::Token(identities) => credentials.expected_wait(identities, now) > longest,
            _ => false,
        };
        let Ok(mut waiting) = self.0.try_borrow_mut() else {
            return false;
        };
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
    pub(super) fn remove(&self, id: u32) {
        if let Ok(mut waiting) = self.0.try_borrow_mut() {
            if let Ok(at) = waiting.binary_search_by_key(&id, |(id, _)| *id) {
                waiting.remove(at);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .try_borrow()
            .map_or(true, |waiting| waiting.is_empty())
    }

    /// Takes those off the list whose wait is over. They are to be told when this has returned: a stream may come back with
    /// another wish, so the list must be free.
    pub(super) fn take_granted(
        &self,
        credentials: &Credentials,
        backends: &Backends,
        now: Timestamp,
    ) -> Vec<(u32, Rc<dyn Stream>, Granted)> {
        let mut granted = Vec::new();
        let Ok(mut waiting) = self.0.try_borrow_mut() else {
            return granted;
        };
        let mut world = World {
            credentials,
            backends,
            now,
            renewals: Renewals::default(),
            openings: None,
        };
        waiting.retain(|(id, entry)| match entry.grant(&mut world) {
            Some(grant) => {
                granted.push((*id, Rc::clone(&entry.stream), grant));
                false
            }
            None => true,
        });
        granted
    }
}

/// What became of the renewals that streams wait for, looked up once each: thousands may wait for the same one.
#[derive(Default)]
struct Renewals(Vec<Looked>);

/// A renewal that was looked up, unless the host refused.
struct Looked {
    identity: Option<usize>,
    generation: u32,
    found: Option<Renewal>,
}

impl Renewals {
    fn look(
        &mut self,
        credentials: &Credentials,
        backend: usize,
        generation: u32,
        now: Timestamp,
    ) -> Option<Renewal> {
        let identity = credentials.identity_of(backend);
        let mut looked = self.0.iter();
        let known =
            looked.find(|looked| looked.identity == identity && looked.generation == generation);
        if let Some(known) = known {
            return known.found.clone();
        }
        let found = credentials.renewal(backend, generation, now).ok();
        self.0.push(Looked {
            identity,
            generation,
            found: found.clone(),
        });
        found
    }
}

/// What the streams wait for, at one moment. Each thing is looked up when the first stream asks for it.
struct World<'a> {
    credentials: &'a Credentials,
    backends: &'a Backends,
    now: Timestamp,
    renewals: Renewals,
    openings: Option<Openings<'a, SharedData>>,
}

impl World<'_> {
    fn is_free(&mut self, wanted: &WantedBackend) -> bool {
        let (backends, now) = (self.backends, self.now);
        let openings = self.openings.get_or_insert_with(|| backends.openings(now));
        openings.are_there_for(&wanted.plan, &wanted.demand)
    }
}

impl Waiting {
    /// How the wait ends, if it does now.
    fn grant(&self, world: &mut World<'_>) -> Option<Granted> {
        let (credentials, now) = (world.credentials, world.now);
        let overdue = self
            .deadline
            .has_passed(now, self.wish.timeout(credentials));
        match self.wish {
            Wish::Token(identities) => match credentials.any(identities, now) {
                Some(token) => Some(Granted::Token(token)),
                None => {
                    let left = self.deadline.since(now);
                    let wait = credentials.expected_wait(identities, now);
                    (overdue || wait > left)
                        .then(|| Granted::NoToken(credentials.retry_after(identities)))
                }
            },
            Wish::NewerToken(backend, generation) => {
                match world.renewals.look(credentials, backend, generation, now) {
                    Some(Renewal::Done(token)) => Some(Granted::Token(token)),
                    Some(Renewal::Pending) if !overdue => None,
                    // The client has an answer already: the backend's refusal.
                    _ => Some(Granted::NoToken(LEAST_RETRY_AFTER)),
                }
            }
            Wish::RequestBody | Wish::ErrorBody => overdue.then_some(Granted::NoBody),
            Wish::Backend(wanted) => {
                (overdue || world.is_free(&wanted)).then_some(Granted::Backend)
            }
        }
    }
}
