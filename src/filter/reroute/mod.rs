//! The drivers of the router engine: Envoy's router sends a request again, along the filter's plan. Answers stream on every attempt,
//! and the body never enters the module. Envoy 1.39 or later.
//!
//! The filter stands in two places. *Downstream*, among the listener's filters, it draws the plan, makes the first attempt and
//! signs the answer. *Upstream*, among each cluster's filters, it sees every attempt: it readdresses the later ones, reads the
//! answers, and marks those that call for another attempt with a header the route's retry policy looks for. Where the router
//! goes next is written into the request's filter state, where the route's matcher reads it anew for each attempt.
//!
//! Both run in the same VM of a worker, if their VM configurations are the same, and so share the [`Request`].

mod downstream;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) use self::downstream::Downstream;
pub(super) use self::upstream::Upstream;
use super::host::{self, HostError};
use super::place::Request;
use super::worker::Worker;
use crate::core::exchange::{Input, Next};

/// The property that has the request's [destination](crate::core::exchange::Exchange::write_destination). The route's matcher knows it
/// as `wasm.aoai_next`.
const NEXT: &str = "aoai_next";

thread_local! {
    /// The requests in flight in this VM, by their downstream context's id.
    static REQUESTS: RefCell<BTreeMap<u32, Rc<Request>>> = RefCell::default();

    /// Where [`NEXT`] is written before it is handed over.
    static SCRATCH: Cell<Vec<u8>> = Cell::default();
}

/// Writes where the router goes from here, should it have to.
fn point(request: &Request) -> Result<(), HostError> {
    let mut next = SCRATCH.take();
    let exchange = request.exchange();
    let is_pointed = exchange.write_destination(request.id, &mut next, request.balancer());
    let pointed = match is_pointed {
        true => host::set_property(NEXT, &next),
        false => Ok(()),
    };
    SCRATCH.set(next);
    pointed
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
        if request.handle(Input::LookAhead) == Next::Point {
            worker.as_stream(request.id, || point(&request));
        }
    }
}
