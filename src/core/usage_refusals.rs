//! The deployments that refused `stream_options`. Their streams' tokens are not requested again.
//!
//! Each worker keeps its own list: learning a refusal costs one attempt, and reading the list costs no host call.

use core::cell::RefCell;
use core::time::Duration;

use super::demand::DeploymentId;
use super::plan::BackendSet;
use super::time::Timestamp;
use crate::prelude::*;

/// How long a refusal is remembered. After that the deployment may have another model.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// The most refusals that are remembered. The one that expires first is dropped.
const MOST: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Refusal {
    backend: usize,
    deployment: Option<DeploymentId>,
    ends: Timestamp,
}

/// The refusals that one worker remembers.
#[derive(Debug, Default)]
pub struct UsageRefusals(RefCell<Vec<Refusal>>);

impl UsageRefusals {
    /// Notes that the backend with this index refused the option for this deployment.
    #[inline(never)]
    pub fn note(&self, backend: usize, deployment: Option<DeploymentId>, now: Timestamp) {
        let mut refusals = self.0.borrow_mut();
        let is_other = |it: &Refusal| it.backend != backend || it.deployment != deployment;
        refusals.retain(|it| is_other(it) && !it.ends.has_passed(now, REMEMBERED));
        if refusals.len() >= MOST {
            let first = refusals.iter().enumerate().min_by_key(|(_, it)| it.ends);
            if let Some(at) = first.map(|(at, _)| at) {
                refusals.swap_remove(at);
            }
        }
        refusals.push(Refusal {
            backend,
            deployment,
            ends: now + REMEMBERED,
        });
    }

    /// The backends from which this deployment's tokens are not requested. The time is read only if any refusal is
    /// known.
    pub fn of(
        &self,
        deployment: Option<DeploymentId>,
        now: impl FnOnce() -> Timestamp,
    ) -> BackendSet {
        let refusals = self.0.borrow();
        if refusals.is_empty() {
            return BackendSet::default();
        }
        let now = now();
        let valid = refusals
            .iter()
            .filter(|it| it.deployment == deployment && !it.ends.has_passed(now, REMEMBERED));
        valid.map(|it| it.backend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const MISTRAL: Option<DeploymentId> = Some(DeploymentId::from_number(1));
    const NONE: [usize; 0] = [];
    const GPT: Option<DeploymentId> = Some(DeploymentId::from_number(2));

    fn backends(
        refusals: &UsageRefusals,
        deployment: Option<DeploymentId>,
        now: Timestamp,
    ) -> Vec<usize> {
        let found = refusals.of(deployment, || now);
        (0..8).filter(|backend| found.contains(*backend)).collect()
    }

    #[test]
    fn refusals_concern_one_backend_and_one_deployment() {
        let refusals = UsageRefusals::default();
        refusals.note(3, MISTRAL, NOW);
        assert_eq!(backends(&refusals, MISTRAL, NOW), [3]);
        assert_eq!(backends(&refusals, GPT, NOW), NONE);
        assert_eq!(backends(&refusals, None, NOW), NONE);
    }

    #[test]
    fn a_refusal_is_forgotten_after_an_hour() {
        let refusals = UsageRefusals::default();
        refusals.note(3, MISTRAL, NOW);
        let later = NOW + REMEMBERED;
        let just_before = Timestamp::from_millis(later.as_millis() - 1);
        assert_eq!(backends(&refusals, MISTRAL, just_before), [3]);
        assert_eq!(backends(&refusals, MISTRAL, later), NONE);
        refusals.note(3, MISTRAL, just_before);
        assert_eq!(backends(&refusals, MISTRAL, later), [3]);
    }

    #[test]
    fn the_oldest_refusal_makes_room() {
        let refusals = UsageRefusals::default();
        for number in 0..=MOST as u64 {
            let deployment = Some(DeploymentId::from_number(number));
            refusals.note(1, deployment, NOW + Duration::from_secs(number));
        }
        let now = NOW + Duration::from_secs(MOST as u64);
        assert_eq!(refusals.0.borrow().len(), MOST);
        assert_eq!(
            backends(&refusals, Some(DeploymentId::from_number(0)), now),
            NONE
        );
        assert_eq!(backends(&refusals, MISTRAL, now), [1]);
    }

    #[test]
    fn without_refusals_no_clock_is_read() {
        let mut is_read = false;
        let found = UsageRefusals::default().of(GPT, || {
            is_read = true;
            NOW
        });
        assert!(found.is_empty() && !is_read);
    }
}
