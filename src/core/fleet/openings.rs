//! Finds backends that have become free for waiting requests.
//!
//! A wait may end early: a trial is served, another worker learns more, or a quota turns out not to refuse. Thousands
//! of requests may wait for one quota, so the results for one request are reused for the next.

use super::Fleet;
use crate::demand::{Client, Demand};
use crate::plan::{BackendSet, Plan};
use crate::prelude::*;
use crate::swap::SharedMap;
use crate::time::Timestamp;

/// The free backends at one moment, for any number of requests.
pub struct Openings<'a, M> {
    fleet: &'a Fleet<M>,
    now: Timestamp,
    looked: Vec<Looked>,
}

/// The result for requests that differ only in size and, mostly, client.
#[derive(Debug)]
struct Looked {
    /// The demand, without a size, and without a client unless that makes a difference.
    demand: Demand,
    is_own: bool,
    tried: BackendSet,
    /// The largest size known to find a free backend.
    fits: Option<u64>,
    /// The smallest size known to find no free backend.
    exceeds: Option<u64>,
}

/// The size of a request. An unannounced size counts as the largest.
fn size_of(demand: &Demand) -> u64 {
    demand.size.map_or(u64::MAX, u64::from)
}

impl<M: SharedMap> Fleet<M> {
    /// The free backends now, by the findings of all workers.
    pub fn openings(&self, now: Timestamp) -> Openings<'_, M> {
        self.refresh();
        Openings {
            fleet: self,
            now,
            looked: Vec::new(),
        }
    }
}

impl<M: SharedMap> Openings<'_, M> {
    /// Whether the request with this `plan` would find a backend, without a trial. A waiting request makes no trial,
    /// because waiting serves it for sure.
    pub fn are_there_for(&mut self, plan: &Plan, demand: &Demand) -> bool {
        let size = size_of(demand);
        let is_own = self.fleet.distinguishes(demand.client);
        let sizeless = Demand {
            size: None,
            client: match is_own {
                true => demand.client,
                false => Client::UNKNOWN,
            },
            ..*demand
        };
        let mut known = self.looked.iter();
        let known = known
            .position(|it| it.demand == sizeless && it.is_own == is_own && it.tried == plan.tried);
        let at = known.unwrap_or(self.looked.len());
        if known.is_none() {
            self.looked.push(Looked {
                demand: sizeless,
                is_own,
                tried: plan.tried,
                fits: None,
                exceeds: None,
            });
        }
        let Some(looked) = self.looked.get_mut(at) else {
            return false;
        };
        // A smaller request may go wherever a larger one may.
        if looked.fits.is_some_and(|fits| size <= fits) {
            return true;
        }
        if looked.exceeds.is_some_and(|exceeds| size >= exceeds) {
            return false;
        }
        let is_there = self.fleet.foresee(plan, demand, self.now).is_ok();
        match is_there {
            true => looked.fits = Some(size),
            false => looked.exceeds = Some(size),
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Plugin};
    use crate::demand::{DeploymentId, QuotaKey};
    use crate::health::{Blame, Finding, Seen};

    /// A map that counts its reads.
    #[derive(Default)]
    struct Map {
        values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
        reads: RefCell<u32>,
    }

    impl SharedMap for &Map {
        type Error = Infallible;

        fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
            *self.reads.borrow_mut() += 1;
            let values = self.values.borrow();
            let value = values.get(key).cloned();
            Ok(value.map_or((None, 0), |(value, cas)| (Some(value), cas)))
        }

        fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Infallible> {
            let mut values = self.values.borrow_mut();
            let known = values.get(key).map_or(0, |(_, cas)| *cas);
            if cas != 0 && known != 0 && cas != known {
                return Ok(false);
            }
            values.insert(key.to_owned(), (value.to_vec(), known + 1));
            Ok(true)
        }
    }

    const START: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn at(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    fn config() -> Config {
        let config = r#"{"backends": [{"name": "a", "cluster": "a", "host": "a"}], "identity": {"cluster": "imds"}}"#;
        match Plugin::from_bytes(config.as_bytes(), &|_| None).unwrap() {
            Plugin::Balancer(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn demand(size: u32) -> Demand {
        Demand {
            quota: QuotaKey::of_deployment(DeploymentId::from_number(7)),
            size: Some(size),
            ..Demand::default()
        }
    }

    fn learn(fleet: &Fleet<&Map>, config: &Config, finding: Finding, began: u64, now: u64) {
        let seen = Seen {
            demand: demand(1000),
            began: at(began),
            ..Seen::default()
        };
        fleet.learn(&config.cooldown, 0, finding, &seen, at(now));
    }

    fn is_open(fleet: &Fleet<&Map>, size: u32, now: u64) -> bool {
        let mut openings = fleet.openings(at(now));
        openings.are_there_for(&Plan::new(0), &demand(size))
    }

    #[test]
    fn a_trial_served_on_another_worker_is_an_opening() {
        let (map, config) = (Map::default(), config());
        let [first, second] = [0, 1].map(|_| Fleet::new(&map, &config, 1, START).unwrap());
        let refused = Finding::Throttled(Some(Duration::from_secs(30)), Blame::First);
        learn(&first, &config, refused, 0, 10);
        assert!(!is_open(&second, 1000, 2_000), "a due trial is no opening");
        let plan = Plan::new(second.draw());
        second.choose(&plan, &demand(1000), at(2_000)).unwrap();
        assert!(!is_open(&first, 1000, 2_001));
        learn(&second, &config, Finding::Served, 2_000, 2_100);
        assert!(is_open(&first, 1000, 2_101));
    }

    #[test]
    fn an_unrefused_trial_is_an_opening() {
        let (map, config) = (Map::default(), config());
        let fleet = Fleet::new(&map, &config, 1, START).unwrap();
        let refused = Finding::Throttled(Some(Duration::from_secs(30)), Blame::First);
        learn(&fleet, &config, refused, 0, 10);
        fleet
            .choose(&Plan::new(0), &demand(1000), at(2_000))
            .unwrap();
        assert!(!is_open(&fleet, 1000, 2_100));
        assert!(is_open(&fleet, 1000, 2_500));
    }

    #[test]
    fn many_requests_of_all_sizes_cost_few_reads() {
        let (map, config) = (Map::default(), config());
        let fleet = Fleet::new(&map, &config, 1, START).unwrap();
        let refused = Finding::Throttled(Some(Duration::from_secs(30)), Blame::First);
        learn(&fleet, &config, refused, 0, 10);
        fleet.openings(at(20));
        let before = *map.reads.borrow();
        let mut openings = fleet.openings(at(20));
        for size in 0..2_000 {
            let is_open = openings.are_there_for(&Plan::new(0), &demand(size));
            // The size is less than half of the refused one, so there may be room.
            assert_eq!(is_open, size < 500, "{size}");
        }
        assert_eq!(openings.looked.len(), 1);
        assert_eq!(*map.reads.borrow() - before, 1);
    }
}
