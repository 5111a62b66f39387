//! The plan of a request: which backends are tried, in which order.

use super::config::{MAX_ATTEMPTS, MAX_BACKENDS};

// A plan holds indices as bytes.
const _: () = assert!(MAX_BACKENDS <= u8::MAX as usize);

/// The ordered backends of one request, each at most once; the walk through them is an
/// [`Exchange`](super::exchange::Exchange).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    order: [u8; MAX_ATTEMPTS],
    len: u8,
}

impl Plan {
    /// Round robin: the plan of the request that drew number `turn`, over `backends` backends (at least one), of at most
    /// `max_attempts` (at least one).
    ///
    /// The first backend is exact round robin. What follows is the others, starting at another one each time round, so that
    /// the load of a failing backend falls on all the others and not only on its neighbour.
    pub fn round_robin(turn: u64, backends: usize, max_attempts: u8) -> Self {
        let count = backends.clamp(1, MAX_BACKENDS) as u64;
        let len = u64::from(max_attempts.max(1))
            .min(count)
            .min(MAX_ATTEMPTS as u64);
        let first = turn % count;
        let others = (count - 1).max(1);
        let shift = (turn / count) % others;
        let mut order = [0; MAX_ATTEMPTS];
        for (slot, step) in order.iter_mut().zip(0..len) {
            let offset = match step {
                0 => 0,
                step => 1 + (step - 1 + shift) % others,
            };
            // Below `count`, which fits: see the assertion above.
            *slot = ((first + offset) % count) as u8;
        }
        Self {
            order,
            len: len as u8,
        }
    }

    /// The backend at `position`, if the plan is that long.
    pub fn get(&self, position: u8) -> Option<usize> {
        let slot = self.order.get(usize::from(position))?;
        (position < self.len).then_some(usize::from(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(plan: &Plan) -> Vec<usize> {
        (0..u8::MAX).map_while(|i| plan.get(i)).collect()
    }

    #[test]
    fn the_first_backends_are_exact_round_robin() {
        for count in 1..=7 {
            for turn in 0..50 {
                let plan = Plan::round_robin(turn, count, 3);
                assert_eq!(plan.get(0), Some(turn as usize % count));
            }
        }
    }

    #[test]
    fn no_backend_is_tried_twice_and_the_length_is_bounded() {
        for count in 1..=MAX_BACKENDS {
            for attempts in 1..=MAX_ATTEMPTS as u8 {
                for turn in [0, 1, 2, 3, 99, 12_345, u64::MAX] {
                    let mut order = order(&Plan::round_robin(turn, count, attempts));
                    assert_eq!(order.len(), count.min(usize::from(attempts)));
                    order.sort_unstable();
                    order.dedup();
                    assert_eq!(
                        order.len(),
                        count.min(usize::from(attempts)),
                        "{count} {turn}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_load_of_a_failing_backend_is_spread_evenly_over_the_others() {
        const COUNT: usize = 5;
        let mut second = [0; COUNT];
        for turn in 0..(COUNT * (COUNT - 1) * 10) as u64 {
            let plan = Plan::round_robin(turn, COUNT, 2);
            if plan.get(0) == Some(2) {
                second[plan.get(1).unwrap()] += 1;
            }
        }
        assert_eq!(second, [10, 10, 0, 10, 10]);
    }

    #[test]
    fn degenerate_arguments_still_give_a_plan() {
        assert_eq!(order(&Plan::round_robin(7, 0, 0)), [0]);
        assert_eq!(order(&Plan::round_robin(7, 1, 3)), [0]);
    }
}
