//! Changes of the backends' health, as statistics and log lines show them.

use crate::attempts::Lesson;
use crate::demand::QuotaKey;
use crate::health::{Blame, Change, Finding, Reason};
use crate::metrics::Event;
use crate::prelude::*;
use crate::time::Pretty;

/// The event that a change counts as, if it is one to count.
pub(super) fn event(backend: usize, change: Change) -> Option<Event> {
    match change {
        Change::CoolsDown(reason, _) => Some(Event::Cooldown(backend, reason)),
        Change::Lacks(_) => Some(Event::MissingDeployment(backend)),
        Change::Advised(_) | Change::Contradicted | Change::Recovered(_) => None,
    }
}

/// A request, for people.
#[derive(Debug, Default)]
pub struct Detail {
    /// The deployment or API that it was for; or why the backend refuses the identity.
    pub text: String,
    /// The name of its deployment, as far as it was read.
    pub deployment: Option<String>,
}

/// Logs what a `lesson` has changed of the backend called `name`. `detail` is what it was asked for, or why it refuses the identity.
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
                "backend {name}: serves {detail} although it had asked to wait; for a minute its waits are advice"
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
            log::info!("backend {name}: serves again; it lets the identity or key in");
        }
        Change::Lacks(wait) => {
            log::warn!(
                "backend {name}: has no {detail}; requests for it pass this backend over for {}",
                Pretty(wait)
            );
        }
    }
}

/// Why the wait of a 429 is advice only.
fn why_advice(lesson: &Lesson) -> &'static str {
    match lesson.finding {
        // What was wanted says so.
        _ if lesson.seen.demand.quota == QuotaKey::UNREAD => "",
        Finding::Throttled(_, Blame::Spent) => ", as on a backend before",
        _ => ", but a wait of it was contradicted a moment ago",
    }
}
