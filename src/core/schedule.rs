//! The order in which backends take turns. It follows from weights and priorities, once at configuration time.

use super::config::{Backend, MAX_BACKENDS};
use super::plan::BackendSet;
use crate::prelude::*;

// A schedule holds indices as bytes.
const _: () = assert!(MAX_BACKENDS <= u8::MAX as usize);

/// Assigns turns to backends.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The tiers by ascending priority number.
    tiers: Vec<Tier>,
}

/// The backends of one priority.
#[derive(Clone, Debug)]
struct Tier {
    members: Vec<Member>,
    /// One round. Each member has as many slots as its weight, spread as evenly as possible.
    round: Vec<Slot>,
    /// The set of all members, which has their order.
    all: BackendSet,
    /// Whether all members have equal shares.
    is_even: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    backend: u8,
    weight: u8,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    member: u8,
    /// The number of the slot among the member's slots in the round.
    nth: u8,
}

/// The backends that a request can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Backends that serve every request.
    pub free: BackendSet,
    /// Backends that would get a probe.
    pub due: BackendSet,
}

impl Usable {
    fn contains(&self, backend: usize) -> bool {
        self.free.contains(backend) || self.due.contains(backend)
    }
}

impl Schedule {
    /// The schedule of these backends, at most [`MAX_BACKENDS`].
    pub fn new(backends: &[Backend]) -> Self {
        // This avoids a sort, whose code alone would be larger than this file's.
        let tiers = (0..=u8::MAX).filter_map(|priority| {
            let members = (0..=u8::MAX).zip(backends);
            let members = members.filter(|(_, backend)| backend.priority == priority);
            let members: Vec<_> = members
                .map(|(index, backend)| Member {
                    backend: index,
                    weight: backend.weight,
                })
                .collect();
            (!members.is_empty()).then(|| Tier::new(members))
        });
        Self {
            tiers: tiers.collect(),
        }
    }

    /// The next backend for the request with number `turn`, among the `usable` ones.
    ///
    /// Within a priority the schedule decides. The turns of an unavailable backend go to all other backends in
    /// proportion to their weights, so that no neighbour carries the load alone.
    pub fn pick(&self, turn: u64, usable: &Usable) -> Option<usize> {
        self.tiers.iter().find_map(|tier| tier.pick(turn, usable))
    }

    /// The backend whose own turn this is. [`Self::pick`] picks it if it is usable, whatever else is.
    pub fn home(&self, turn: u64) -> Option<usize> {
        let tier = self.tiers.first()?;
        let member = tier.members.get(usize::from(tier.slot(turn)?.member))?;
        Some(member.index())
    }

    /// The backends of the best priority with any of `backends`, each with its weight.
    pub fn best(&self, backends: BackendSet) -> impl Iterator<Item = (usize, u8)> + Clone + '_ {
        let has_any = |tier: &&Tier| tier.members.iter().any(|m| backends.contains(m.index()));
        let members = self.tiers.iter().find(has_any).into_iter();
        let members = members.flat_map(|tier| &tier.members);
        let members = members.map(|member| (member.index(), member.weight));
        members.filter(move |(index, _)| backends.contains(*index))
    }

    /// Like [`Self::pick`], but within a priority a backend's chance is proportional to its `capacity`. An unknown
    /// capacity counts as the average of the known ones. If none is known, the schedule decides.
    #[inline(never)]
    pub fn pick_by_capacity(
        &self,
        turn: u64,
        usable: &Usable,
        capacity: impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        self.tiers.iter().find_map(|tier| {
            tier.pick_by_capacity(turn, usable, &capacity)
                .or_else(|| tier.pick(turn, usable))
        })
    }
}

impl Tier {
    #[inline(never)]
    fn new(mut members: Vec<Member>) -> Self {
        let divisor = members
            .iter()
            .fold(0, |gcd, m| greatest_common_divisor(gcd, m.weight));
        for member in &mut members {
            member.weight /= divisor.max(1);
        }
        Self {
            round: round(&members),
            all: members.iter().map(Member::index).collect(),
            is_even: members.iter().all(|member| member.weight == 1),
            members,
        }
    }

    /// The place of this turn in the round.
    fn slot(&self, turn: u64) -> Option<Slot> {
        let place = turn.checked_rem(self.round.len() as u64)?;
        self.round.get(place as usize).copied()
    }

