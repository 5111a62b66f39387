//! The record of one backend's health: its parts and its encoding.

use super::access::{self, Access};
use super::breaker::{self, Breaker};
use super::missing::Missing;
use super::quota::{self, Quota};
use super::{Reason, Standing};
use crate::codec::{Fields, Writer};
use crate::demand::{Client, Demand, QuotaKey};
use crate::prelude::*;
use crate::time::Timestamp;

const VERSION: u8 = 4;

/// The most quotas in the record of one backend. The longest idle quota is dropped first.
const MOST_QUOTAS: usize = 64;

/// The health of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub(super) breaker: Breaker,
    pub(super) access: Access,
    pub(super) missing: Missing,
    pub(super) quotas: Vec<Quota>,
}

/// The wait of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaWait {
    /// The quota.
    pub key: QuotaKey,
    /// The end of the wait.
    pub until: Timestamp,
    /// Whether the wait binds requests. Otherwise it is advice.
    pub is_binding: bool,
}

impl Health {
    /// Whether the backend is free for every request at any time.
    pub fn is_plain(&self) -> bool {
        self.breaker.is_closed()
            && self.access.is_open()
            && self.missing.is_empty()
            && self.quotas.is_empty()
    }

    /// Whether no success can change this record.
    pub fn is_untroubled(&self) -> bool {
        self.breaker.is_untroubled() && !self.access.is_news() && self.quotas.is_empty()
    }

    /// Whether the state depends on the deployment of a request.
    pub fn distinguishes_deployments(&self) -> bool {
        !self.missing.is_empty() || !self.quotas.is_empty()
    }

    /// Whether the state for this client may differ from the state for most clients.
    pub fn distinguishes(&self, client: Client) -> bool {
        self.quotas.iter().any(|quota| quota.distinguishes(client))
    }

    /// Whether workers that choose a backend or count successes can ignore the difference to `other`.
    pub fn looks_like(&self, other: &Self) -> bool {
        let quotas = || self.quotas.iter().zip(&other.quotas);
        self.breaker.looks_like(&other.breaker)
            && self.access.looks_like(&other.access)
            && self.missing == other.missing
            && self.quotas.len() == other.quotas.len()
            && quotas().all(|(own, others)| own.looks_like(others))
    }

    /// The state of the backend for a request with this `demand`.
    pub fn standing(&self, demand: &Demand, now: Timestamp) -> Standing {
        if let access::Standing::Refused(until) = self.access.standing(now) {
            return Standing::Misconfigured(until);
        }
        let (mut soft, mut recovers) = (None::<Timestamp>, false);
        for quota in self.quotas_of(demand) {
            match quota.standing(demand, now) {
                quota::Standing::Hard(until) => return Standing::Throttled(until),
                quota::Standing::Soft(until) => soft = soft.max(Some(until)),
                quota::Standing::Recovering => recovers = true,
                quota::Standing::Open => {}
            }
        }
        let breaker = self.breaker.standing(now);
        recovers |= breaker == breaker::Standing::Recovering
            || self.access.standing(now) == access::Standing::Recovering;
        match (breaker, soft) {
            (breaker::Standing::Open(until), _) => Standing::Failing(until),
            (_, Some(until)) => Standing::Soft(until),
            _ if recovers => Standing::Recovering,
            _ => Standing::Free,
        }
    }

