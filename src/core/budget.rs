//! The retry budget. It limits retries after failures, so that retries do not multiply the load of an outage.

use core::time::Duration;

use super::codec::Fields;
use super::config::Budget as Rules;
use super::time::Timestamp;

const VERSION: u8 = 1;

/// One retry in units of the balance.
const RETRY: u64 = 1000;
/// The time for which the steady minimum accumulates.
const SAVINGS: Duration = Duration::from_secs(10);
/// The smallest capacity of the budget.
const LEAST_SAVINGS: u64 = 10 * RETRY;

/// The budget of all requests to the same backends, shared by all workers. Each request deposits a share of a retry,
/// time deposits a steady minimum, and a retry withdraws one.
///
/// The budget needs no count of requests, because their turns are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The balance in thousandths of a retry.
    balance: u64,
    /// The turn and the time of the last deposit.
    turn: u64,
    at: Timestamp,
}

impl Budget {
    /// A full budget.
    pub fn new(rules: &Rules, turn: u64, now: Timestamp) -> Self {
        Self {
            balance: most(rules),
            turn,
            at: now,
        }
    }

    /// Withdraws one retry for the request with this `turn`. `false` if none is left.
    pub fn withdraw(&mut self, rules: &Rules, turn: u64, now: Timestamp) -> bool {
        let by_requests = turn
            .saturating_sub(self.turn)
            .saturating_mul(u64::from(rules.percent) * RETRY / 100);
        let millis = now.as_millis().saturating_sub(self.at.as_millis());
        let by_time = millis.saturating_mul(u64::from(rules.min_per_second) * RETRY / 1000);
        let paid_in = by_requests.saturating_add(by_time);
        self.balance = self.balance.saturating_add(paid_in).min(most(rules));
        self.turn = self.turn.max(turn);
        self.at = self.at.max(now);
        match self.balance.checked_sub(RETRY) {
            Some(rest) => {
                self.balance = rest;
                true
            }
            None => false,
        }
    }

    /// The budget as bytes.
    pub fn encode(&self) -> [u8; 25] {
        let mut bytes = [VERSION; 25];
        let fields = [self.balance, self.turn, self.at.as_millis()];
        let encoded = fields.into_iter().flat_map(u64::to_le_bytes);
        for (slot, byte) in bytes.iter_mut().skip(1).zip(encoded) {
            *slot = byte;
        }
        bytes
    }

    /// The budget in `bytes`. `None` if they are missing or unreadable.
    pub fn decode(bytes: Option<&[u8]>) -> Option<Self> {
        let mut fields = Fields::new(bytes?, VERSION)?;
        Some(Self {
            balance: fields.u64()?,
            turn: fields.u64()?,
            at: Timestamp::from_millis(fields.u64()?),
        })
    }
}

fn most(rules: &Rules) -> u64 {
    let per_second = u64::from(rules.min_per_second) * RETRY;
    per_second
        .saturating_mul(SAVINGS.as_secs())
        .max(LEAST_SAVINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        percent: 20,
        min_per_second: 10,
    };
    const START: Timestamp = Timestamp::from_secs(1_700_000_000);

    /// The number of retries for `requests` failing requests, a thousand per second.
    fn retries(rules: Rules, requests: u64) -> u64 {
        let mut budget = Budget::new(&rules, 0, START);
        let tried = (0..requests).filter(|turn| {
            let now = START + Duration::from_millis(*turn);
            budget.withdraw(&rules, *turn, now)
        });
        tried.count() as u64
    }

    #[test]
    fn retries_do_not_multiply_an_outage() {
        // 100 accumulated ones, one for five requests, and ten per second.
        let expected = 100 + 10_000 / 5 + 10 * 10;
        let retries = retries(RULES, 10_000);
        assert!(retries.abs_diff(expected) <= 1, "{retries} {expected}");
    }

    #[test]
    fn either_source_alone_suffices() {
        let none = |percent, min_per_second| Rules {
            percent,
            min_per_second,
        };
        assert_eq!(retries(none(0, 0), 10_000), 10);
        assert_eq!(retries(none(10, 0), 10_000), 10 + 999);
        assert!(retries(none(0, 20), 10_000).abs_diff(200 + 200) <= 1);
        assert_eq!(retries(none(100, 0), 10_000), 10_000);
    }

    #[test]
    fn savings_are_limited() {
        let mut budget = Budget::new(&RULES, 0, START);
        let much_later = START + Duration::from_secs(3600);
        let withdrawn = (0..1000).filter(|_| budget.withdraw(&RULES, 1_000_000, much_later));
        assert_eq!(withdrawn.count(), 100);
    }

    #[test]
    fn late_turns_and_clocks_set_back_deposit_nothing() {
        let mut budget = Budget::new(&RULES, 500, START);
        while budget.withdraw(&RULES, 500, START) {}
        assert!(!budget.withdraw(&RULES, 400, START));
        assert!(!budget.withdraw(&RULES, 500, Timestamp::default()));
        assert!(!budget.withdraw(&RULES, 500, START));
        assert!(budget.withdraw(&RULES, 505, START));
    }

    #[test]
    fn a_budget_survives_encoding() {
        let budget = Budget::new(&RULES, 7, START);
        assert_eq!(Budget::decode(Some(&budget.encode())), Some(budget));
        for bytes in [None, Some(&[][..]), Some(&[VERSION; 24]), Some(&[9; 25])] {
            assert_eq!(Budget::decode(bytes), None);
        }
    }
}