    fn pick(&self, turn: u64, usable: &Usable) -> Option<usize> {
        let slot = self.slot(turn)?;
        let (before, from_home) = self.members.split_at_checked(usize::from(slot.member))?;
        let home = from_home.first()?;
        if usable.contains(home.index()) {
            return Some(home.index());
        }
        // The number of turns that this backend has left to others.
        let rounds = turn.checked_div(self.round.len() as u64)?;
        let left = rounds
            .wrapping_mul(u64::from(home.weight))
            .wrapping_add(u64::from(slot.nth));
        // A probe may fail, so it takes a backend's own turns. It takes others' turns only if no better backend is
        // left.
        [usable.free, usable.due].into_iter().find_map(|wanted| {
            if self.is_even {
                // A shortcut with the same result as below, independent of the number of backends.
                let candidates = wanted.and(self.all);
                let point = left.checked_rem(candidates.len() as u64)? as usize;
                let behind = candidates.behind(home.index());
                return match point.checked_sub(behind.len()) {
                    None => behind.nth(point),
                    Some(point) => candidates.without(behind).nth(point),
                };
            }
            let candidates = || {
                let members = from_home.iter().chain(before);
                let candidates = members.filter(|member| wanted.contains(member.index()));
                candidates.map(|member| (member.index(), u64::from(member.weight)))
            };
            let total = candidates().map(|(_, weight)| weight).sum();
            at_share(candidates(), left.checked_rem(total)?)
        })
    }

    #[inline(never)]
    fn pick_by_capacity(
        &self,
        turn: u64,
        usable: &Usable,
        capacity: &impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        let candidates = || {
            let indices = self.members.iter().map(Member::index);
            indices.filter(|index| usable.contains(*index))
        };
        let known = || candidates().filter_map(capacity).map(u64::from);
        let average = known().sum::<u64>().checked_div(known().count() as u64)?;
        let shares =
            || candidates().map(|index| (index, capacity(index).map_or(average, u64::from)));
        let total: u64 = shares().map(|(_, share)| share).sum();
        // Multiples of the golden ratio modulo one are spread evenly over any division into shares.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let point = (u128::from(turn.wrapping_mul(GOLDEN)) * u128::from(total)) >> 64;
        at_share(shares(), point as u64)
    }
}

impl Member {
    fn index(&self) -> usize {
        usize::from(self.backend)
    }
}

/// The backend whose share covers the point `at`, with all shares laid end to end.
fn at_share(mut shares: impl Iterator<Item = (usize, u64)>, mut at: u64) -> Option<usize> {
    let found = shares.find(|(_, share)| match at.checked_sub(*share) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    });
    found.map(|(backend, _)| backend)
}

/// Smooth weighted round robin: in every step each member gains its weight. The member with the largest gain takes the
/// slot, and pays the sum of all weights.
fn round(members: &[Member]) -> Vec<Slot> {
    let total: i32 = members.iter().map(|member| i32::from(member.weight)).sum();
    let mut gains = vec![0_i32; members.len()];
    let mut taken = vec![0_u8; members.len()];
    (0..total)
        .filter_map(|_| {
            for (gain, member) in gains.iter_mut().zip(members) {
                *gain = gain.saturating_add(i32::from(member.weight));
            }
            let most = *gains.iter().max()?;
            let winner = gains.iter().position(|gain| *gain == most)?;
            let gain = gains.get_mut(winner)?;
            *gain = gain.saturating_sub(total);
            let taken = taken.get_mut(winner)?;
            let nth = *taken;
            *taken = taken.saturating_add(1);
            Some(Slot {
                member: u8::try_from(winner).ok()?,
                nth,
            })
        })
        .collect()
}

