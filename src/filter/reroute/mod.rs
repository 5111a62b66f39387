//! The drivers of the router engine: Envoy's router sends a request again, along the filter's plan. Answers stream on every attempt,
//! and the body never enters the module. Envoy 1.39 or later.
//!
//! The filter stands in two places. *Downstream*, among the listener's filters, it draws the plan, makes the first attempt and
//! signs the answer. *Upstream*, among each cluster's filters, it sees every attempt: it readdresses the later ones, reads the
//! answers, and marks those that call for another attempt with a header the route's retry policy looks for. Where the router
//! goes next is written into the request's filter state, where the route's matcher reads it anew for each attempt.
//!
//! Both run in the same VM of a worker, if their VM configurations are the same, and so share the request's [`Exchange`].

mod downstream;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) use self::downstream::Downstream;
pub(super) use self::upstream::Upstream;
use super::host::{self, HostError};
use super::worker::Worker;
use crate::core::exchange::{Exchange, Input, Next};

/// The property that the route's matcher knows as `wasm.aoai_next`, and by which an attempt finds its request, in one because each
/// is a host call: the cluster of the next attempt, a space, which no cluster's name has, and the request's id in [`ID_DIGITS`]
/// hexadecimal digits.
const NEXT: &str = "aoai_next";
const ID_DIGITS: usize = 8;

thread_local! {
    /// The requests in flight in this VM, by their downstream context's id.
    static REQUESTS: RefCell<BTreeMap<u32, Rc<Request>>> = RefCell::default();

    /// Where [`NEXT`] is written before it is handed over.
    static SCRATCH: Cell<Vec<u8>> = Cell::default();
}

/// What the downstream filter and the upstream filters share of one request.
struct Request {
    /// The downstream context's.
    id: u32,
    worker: Rc<Worker>,
    exchange: RefCell<Exchange>,
}

impl Request {
    /// Writes where the router goes from here, should it have to.
    fn point(&self, exchange: &Exchange) -> Result<(), HostError> {
        let Some(cluster) = exchange.destination(&self.worker.balancer) else {
            return Ok(());
        };
        let mut next = SCRATCH.take();
        write_next(&mut next, cluster, self.id);
        let pointed = host::set_property(NEXT, &next);
        SCRATCH.set(next);
        pointed
    }

    fn look_ahead(&self) -> Result<(), HostError> {
        let mut exchange = self.exchange.borrow_mut();
        match exchange.handle(Input::LookAhead, &self.worker.balancer) {
            Next::Point => {
                let mut pointed = Ok(());
                self.worker
                    .as_stream(self.id, || pointed = self.point(&exchange));
                pointed
            }
            _ => Ok(()),
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
    // Of two configurations in this VM, each looks after its own requests.
    let own = |request: &&Rc<Request>| std::ptr::eq(&*request.worker, worker);
    let requests: Vec<_> =
        REQUESTS.with_borrow(|requests| requests.values().filter(own).cloned().collect());
    for request in requests {
        if let Err(error) = request.look_ahead() {
            log::error!("{error}");
        }
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
