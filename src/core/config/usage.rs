//! What a configuration says of the tokens that answers report.

use serde_json::Value;

use super::reader::{refused, whole_number, Object, Problems};
use super::{Streams, UsageRules};
use crate::prelude::*;
use crate::prices::{millionths, Cost, Price, Prices};

const FORM: &str =
    r#"true, false or an object such as {"prices": {"gpt-4o": {"prompt": 2.5, "completion": 10}}}"#;
const PRICE_FORM: &str =
    "what a million tokens cost: a number from 0 to 10000000 with at most six digits behind the point";

/// The most that a million tokens may cost.
const MOST: Cost = 10_000_000 * 1_000_000;

/// The most deployments that may have a price.
const MOST_PRICES: usize = 200;

#[inline(never)]
pub(super) fn read_usage(root: &mut Object<'_>, problems: &Problems) -> UsageRules {
    let mut rules = UsageRules {
        is_counted: true,
        streams: Streams::Asked,
        prices: Prices::default(),
    };
    match root.value("usage") {
        None => {}
        Some(Value::Bool(is_counted)) => rules.is_counted = *is_counted,
        Some(value) if value.is_object() => {
            if let Some(mut object) = Object::new(root.path_of("usage"), value, problems) {
                let form = r#""asked" or "always""#;
                let is_known = |text: &str| matches!(text, "asked" | "always");
                let streams = object.optional_string("streams", form, is_known);
                if streams.as_deref() == Some("always") {
                    rules.streams = Streams::Always;
                }
                rules.prices = read_prices(&mut object, problems);
                object.finish();
            }
        }
        Some(value) => root.problem("usage", refused(value, FORM)),
    }
    rules
}

#[inline(never)]
fn read_prices(usage: &mut Object<'_>, problems: &Problems) -> Prices {
    let mut prices = Prices::default();
    let Some(value) = usage.value("prices") else {
        return prices;
    };
    let Some(deployments) = value.as_object() else {
        let form = r#"an object such as {"gpt-4o": {"prompt": 2.5, "completion": 10}}"#;
        usage.problem("prices", refused(value, form));
        return prices;
    };
    if deployments.len() > MOST_PRICES {
        let problem = format!("has more than {MOST_PRICES} deployments; use fewer");
        usage.problem("prices", problem);
    }
    let path = usage.path_of("prices");
    for (name, value) in deployments {
        let path = format!("{path}.{name}");
        let Some(mut object) = Object::new(path.clone(), value, problems) else {
            continue;
        };
        let price = Price {
            prompt: required_price(&mut object).unwrap_or_default(),
            cached: price_of(&mut object, "cached"),
            completion: price_of(&mut object, "completion"),
        };
        object.finish();
        if !prices.add(name, price) {
            problems.add(
                &path,
                "is given twice, in upper and lower case; use it once",
            );
        }
    }
    prices
}

fn required_price(object: &mut Object<'_>) -> Option<Cost> {
    object.required("prompt", PRICE_FORM)?;
    price_of(object, "prompt")
}

#[inline(never)]
fn price_of(object: &mut Object<'_>, key: &'static str) -> Option<Cost> {
    let value = object.value(key)?;
    let price = price(value).filter(|price| *price <= MOST);
    if price.is_none() {
        object.problem(key, refused(value, PRICE_FORM));
    }
    price
}

/// A price in millionths. No decimal fraction is exact in binary, so a number is rounded to them; a text is read as it stands.
fn price(value: &Value) -> Option<Cost> {
    if let Some(text) = value.as_str() {
        return millionths(text);
    }
    if let Some(whole) = whole_number(value) {
        return whole.checked_mul(1_000_000);
    }
    let micros = value.as_f64()? * 1e6;
    let whole = (micros + 0.5) as u64;
    // The numbers that are allowed have fifteen digits at most, and so has a double.
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
    fn usage_is_switched_or_described() {
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
    fn what_is_no_price_is_refused() {
        const PRICE: &str = "what a million tokens cost: a number from 0 to 10000000 with at most six digits behind the point";
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
                "usage.prices.g: is given twice, in upper and lower case; use it once".into(),
            ),
            (
                r#"{"prices": []}"#.into(),
                r#"usage.prices: [] is not allowed; use an object such as {"gpt-4o": {"prompt": 2.5, "completion": 10}}"#.into(),
            ),
            (
                r#"{"price": {}}"#.into(),
                "usage.price: unknown field; use one of streams, prices".into(),
            ),
            ("1".into(), format!("usage: 1 is not allowed; use {}", super::FORM)),
        ] {
            assert_eq!(config(&usage).unwrap_err(), [problem], "{usage}");
        }
    }
}
