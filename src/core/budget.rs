//! The retry budget: how many failures may be tried again, so that an outage is not multiplied by retries.

use core::time::Duration;

use super::codec::Fields;
use super::config::Budget as Rules;
use super::time::Timestamp;

const VERSION: u8 = 1;

/// One retry, in the unit of the balance.
const RETRY: u64 = 1000;
/// What the steady minimum saves up.
const SAVINGS: Duration = Duration::from_secs(10);
/// There is always room for a few.
const LEAST_SAVINGS: u64 = 10 * RETRY;

/// The budget of all requests to the same backends, shared by all workers. Requests pay in a share of a retry each, time pays
/// in a steady minimum, a retry takes one out.
///
/// The requests are not counted here: their turns are numbers that tell how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In thousandths of a retry.
    balance: u64,
    /// The turn and the time up to which was paid in.
    turn: u64,
    at: Timestamp,
}

impl Budget {
    /// The budget before the first retry: full.
    pub fn new(rules: &Rules, turn: u64, now: Timestamp) -> Self {
        Self {
            balance: most(rules),
            turn,
            at: now,
        }
    }

    /// Takes one retry out for the request with this `turn`; `false` if nothing is left.
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

    /// The budget in `bytes`, if there is one and it is understood.
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

    /// How many of `requests`, all failing, a second long each thousand, are tried again.
    fn retries(rules: Rules, requests: u64) -> u64 {
        let mut budget = Budget::new(&rules, 0, START);
        let tried = (0..requests).filter(|turn| {
            let now = START + Duration::from_millis(*turn);
            budget.withdraw(&rules, *turn, now)
        });
        tried.count() as u64
    }

    #[test]
    fn a_storm_is_not_multiplied() {
        // 100 saved up, one of five requests, ten a second.
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
    fn what_is_saved_up_has_an_end() {
        let mut budget = Budget::new(&RULES, 0, START);
        let much_later = START + Duration::from_secs(3600);
        let withdrawn = (0..1000).filter(|_| budget.withdraw(&RULES, 1_000_000, much_later));
        assert_eq!(withdrawn.count(), 100);
    }

    #[test]
    fn late_comers_and_clocks_that_go_back_pay_nothing_in() {
        let mut budget = Budget::new(&RULES, 500, START);
        while budget.withdraw(&RULES, 500, START) {}
        assert!(!budget.withdraw(&RULES, 400, START));
        assert!(!budget.withdraw(&RULES, 500, Timestamp::default()));
        assert!(!budget.withdraw(&RULES, 500, START));
        assert!(budget.withdraw(&RULES, 505, START));
    }

    #[test]
    fn it_survives_encoding() {
        let budget = Budget::new(&RULES, 7, START);
        assert_eq!(Budget::decode(Some(&budget.encode())), Some(budget));
        for bytes in [None, Some(&[][..]), Some(&[VERSION; 24]), Some(&[9; 25])] {
            assert_eq!(Budget::decode(bytes), None);
        }
    }
}
