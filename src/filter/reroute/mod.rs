//! The router engine: Envoy's router sends a request again, along the filter's plan. Answers stream on every attempt, and the
//! body never enters the module. Envoy 1.39 or later.
//!
//! The filter stands in two places. *Downstream*, among the listener's filters, it draws the plan, makes the first attempt and
//! signs the answer. *Upstream*, among each cluster's filters, it sees every attempt: it readdresses the later ones, reads the
//! answers, and marks those that call for another attempt with a header the route's retry policy looks for. Where the router
//! goes next is written into the request's filter state, where the route's matcher reads it anew for each attempt.
//!
//! Both run in the same VM of a worker, if their VM configurations are the same, and so share the request's [`Journey`].

mod downstream;
mod readdress;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) use self::downstream::DownstreamHandle;
pub(crate) use self::upstream::UpstreamHandle;
use super::host::{self, HostError};
use super::journey::outcomes::Next;
use super::journey::Journey;
use super::worker::Worker;
use crate::core::exchange::{NoRetry, Replay, Verdict};
use crate::core::outcome::{Outcome, Trace};
use crate::core::time::Timestamp;

/// The property that the route's matcher knows as `wasm.aoai_next`, and by which an attempt finds its request, in one because each
/// is a host call: the cluster of the next attempt, a space, which no cluster's name has, and the request's id in [`ID_DIGITS`]
/// hexadecimal digits.
const NEXT: &str = "aoai_next";
const ID_DIGITS: usize = 8;

/// The response header that the route's retry policy looks for (`retriable_headers`). No client sees one that was set here.
const RETRY: &str = "x-aoai-retry";

/// The response header of a rate limit in Envoy. Envoy's router does not retry an answer that has it, whatever the retry policy says
/// (`RetryStateImpl::wouldRetryFromHeaders`), so it is taken off an answer that is marked.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

thread_local! {
    /// The requests in flight in this VM, by their downstream context's id.
    static REQUESTS: RefCell<BTreeMap<u32, Rc<RefCell<Shared>>>> = RefCell::default();

    /// Where [`NEXT`] is written before it is handed over.
    static SCRATCH: Cell<Vec<u8>> = Cell::default();
}

/// What the downstream filter and the upstream filters share of one request.
struct Shared {
    /// The downstream context's.
    id: u32,
    journey: Journey,
    replay: Replay,
    step: Step,
    /// When the current attempt began, if it may be the last.
    began: Option<Timestamp>,
    /// The backend of the last answer that called for another attempt.
    answered_by: usize,
    /// The value that its header [`RATE_LIMITED`] had.
    rate_limited: Option<String>,
    /// Where the router goes if the current attempt gets no answer.
    foreseen: Option<usize>,
    /// The generation of the token that the next attempt must not carry, if a newer one is on its way.
    outdated: Option<u32>,
}

/// Where a request's attempts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// None went out yet.
    Before,
    /// One went out, and has no answer.
    Attempting,
    /// The last answer is held; its outcome is counted.
    Held,
    /// The last answer called for another attempt; the router was told so.
    Marked,
    /// The last answer is the client's.
    Answered,
    /// The last answer is the client's, and the backend stalled before it was complete.
    Stalled,
    /// There was no answer, and there is no backend left; the router was told so.
    GivenUp,
}

impl Shared {
    fn new(id: u32, journey: Journey) -> Self {
        Self {
            id,
            journey,
            replay: Replay::Ready,
            step: Step::Before,
            began: None,
            answered_by: 0,
            rate_limited: None,
            foreseen: None,
            outdated: None,
        }
    }

    /// The router starts an attempt: the first, one that a marked answer called for, or one after an attempt that got no
    /// answer, which it makes where it was told before. `false` if there is none to make.
    fn attempt_begins(&mut self) -> bool {
        if self.step == Step::Answered {
            // The answer came with the mark already, as none of Azure's does, and the router dropped it: what was asked for is done.
            self.journey.trace = Trace::Possible;
        }
        if self.is_under_way() || self.step == Step::Answered {
            self.no_answer();
            let next = Next::Foreseen(self.foreseen);
            let verdict = self.journey.after(Outcome::Unavailable, self.replay, next);
            if verdict != Verdict::TryNext {
                self.journey.timed_out = self.is_overdue();
                self.step = Step::GivenUp;
                return false;
            }
        }
        let backend = self.journey.exchange.backend();
        if self.journey.worker.credentials.of(backend).is_none() {
            // The token has expired, and this one is not to be shown what the one before was.
            self.step = Step::GivenUp;
            return false;
        }
        self.journey.attempt_made();
        self.foreseen = self.look_ahead();
        let exchange = &self.journey.exchange;
        // Asked for only where it may be wanted, by an attempt that may be the last: it is a host call.
        let may_be_last = exchange.attempts() > 1 || self.foreseen.is_none();
        self.began = may_be_last.then(host::now);
        self.step = Step::Attempting;
        true
    }

