//! Changes of the backends' health, in statistics and log lines.

use crate::attempts::Lesson;
use crate::demand::QuotaKey;
use crate::health::{Blame, Change, Finding, Reason};
use crate::metrics::Event;
use crate::prelude::*;
use crate::time::Pretty;

/// The event that counts a change, if the change is counted.
pub(super) fn event(backend: usize, change: Change) -> Option<Event> {
    match change {
        Change::CoolsDown(reason, _) => Some(Event::Cooldown(backend, reason)),
        Change::Lacks(_) => Some(Event::MissingDeployment(backend)),
        Change::Advised(_) | Change::Contradicted | Change::Recovered(_) => None,
    }
}

/// The texts about a request in log lines.
#[derive(Debug, Default)]
pub struct Detail {
    /// The requested deployment or API, or the reason why the backend refuses the identity.
    pub text: String,
    /// The name of the request's deployment, if it was read.
    pub deployment: Option<String>,
}

/// Logs the change that a `lesson` made to the backend `name`. `detail` is the requested deployment or API, or the
/// reason why the backend refuses the identity.
#[inline(never)]
pub(super) fn report(name: &str, change: Change, lesson: &Lesson, detail: &str) {
    match change {
        Change::CoolsDown(Reason::Throttled, wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429); no requests for it for {}",
                Pretty(wait)
            );
        }
        Change::Advised(wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429){}; requests for it prefer other backends for {}",
                why_advice(lesson),
                Pretty(wait)
            );
        }
        Change::Contradicted => {
            log::info!(
                "backend {name}: served {detail} during the wait it requested; for a minute its waits are only advice"
            );
        }
        Change::CoolsDown(Reason::Failing, wait) => {
            log::warn!(
                "backend {name}: too many failures (5xx, timeouts, connections refused or broken); no requests for {}",
                Pretty(wait)
            );
        }
        Change::CoolsDown(Reason::Misconfigured, wait) => {
            log::error!("backend {name}: {detail}; no requests for {}", Pretty(wait));
        }
        Change::Recovered(Reason::Throttled) => {
            log::info!("backend {name}: serves {detail} again");
        }
        Change::Recovered(Reason::Failing) => {
            log::info!("backend {name}: serves again after failures");
        }
        Change::Recovered(Reason::Misconfigured) => {
            log::info!("backend {name}: serves again; it accepts the identity or key");
        }
        Change::Lacks(wait) => {
            log::warn!(
                "backend {name}: has no {detail}; requests for it skip this backend for {}",
                Pretty(wait)
            );
        }
    }
}

/// The reason why the wait of a 429 is only advice.
fn why_advice(lesson: &Lesson) -> &'static str {
    match lesson.finding {
        // `detail` already explains this case.
        _ if lesson.seen.demand.quota == QuotaKey::UNREAD => "",
        Finding::Throttled(_, Blame::Repeated) => ", as on the backend before",
        _ => ", but it recently served requests during such a wait",
    }
}
