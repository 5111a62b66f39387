//! The cost of tokens.
//!
//! Prices are per million tokens, with at most six decimal places. So the price of one token is a whole number of
//! millionths of a millionth, and every sum is exact.

use super::usage::Usage;
use crate::prelude::*;

/// Money, in millionths of a millionth of the currency's unit.
pub type Cost = u64;

/// The [`Cost`] of a millionth of the currency's unit, which is what statistics count.
const MICRO: Cost = 1_000_000;

/// The prices of one deployment's tokens, as the [`Cost`] of one token. This equals the price of a million tokens in
/// millionths of the currency's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// The price of prompt tokens.
    pub prompt: Cost,
    /// The price of prompt tokens from a cache. `None` applies `prompt`.
    pub cached: Option<Cost>,
    /// The price of completion tokens.
    pub completion: Option<Cost>,
}

impl Price {
    /// The cost of these tokens. `None` if the answer has a completion and the completion has no price.
    pub fn of(&self, usage: &Usage) -> Option<Cost> {
        let times = |tokens: u32, price: Cost| u64::from(tokens).saturating_mul(price);
        let prompt = usage.prompt.unwrap_or_default();
        let cached = usage.cached.min(prompt);
        let completion = match (usage.completion.unwrap_or_default(), self.completion) {
            (0, _) => 0,
            (tokens, price) => times(tokens, price?),
        };
        let parts = [
            times(prompt.saturating_sub(cached), self.prompt),
            times(cached, self.cached.unwrap_or(self.prompt)),
            completion,
        ];
        Some(parts.into_iter().fold(0, Cost::saturating_add))
    }
}

/// The prices of deployments, by the names that clients use. Azure ignores the case of these names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Sorted by name, in lower case.
    prices: Vec<(String, Price)>,
}

impl Prices {
    /// Whether no price is set.
    pub fn is_empty(&self) -> bool {
        self.prices.is_empty()
    }

    /// Adds a deployment's price. `false` if it already has one.
    pub fn add(&mut self, deployment: &str, price: Price) -> bool {
        let name = deployment.to_ascii_lowercase();
        let place = self.prices.binary_search_by(|(known, _)| known.cmp(&name));
        if let Err(place) = place {
            self.prices.insert(place, (name, price));
        }
        place.is_err()
    }

    /// The price of a deployment.
    pub fn of(&self, deployment: &str) -> Option<&Price> {
        if self.is_empty() {
            return None;
        }
        let name = deployment.to_ascii_lowercase();
        let place = self.prices.binary_search_by(|(known, _)| known.cmp(&name));
        self.prices.get(place.ok()?).map(|(_, price)| price)
    }
}

/// Takes the whole millionths of the currency's unit from `cost`, and leaves the rest.
pub fn take_micros(cost: &mut Cost) -> u64 {
    let whole = *cost / MICRO;
    *cost %= MICRO;
    whole
}

/// A decimal number in millionths: `2.5` is 2,500,000. `None` if the text is not a number or has more than six decimal
/// places.
pub fn millionths(decimal: &str) -> Option<u64> {
    const DIGITS: usize = 6;
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || fraction.len() > DIGITS {
        return None;
    }
    let fraction = format!("{fraction:0<DIGITS$}");
    let whole: u64 = whole.parse().ok()?;
    whole
        .checked_mul(1_000_000)?
        .checked_add(fraction.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u32, cached: u32, completion: u32) -> Usage {
        Usage {
            prompt: Some(prompt),
            completion: Some(completion),
            cached,
            ..Usage::default()
        }
    }

    #[test]
    fn decimals_are_read_exactly() {
        for (decimal, expected) in [
            ("0", Some(0)),
            ("2.5", Some(2_500_000)),
            ("10", Some(10_000_000)),
            ("0.000001", Some(1)),
            ("007.10", Some(7_100_000)),
            ("0.1234567", None),
            ("", None),
            (".5", None),
            ("5.", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1,5", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(millionths(decimal), expected, "{decimal}");
        }
    }

    #[test]
    fn each_kind_of_tokens_has_its_price() {
        let price = Price {
            prompt: 2_500_000,
            cached: Some(1_250_000),
            completion: Some(10_000_000),
        };
        let cost = 900 * 2_500_000 + 100 * 1_250_000 + 50 * 10_000_000;
        assert_eq!(price.of(&usage(1000, 100, 50)), Some(cost));
        let same = Price {
            cached: None,
            ..price
        };
        let cost = 1000 * 2_500_000 + 50 * 10_000_000;
        assert_eq!(same.of(&usage(1000, 100, 50)), Some(cost));
        // No service reports that, and no cost is negative.
        assert_eq!(price.of(&usage(10, 100, 0)), Some(10 * 1_250_000));
    }

    #[test]
    fn a_completion_without_a_price_has_no_cost() {
        let embedding = Price {
            prompt: 20_000,
            ..Price::default()
        };
        assert_eq!(embedding.of(&usage(3, 0, 0)), Some(60_000));
        assert_eq!(embedding.of(&usage(3, 0, 1)), None);
    }

    #[test]
    fn no_sum_overflows() {
        let dear = Price {
            prompt: u64::MAX,
            cached: None,
            completion: Some(u64::MAX),
        };
        assert_eq!(dear.of(&usage(u32::MAX, 0, u32::MAX)), Some(u64::MAX));
    }

    #[test]
    fn prices_ignore_the_case_of_deployments() {
        let price = |prompt| Price {
            prompt,
            ..Price::default()
        };
        let mut prices = Prices::default();
        assert!(prices.is_empty() && prices.of("gpt").is_none());
        assert!(prices.add("GPT-4o", price(1)) && prices.add("embed", price(2)));
        assert!(!prices.add("gpt-4O", price(3)));
        assert_eq!(prices.of("gpt-4o"), Some(&price(1)));
        assert_eq!(prices.of("Embed"), Some(&price(2)));
        assert_eq!(prices.of("gpt-4"), None);
    }

    #[test]
    fn only_whole_millionths_are_taken() {
        let mut cost = 2_700_000;
        assert_eq!(take_micros(&mut cost), 2);
        assert_eq!(cost, 700_000);
        assert_eq!(take_micros(&mut cost), 0);
    }
}