    /// An attempt went out whose answer, if it comes, is not the end yet.
    fn is_under_way(&self) -> bool {
        matches!(self.step, Step::Attempting | Step::Held)
    }

    /// Where the router should go if the current attempt gets no answer.
    #[inline(never)]
    fn look_ahead(&self) -> Option<usize> {
        let journey = &self.journey;
        let backends = &journey.worker.backends;
        let demand = || journey.request.demand();
        backends.foresee(journey.exchange.plan(), demand).ok()
    }

    fn is_overdue(&self) -> bool {
        // Envoy's timers run on a clock of their own, which may be some milliseconds ahead of the one that is read here.
        let (config, backend) = (&self.journey.worker.config, self.journey.exchange.backend());
        let limit = config
            .backends
            .get(backend)
            .map(|backend| config.router_timeout(backend));
        let limit = limit.unwrap_or_default().mul_f64(0.9);
        let overdue = |began: Timestamp| began + limit <= host::now();
        self.began.is_some_and(overdue)
    }

    /// The attempt ended without an answer, or its time was up while that was held: connection refused, reset, timeout.
    fn no_answer(&mut self) {
        if self.step == Step::Attempting {
            self.journey.conclude(Outcome::Unavailable, None);
        }
    }

    /// Writes where the router goes from here, should it have to.
    fn point_to(&self, backend: Option<usize>) -> Result<(), HostError> {
        let backends = &self.journey.worker.config.backends;
        match backend.and_then(|index| backends.get(index)) {
            Some(backend) => {
                let mut next = SCRATCH.take();
                write_next(&mut next, &backend.cluster, self.id);
                let pointed = host::set_property(NEXT, &next);
                SCRATCH.set(next);
                pointed
            }
            None => Ok(()),
        }
    }
}

/// Writes what [`NEXT`] holds.
fn write_next(next: &mut Vec<u8>, cluster: &str, id: u32) {
    let mut end = [b' '; 1 + ID_DIGITS];
    let mut rest = id;
    for digit in end.iter_mut().skip(1).rev() {
        let value = (rest % 16) as u8;
        *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
        rest /= 16;
    }
    next.clear();
    next.extend_from_slice(cluster.as_bytes());
    next.extend_from_slice(&end);
}

/// The request that it names.
fn id_of(next: &[u8]) -> Option<u32> {
    let digits = next.last_chunk::<ID_DIGITS>()?;
    digits.iter().try_fold(0, |id, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(id << 4 | u32::from(value))
    })
}

/// Looks again where the router should go from attempts that get no answer: since they began, backends may have been throttled,
/// or become well.
#[inline(never)]
pub(crate) fn look_ahead(worker: &Worker) {
    let requests: Vec<_> = REQUESTS.with_borrow(|requests| {
        let requests = requests.iter();
        requests
            .map(|(id, shared)| (*id, Rc::clone(shared)))
            .collect()
    });
    for (id, shared) in requests {
        let result = with(&shared, |shared| {
            let foreseen = shared.look_ahead();
            let other = foreseen != shared.foreseen;
            // Of two configurations in this VM, each looks after its own requests.
            if !(other && shared.is_under_way() && std::ptr::eq(&*shared.journey.worker, worker)) {
                return Ok(());
            }
            shared.foreseen = foreseen;
            let mut pointed = Ok(());
            worker.as_stream(id, || pointed = shared.point_to(foreseen));
            pointed
        });
        if let Err(error) = result {
            log::error!("{error}");
        }
    }
}

/// Why a request is not to be retried, known before it is sent.
fn unreplayable(journey: &Journey) -> Option<NoRetry> {
    let retry = &journey.worker.config.retry;
    let length = journey.request.content_length.unwrap_or(0);
    if journey.request.upgrade {
        Some(NoRetry::Upgrade)
    } else if !journey.request.operation.is_known {
        Some(NoRetry::UnknownOperation)
    } else if usize::try_from(length).map_or(true, |length| length > retry.replay_limit) {
        Some(NoRetry::BodyTooLarge)
    } else {
        None
    }
}

/// Runs `act` on what is shared of a request.
fn with<T>(
    shared: &RefCell<Shared>,
    act: impl FnOnce(&mut Shared) -> Result<T, HostError>,
) -> Result<T, HostError> {
    match shared.try_borrow_mut() {
        Ok(mut shared) => act(&mut shared),
        Err(_) => Err(HostError::REENTERED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_to_and_whose_it_is() {
        for id in [0, 1, 0x2a, u32::MAX] {
            let mut next = b"what was there".to_vec();
            write_next(&mut next, "aoai_west", id);
            assert_eq!(next, format!("aoai_west {id:08x}").as_bytes());
            assert_eq!(id_of(&next), Some(id));
        }
        for other in ["", "aoai_west", "aoai_west 0000000g"] {
            assert_eq!(id_of(other.as_bytes()), None, "{other}");
        }
    }
}