    /// The quotas of a request. Requests with unread names use a separate quota.
    pub(super) fn quotas_of(&self, demand: &Demand) -> impl Iterator<Item = &Quota> + use<'_> {
        let key = demand.quota;
        let quotas = self.quotas.iter();
        quotas.filter(move |quota| quota.key == key)
    }

    pub(super) fn quotas_of_mut(
        &mut self,
        demand: &Demand,
    ) -> impl Iterator<Item = &mut Quota> + use<'_> {
        let key = demand.quota;
        let quotas = self.quotas.iter_mut();
        quotas.filter(move |quota| quota.key == key)
    }

    #[inline(never)]
    pub(super) fn quota(&mut self, key: QuotaKey) -> Option<&mut Quota> {
        let known = self.quotas.iter().position(|quota| quota.key == key);
        let at = known.unwrap_or_else(|| {
            if self.quotas.len() >= MOST_QUOTAS {
                let quotas = self.quotas.iter().enumerate();
                let idle = quotas.min_by_key(|(_, quota)| quota.used_at());
                if let Some((idle, _)) = idle {
                    self.quotas.remove(idle);
                }
            }
            self.quotas.push(Quota::new(key));
            self.quotas.len() - 1
        });
        self.quotas.get_mut(at)
    }

    /// Whether a recovering backend admits an attempt of this `demand`.
    pub fn admits(&self, demand: &Demand, now: Timestamp) -> bool {
        let breaker =
            self.breaker.standing(now) != breaker::Standing::Recovering || self.breaker.admits(now);
        let access =
            self.access.standing(now) != access::Standing::Recovering || self.access.admits(now);
        let recovers = |quota: &&Quota| quota.standing(demand, now) == quota::Standing::Recovering;
        let mut quotas = self.quotas_of(demand).filter(recovers);
        breaker && access && quotas.all(|quota| quota.admits(now))
    }

    /// Begins an attempt on a recovering backend, if the backend admits it.
    pub fn admit(&mut self, demand: &Demand, now: Timestamp) -> bool {
        if !self.admits(demand, now) {
            return false;
        }
        if self.breaker.standing(now) == breaker::Standing::Recovering {
            self.breaker.admit(now);
        }
        if self.access.standing(now) == access::Standing::Recovering {
            self.access.admit(now);
        }
        for quota in self.quotas_of_mut(demand) {
            if quota.standing(demand, now) == quota::Standing::Recovering {
                quota.admit(now);
            }
        }
        true
    }

    /// Whether a trial is due, which finds out whether a cooldown is still justified.
    pub fn trial_is_due(&self, demand: &Demand, now: Timestamp) -> bool {
        let refuses = matches!(self.access.standing(now), access::Standing::Refused(_));
        let mut hard = self
            .quotas_of(demand)
            .filter(|quota| is_hard(quota, demand, now))
            .peekable();
        (refuses || hard.peek().is_some())
            && (!refuses || self.access.trial_is_due(now))
            && hard.all(|quota| quota.trial_is_due(now))
    }

    /// Begins a trial, if one may begin now.
    pub fn claim_trial(&mut self, demand: &Demand, now: Timestamp) -> bool {
        if !self.trial_is_due(demand, now) {
            return false;
        }
        if let access::Standing::Refused(_) = self.access.standing(now) {
            self.access.claim_trial(now);
        }
        for quota in self.quotas_of_mut(demand) {
            if is_hard(quota, demand, now) {
                quota.claim_trial(now);
            }
        }
        true
    }

    /// Begins an attempt despite advice to wait.
    pub fn ask(&mut self, demand: &Demand, now: Timestamp) {
        self.quotas_of_mut(demand)
            .for_each(|quota| quota.ask(demand, now));
    }

    /// Whether the backend reported that it lacks the demanded deployment or API.
    pub fn lacks(&self, demand: &Demand, now: Timestamp) -> bool {
        let deployment = demand.deployment_in_api();
        let mut demanded = deployment.into_iter().chain(demand.whole_api());
        demanded.any(|id| self.missing.contains(id, now))
    }

    /// Whether the backend reported that it lacks any deployment or API.
    pub fn lacks_any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// The most severe state of the backend, with the end of a running cooldown.
    pub fn trouble(&self, now: Timestamp) -> Option<(Reason, Option<Timestamp>)> {
        match self.access.standing(now) {
            access::Standing::Refused(until) => return Some((Reason::Misconfigured, Some(until))),
            access::Standing::Recovering => return Some((Reason::Misconfigured, None)),
            access::Standing::Open => {}
        }
        match self.breaker.standing(now) {
            breaker::Standing::Open(until) => return Some((Reason::Failing, Some(until))),
            breaker::Standing::Recovering => return Some((Reason::Failing, None)),
            breaker::Standing::Closed => {}
        }
        let binding = self.quota_waits(now).filter(|wait| wait.is_binding);
        let until = binding.map(|wait| wait.until).max();
        until.map(|until| (Reason::Throttled, Some(until)))
    }

    /// The running waits of all quotas.
    pub fn quota_waits(&self, now: Timestamp) -> impl Iterator<Item = QuotaWait> + use<'_> {
        self.quotas(now).filter_map(|(_, wait)| wait)
    }

    /// The recently refused quotas, each with its running wait.
    pub fn quotas(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (QuotaKey, Option<QuotaWait>)> + use<'_> {
        self.quotas.iter().map(move |quota| {
            let wait = quota.wait(now).map(|(until, is_binding)| QuotaWait {
                key: quota.key,
                until,
                is_binding,
            });
            (quota.key, wait)
        })
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        self.breaker.encode(&mut writer);
        self.access.encode(&mut writer);
        self.missing.encode(&mut writer);
        writer.length(self.quotas.len());
        for quota in &self.quotas {
            quota.encode(&mut writer);
        }
        writer.finish()
    }

    /// The record in `bytes`. Missing bytes, or bytes of another version, decode to the record of a healthy backend.
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(Self::try_decode).unwrap_or_default()
    }

    #[inline(never)]
    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes, VERSION)?;
        Some(Self {
            breaker: Breaker::decode(&mut fields)?,
            access: Access::decode(&mut fields)?,
            missing: Missing::decode(&mut fields)?,
            quotas: (0..fields.u8()?)
                .map(|_| Quota::decode(&mut fields))
                .collect::<Option<_>>()?,
        })
    }
}

fn is_hard(quota: &Quota, demand: &Demand, now: Timestamp) -> bool {
    matches!(quota.standing(demand, now), quota::Standing::Hard(_))
}
