//! Whether Envoy shows bodies while their headers are held.

use core::cell::Cell;
use core::time::Duration;

use crate::time::Timestamp;

/// More bodies than this in a row are not just slow.
const SLOW_ONES: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Untried,
    Shown,
    Hidden,
}

/// What is known of one filter's setting `allow_on_headers_stop_iteration`.
///
/// Without that setting a held body never comes. The module cannot read the setting, so it watches the first holds.
#[derive(Debug, Default)]
pub struct HeldBodies {
    state: Cell<State>,
    missed: Cell<u8>,
    late: Cell<u8>,
}

impl HeldBodies {
    /// Whether a body may be waited for while its headers are held.
    pub fn may_come(&self) -> bool {
        self.state.get() != State::Hidden
    }

    /// Whether a body has come while its headers were held. Then a body that does not come has stalled.
    pub fn have_come(&self) -> bool {
        self.state.get() == State::Shown
    }

    /// A body came while its headers were held.
    pub fn came(&self) {
        self.state.set(State::Shown);
    }

    /// A body did not come in time, for an unknown reason. `true` if that was once too often.
    pub fn missed(&self) -> bool {
        let missed = self.missed.get().saturating_add(1);
        self.missed.set(missed);
        missed > SLOW_ONES && self.hidden()
    }

    /// The start of a stream did not come in time, as happens to slow ones. `true` if that was so often that Envoy may hide it.
    pub fn came_late(&self) -> bool {
        let late = self.late.get().saturating_add(1);
        self.late.set(late);
        late > SLOW_ONES
    }

    /// A body came as soon as its headers were no longer held, so it had been there all the time. `true` if that is new.
    pub fn hidden(&self) -> bool {
        let is_new = self.state.get() == State::Untried;
        if is_new {
            self.state.set(State::Hidden);
        }
        is_new
    }
}

/// Watches for a body after its headers, held in vain, were released.
#[derive(Debug, Default)]
pub struct Watch(Option<Timestamp>);

impl Watch {
    /// The headers are released.
    pub fn released(&mut self, now: Timestamp) {
        self.0 = Some(now);
    }

    /// Whether the body may come at once.
    pub fn is_watching(&self) -> bool {
        self.0.is_some()
    }

    /// A frame of the body comes. `true` if Envoy had hidden it, and that is new.
    pub fn body_comes(&mut self, bodies: &HeldBodies, now: impl FnOnce() -> Timestamp) -> bool {
        const AT_ONCE: Duration = Duration::from_millis(50);
        let Some(at) = self.0.take() else {
            return false;
        };
        let at_once = !(at + AT_ONCE).has_passed(now(), AT_ONCE);
        at_once && bodies.hidden()
    }
}
