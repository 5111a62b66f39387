//! How the tokens that answers report are counted.

use serde_json::Value;

use super::field::Own;
use super::fields::{plugin, price, usage};
use super::reader::{refused, whole_number, Object, Problems};
use crate::prelude::*;
use crate::prices::{millionths, Cost, Price, Prices};

/// A price, for error messages.
pub(super) const PRICE_FORM: &str =
    "the price of a million tokens: a number from 0 to 10000000 with at most six decimal places";

/// The highest price of a million tokens.
const MOST: Cost = 10_000_000 * 1_000_000;

/// The most deployments that may have a price.
const MOST_PRICES: usize = 200;

/// How tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRules {
    /// Whether tokens are counted.
    pub is_counted: bool,
    /// The chat streams whose tokens are counted.
    pub streams: Streams,
    /// The prices of tokens.
    pub prices: Prices,
}

/// The chat streams whose tokens are counted. A stream reports tokens if the request sets
/// `stream_options.include_usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Streams whose client requested the tokens.
    #[default]
    Asked,
    /// All streams. If the client did not request the tokens, the filter does, and removes them from the stream.
    Always,
}

impl UsageRules {
    /// Whether the filter requests the tokens of streams whose clients did not.
    pub fn asks(&self) -> bool {
        self.is_counted && self.streams == Streams::Always
    }

    /// Whether prices depend on the name of the deployment.
    pub fn names_deployments(&self) -> bool {
        self.is_counted && !self.prices.is_empty()
    }
}

/// Reads the rules. Returns `streams` separately if it is given, because its default depends on other fields.
#[inline(never)]
pub(super) fn read_usage(
    root: &mut Object<'_>,
    problems: &Problems,
) -> (UsageRules, Option<Streams>) {
    let mut rules = UsageRules {
        is_counted: true,
        streams: Streams::default(),
        prices: Prices::default(),
    };
    let mut streams = None;
    let field = plugin::USAGE;
    match root.value(field.name) {
        None => {}
        Some(Value::Bool(is_counted)) => rules.is_counted = *is_counted,
        Some(value) if value.is_object() => {
            if let Some(mut object) = Object::new(root.path_of(field.name), value, problems) {
                let is_given = object.has(usage::STREAMS.name);
                let chosen = object.choice(&usage::STREAMS);
                streams = is_given.then_some(chosen);
                rules.prices = read_prices(&mut object, problems);
                object.finish();
            }
        }
        Some(value) => root.problem(field.name, refused(value, field.form)),
    }
    (rules, streams)
}

#[inline(never)]
fn read_prices(object: &mut Object<'_>, problems: &Problems) -> Prices {
    let mut prices = Prices::default();
    let field = usage::PRICES;
    let Some(value) = object.value(field.name) else {
        return prices;
    };
    let Some(deployments) = value.as_object() else {
        object.problem(field.name, refused(value, field.form));
        return prices;
    };
    if deployments.len() > MOST_PRICES {
        let problem = format!("has more than {MOST_PRICES} deployments; use fewer");
        object.problem(field.name, problem);
    }
    let path = object.path_of(field.name);
    for (name, value) in deployments {
        let path = format!("{path}.{name}");
        let Some(mut object) = Object::new(path.clone(), value, problems) else {
            continue;
        };
        let price = Price {
            prompt: required_price(&mut object).unwrap_or_default(),
            cached: price_of(&mut object, &price::CACHED),
            completion: price_of(&mut object, &price::COMPLETION),
        };
        object.finish();
        if !prices.add(name, price) {
            problems.add(
                &path,
                "differs from another deployment only in case; use one of them",
            );
        }
    }
    prices
}

fn required_price(object: &mut Object<'_>) -> Option<Cost> {
    object.required(price::PROMPT.name, PRICE_FORM)?;
    price_of(object, &price::PROMPT)
}

#[inline(never)]
fn price_of(object: &mut Object<'_>, field: &Own) -> Option<Cost> {
    let value = object.value(field.name)?;
    let price = read_price(value).filter(|price| *price <= MOST);
    if price.is_none() {
        object.problem(field.name, refused(value, PRICE_FORM));
    }
    price
}