fn greatest_common_divisor(a: u8, b: u8) -> u8 {
    match b {
        0 => a,
        b => greatest_common_divisor(b, a.checked_rem(b).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(backends: &[(u8, u8)]) -> Schedule {
        let backends: Vec<Backend> = backends
            .iter()
            .map(|&(priority, weight)| Backend {
                priority,
                weight,
                ..Backend::default()
            })
            .collect();
        Schedule::new(&backends)
    }

    impl Schedule {
        fn picks(
            &self,
            turn: u64,
            tried: BackendSet,
            standing: impl Fn(usize) -> Standing,
        ) -> Option<usize> {
            self.pick(turn, &usable(tried, standing))
        }
    }

    /// The state of a backend.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Standing {
        Free,
        Due,
        Out,
    }

    fn usable(tried: BackendSet, standing: impl Fn(usize) -> Standing) -> Usable {
        let those = |wanted: Standing| -> BackendSet {
            let untried = (0..MAX_BACKENDS).filter(|index| !tried.contains(*index));
            untried.filter(|index| standing(*index) == wanted).collect()
        };
        Usable {
            free: those(Standing::Free),
            due: those(Standing::Due),
        }
    }

    fn free(_: usize) -> Standing {
        Standing::Free
    }

    /// Makes only these backends usable.
    fn only(usable: &[usize]) -> impl Fn(usize) -> Standing + '_ {
        |index| match usable.contains(&index) {
            true => Standing::Free,
            false => Standing::Out,
        }
    }

    fn shares(schedule: &Schedule, turns: u64, standing: impl Fn(usize) -> Standing) -> Vec<u64> {
        let mut shares = vec![0; 10];
        for turn in 0..turns {
            let picked = schedule
                .picks(turn, BackendSet::default(), &standing)
                .unwrap();
            shares[picked] += 1;
        }
        while shares.last() == Some(&0) {
            shares.pop();
        }
        shares
    }

    #[test]
    fn equal_weights_alternate() {
        let schedule = schedule(&[(0, 7), (0, 7), (0, 7)]);
        for turn in 0..100 {
            let picked = schedule.picks(turn, BackendSet::default(), free);
            assert_eq!(picked, Some(turn as usize % 3));
        }
    }

    #[test]
    fn a_usable_backend_takes_its_own_turns() {
        let schedule = schedule(&[(1, 2), (0, 3), (0, 2), (1, 1), (0, 1)]);
        for turn in 0..60 {
            let home = schedule.home(turn).unwrap();
            assert!([1, 2, 4].contains(&home), "of the best priority");
            for others in [&[][..], &[0, 3], &[0, 1, 2, 3, 4]] {
                let usable = |index| match index == home || others.contains(&index) {
                    true => Standing::Free,
                    false => Standing::Out,
                };
                let picked = schedule.picks(turn, BackendSet::default(), usable);
                assert_eq!(picked, Some(home), "{turn}");
            }
        }
        assert_eq!(Schedule::new(&[]).home(0), None);
    }

    #[test]
    fn weights_are_exact_and_interleaved() {
        let schedule = schedule(&[(0, 3), (0, 2), (0, 1)]);
        assert_eq!(shares(&schedule, 600, free), [300, 200, 100]);
        let order: Vec<_> = (0..600)
            .map(|turn| schedule.picks(turn, BackendSet::default(), free).unwrap())
            .collect();
        assert_eq!(order[..6], [0, 1, 0, 2, 1, 0]);
        assert!(order.windows(3).all(|w| w[0] != w[1] || w[1] != w[2]));
    }

    #[test]
    fn lower_priorities_serve_only_without_higher_ones() {
        let schedule = schedule(&[(0, 1), (1, 3), (0, 1), (1, 1)]);
        assert_eq!(shares(&schedule, 100, free), [50, 0, 50]);
        assert_eq!(shares(&schedule, 100, only(&[0, 1, 3])), [100]);
        assert_eq!(shares(&schedule, 100, only(&[1, 3])), [0, 75, 0, 25]);
        assert_eq!(schedule.picks(0, BackendSet::default(), only(&[])), None);
    }

    #[test]
    fn turns_of_unavailable_backends_are_dealt_by_weight() {
        let schedule = schedule(&[(0, 4), (0, 3), (0, 2), (0, 1)]);
        // 400 of its own, and 6 of every 600 of the first backend's turns for each unit of weight.
        assert_eq!(
            shares(&schedule, 6000, only(&[1, 2, 3])),
            [0, 3000, 2000, 1000]
        );
        assert_eq!(shares(&schedule, 5000, only(&[0, 3])), [4000, 0, 0, 1000]);
    }

    #[test]
    fn probes_take_others_turns_only_without_free_backends() {
        let schedule = schedule(&[(0, 1), (0, 1), (0, 1), (1, 1)]);
        let second_is_due = |first: Standing| {
            move |index| match index {
                0 => first,
                1 => Standing::Due,
                2 => Standing::Out,
                _ => Standing::Free,
            }
        };
        let pick = |turn, first| schedule.picks(turn, BackendSet::default(), second_is_due(first));
        assert_eq!(pick(0, Standing::Free), Some(0));
        assert_eq!(pick(1, Standing::Free), Some(1));
        assert_eq!(pick(2, Standing::Free), Some(0));
        assert_eq!(pick(5, Standing::Free), Some(0));
        assert_eq!(pick(2, Standing::Out), Some(1));
    }

    #[test]
    fn turns_left_to_others_are_dealt_in_order_by_weight() {
        let weights = [(0, 3), (0, 1), (0, 4), (0, 2), (0, 5)];
        let schedule = schedule(&weights);
        // The bits are the unavailable ones of the five backends.
        for out in 1..31_u32 {
            let is_out = |index: usize| out & (1 << index) != 0;
            let standing = |index: usize| match index {
                0..5 if !is_out(index) => Standing::Free,
                _ => Standing::Out,
            };
            let mut left = [0; 5];
            for turn in 0..300 {
                let home = schedule.picks(turn, BackendSet::default(), free).unwrap();
                let mut expected = home;
                if is_out(home) {
                    let others = (home..5).chain(0..home).filter(|index| !is_out(*index));
                    let units: Vec<_> = others
                        .flat_map(|index| vec![index; usize::from(weights[index].1)])
                        .collect();
                    expected = units[left[home] % units.len()];
                    left[home] += 1;
                }
                let picked = schedule.picks(turn, BackendSet::default(), standing);
                assert_eq!(picked, Some(expected), "{out:b} {turn}");
            }
        }
    }

    #[test]
    fn no_backend_is_tried_twice() {
        for count in [1, 2, 3, 7, MAX_BACKENDS] {
            let schedule = schedule(&vec![(0, 1); count]);
            for turn in [0, 1, 2, 99, 12_345, u64::MAX] {
                let mut tried = BackendSet::default();
                for _ in 0..count {
                    let picked = schedule.picks(turn, tried, free).unwrap();
                    assert!(!tried.contains(picked), "{count} {turn}");
                    tried.add(picked);
                }
                assert_eq!(schedule.picks(turn, tried, free), None);
            }
        }
    }

    #[test]
    fn a_failing_backends_load_is_spread_evenly_over_the_others() {
        const COUNT: usize = 5;
        let schedule = schedule(&[(0, 1); COUNT]);
        let mut second = [0; COUNT];
        for turn in 0..(COUNT * (COUNT - 1) * 10) as u64 {
            let mut tried = BackendSet::default();
            let first = schedule.picks(turn, tried, free).unwrap();
            tried.add(first);
            if first == 2 {
                second[schedule.picks(turn, tried, free).unwrap()] += 1;
            }
        }
        assert_eq!(second, [10, 10, 0, 10, 10]);
    }

    #[test]
    fn capacity_decides_within_a_priority() {
        let schedule = schedule(&[(0, 1), (0, 1), (0, 1), (1, 1)]);
        let all_free = usable(BackendSet::default(), free);
        let shares = |capacities: [Option<u32>; 4]| {
            let mut shares = [0; 4];
            for turn in 0..10_000 {
                let picked = schedule.pick_by_capacity(turn, &all_free, |index| capacities[index]);
                shares[picked.unwrap()] += 1;
            }
            shares.map(|share: u32| (f64::from(share) / 100.0).round() as u32)
        };
        assert_eq!(
            shares([Some(800), Some(100), Some(100), Some(9000)]),
            [80, 10, 10, 0]
        );
        assert_eq!(shares([Some(300), Some(100), None, None]), [50, 17, 33, 0]);
        assert_eq!(shares([None; 4]), [33, 33, 33, 0]);
        assert_eq!(
            shares([Some(u32::MAX), Some(u32::MAX), None, None]),
            [33, 33, 33, 0]
        );
    }

    #[test]
    fn rounds_are_as_short_as_possible() {
        assert_eq!(schedule(&[(0, 100), (0, 50)]).tiers[0].round.len(), 3);
    }

    #[test]
    fn the_largest_configuration_has_a_schedule() {
        let backends: Vec<_> = (0..MAX_BACKENDS as u8).map(|i| (0, 100 - i % 2)).collect();
        let schedule = schedule(&backends);
        assert_eq!(schedule.tiers[0].round.len(), 9950);
        assert!(schedule
            .picks(u64::MAX, BackendSet::default(), free)
            .is_some());
    }

    #[test]
    fn without_backends_none_is_picked() {
        assert_eq!(schedule(&[]).picks(7, BackendSet::default(), free), None);
    }
}
