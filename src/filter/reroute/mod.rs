//! The drivers of the router engine: Envoy's router retries a request along the filter's plan. Every attempt's answer
//! streams, and bodies never enter the module. It needs Envoy 1.39 or later.
//!
//! The filter runs in two places:
//!
//! - *Downstream*, among the listener's filters, it draws the plan, makes the first attempt and adds the module's
//!   headers to the answer.
//! - *Upstream*, among each cluster's filters, it sees every attempt. It readdresses retries and reads answers. It
//!   marks an answer that needs a retry with a header that the route's retry policy matches.
//!
//! The filter writes the router's next destination into the request's filter state. The route's matcher reads it before
//! each attempt.
//!
//! Both filters run in one VM of a worker if their VM configurations are equal, and so share the [`Request`].

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

/// The property that has the request's [destination](crate::core::exchange::Exchange::write_destination). The route's
/// matcher reads it as `wasm.aoai_next`.
const NEXT: &str = "aoai_next";

thread_local! {
    /// The requests in flight in this VM, by the id of their downstream context.
    static REQUESTS: RefCell<BTreeMap<u32, Rc<Request>>> = RefCell::default();

    /// A buffer for the value of [`NEXT`], reused by all requests.
    static SCRATCH: Cell<Vec<u8>> = Cell::default();
}

/// Writes the router's next destination, for the case that it retries.
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

/// Chooses the next destinations again. Since these attempts began, backends may have been throttled or have recovered.
#[inline(never)]
pub(crate) fn look_ahead(worker: &Worker) {
    // Two configurations may share this VM; each handles its own requests.
    let own = |request: &&Rc<Request>| std::ptr::eq(&*request.worker, worker);
    let requests: Vec<_> =
        REQUESTS.with_borrow(|requests| requests.values().filter(own).cloned().collect());
    for request in requests {
        if request.handle(Input::LookAhead) == Next::Point {
            worker.as_stream(request.id, || point(&request));
        }
    }
}