/// Reads a price in millionths. A number is rounded, because most decimal fractions are inexact in binary. A text is
/// exact.
fn read_price(value: &Value) -> Option<Cost> {
    if let Some(text) = value.as_str() {
        return millionths(text);
    }
    if let Some(whole) = whole_number(value) {
        return whole.checked_mul(1_000_000);
    }
    let micros = value.as_f64()? * 1e6;
    let whole = (micros + 0.5) as u64;
    // The allowed numbers have at most fifteen digits, as many as a double represents exactly.
    ((micros - whole as f64).abs() < 1e-2 && micros > 0.0).then_some(whole)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Plugin};
    use crate::prelude::*;
    use crate::prices::Price;

    fn config(usage: &str) -> Result<Config, Vec<String>> {
        let json = format!(
            r#"{{"backends": [{{"name": "a", "cluster": "a", "host": "a"}}], "identity": {{"cluster": "i"}}, "usage": {usage}}}"#
        );
        match Plugin::from_bytes(json.as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => Ok(*config),
            Ok(Plugin::Upstream) => panic!("{json}"),
            Err(error) => Err(error.to_string().lines().map(str::to_owned).collect()),
        }
    }

    #[test]
    fn usage_is_a_flag_or_an_object() {
        for (usage, is_counted) in [("true", true), ("false", false), ("{}", true)] {
            let rules = config(usage).unwrap().usage;
            assert_eq!(rules.is_counted, is_counted, "{usage}");
            assert!(rules.prices.is_empty());
        }
    }

    #[test]
    fn prices_are_read_exactly() {
        let usage = r#"{"prices": {"GPT-4o": {"prompt": 2.5, "cached": "1.25", "completion": 10.0},
                                   "embed": {"prompt": 0.020001}, "dear": {"prompt": 10000000, "completion": 0}}}"#;
        let rules = config(usage).unwrap().usage;
        let expected = Price {
            prompt: 2_500_000,
            cached: Some(1_250_000),
            completion: Some(10_000_000),
        };
        assert_eq!(rules.prices.of("gpt-4o"), Some(&expected));
        let embed = rules.prices.of("embed").unwrap();
        assert_eq!((embed.prompt, embed.completion), (20_001, None));
        let dear = rules.prices.of("dear").unwrap();
        assert_eq!((dear.prompt, dear.completion), (super::MOST, Some(0)));
    }

    #[test]
    fn invalid_prices_are_refused() {
        const PRICE: &str = "the price of a million tokens: a number from 0 to 10000000 with at most six decimal places";
        let of = |price: &str, shown: &str| {
            (
                format!(r#"{{"prices": {{"g": {{"prompt": {price}}}}}}}"#),
                format!("usage.prices.g.prompt: {shown} is not allowed; use {PRICE}"),
            )
        };
        for (usage, problem) in [
            of("-1", "-1"),
            of("10000001", "10000001"),
            of("0.5000001", "0.5000001"),
            of(r#""1,5""#, r#""1,5""#),
            of("null", "null"),
            (
                r#"{"prices": {"g": {}}}"#.into(),
                format!("usage.prices.g.prompt: is missing; use {PRICE}"),
            ),
            (
                r#"{"prices": {"g": {"prompt": 1}, "G": {"prompt": 1}}}"#.into(),
                "usage.prices.g: differs from another deployment only in case; use one of them".into(),
            ),
            (
                r#"{"prices": []}"#.into(),
                r#"usage.prices: [] is not allowed; use an object such as {"gpt-4o": {"prompt": 2.5, "completion": 10}}"#.into(),
            ),
            (
                r#"{"price": {}}"#.into(),
                "usage.price: unknown field; use one of streams, prices".into(),
            ),
            ("1".into(), format!("usage: 1 is not allowed; use {}", super::plugin::USAGE.form)),
        ] {
            assert_eq!(config(&usage).unwrap_err(), [problem], "{usage}");
        }
    }
}
