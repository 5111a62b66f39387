//! Detects whether Envoy shows bodies while their headers are held.

use core::cell::Cell;
use core::time::Duration;

use crate::time::Timestamp;

/// The most late bodies in a row that still count as slow ones.
const SLOW_ONES: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Untried,
    Visible,
    Hidden,
}

/// The detected value of a filter's setting `allow_on_headers_stop_iteration`.
///
/// Without that setting a held body never arrives. The module cannot read the setting, so it watches the first holds.
#[derive(Debug, Default)]
pub struct HeldBodies {
    state: Cell<State>,
    missed: Cell<u8>,
    late: Cell<u8>,
}

impl HeldBodies {
    /// Whether a body may arrive while its headers are held.
    pub fn may_come(&self) -> bool {
        self.state.get() != State::Hidden
    }

    /// Whether a body has arrived while its headers were held. If so, a missing body means that its sender has stalled.
    pub fn have_come(&self) -> bool {
        self.state.get() == State::Visible
    }

    /// Notes a body that arrived while its headers were held.
    pub fn came(&self) {
        self.state.set(State::Visible);
    }

    /// Notes a body that did not arrive in time, for an unknown reason. `true` if Envoy now counts as hiding bodies.
    pub fn missed(&self) -> bool {
        let missed = self.missed.get().saturating_add(1);
        self.missed.set(missed);
        missed > SLOW_ONES && self.hidden()
    }

    /// Notes the late start of a stream, as slow models have. `true` after so many that Envoy may hide it.
    pub fn came_late(&self) -> bool {
        let late = self.late.get().saturating_add(1);
        self.late.set(late);
        late > SLOW_ONES
    }

    /// Notes a body that arrived as soon as its headers were released, so Envoy had hidden it. `true` the first time.
    pub fn hidden(&self) -> bool {
        let is_new = self.state.get() == State::Untried;
        if is_new {
            self.state.set(State::Hidden);
        }
        is_new
    }
}

/// Watches for a body after its headers were released without it.
#[derive(Debug, Default)]
pub struct Watch(Option<Timestamp>);

impl Watch {
    /// Notes the release of the headers.
    pub fn released(&mut self, now: Timestamp) {
        self.0 = Some(now);
    }

    /// Whether a body could arrive at once.
    pub fn is_watching(&self) -> bool {
        self.0.is_some()
    }

    /// Notes a frame of the body. `true` if Envoy had hidden it, the first time.
    pub fn body_comes(&mut self, bodies: &HeldBodies, now: impl FnOnce() -> Timestamp) -> bool {
        const AT_ONCE: Duration = Duration::from_millis(50);
        let Some(at) = self.0.take() else {
            return false;
        };
        let at_once = !(at + AT_ONCE).has_passed(now(), AT_ONCE);
        at_once && bodies.hidden()
    }
}
