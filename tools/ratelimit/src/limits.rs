//! The file of limits, in the form of Envoy's reference service: <https://github.com/envoyproxy/ratelimit#configuration>.
//!
//! It accepts the part of that form that the balancer's tool renders: one level of descriptors.

use std::collections::HashMap;

use serde::Deserialize;

use crate::Unit;

/// The limit of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The most hits that are within the limit.
    pub hits: u32,
    /// The length of the window.
    pub unit: Unit,
}

/// The limits of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    domain: String,
    /// By key and value. Without a value, for all other values of the key. `None` is no limit.
    by_entry: HashMap<(String, Option<String>), Option<Limit>>,
}

impl Limits {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first unknown part of the file, with its place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut by_entry = HashMap::new();
        for descriptor in file.descriptors {
            let Descriptor {
                key,
                value,
                rate_limit,
            } = descriptor;
            let shown = match &value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            };
            let limit = rate_limit
                .read()
                .map_err(|error| format!("descriptor {shown}: {error}"))?;
            if by_entry.insert((key, value), limit).is_some() {
                return Err(format!("descriptor {shown}: is there twice; use it once"));
            }
        }
        Ok(Self {
            domain: file.domain,
            by_entry,
        })
    }

    /// The limit for a descriptor with this one entry; `None` if it has none.
    pub fn of(&self, domain: &str, key: &str, value: &str) -> Option<Limit> {
        if domain != self.domain {
            return None;
        }
        let named = (key.to_owned(), Some(value.to_owned()));
        let found = self.by_entry.get(&named);
        let found = found.or_else(|| self.by_entry.get(&(key.to_owned(), None)));
        found.copied().flatten()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: String,
    #[serde(default)]
    descriptors: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    key: String,
    value: Option<String>,
    rate_limit: RateLimit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    unit: Option<Unit>,
    requests_per_unit: Option<u32>,
    #[serde(default)]
    unlimited: bool,
}

impl RateLimit {
    fn read(self) -> Result<Option<Limit>, &'static str> {
        match self {
            Self {
                unit: None,
                requests_per_unit: None,
                unlimited: true,
            } => Ok(None),
            Self {
                unit: Some(unit),
                requests_per_unit: Some(hits),
                unlimited: false,
            } => Ok(Some(Limit { hits, unit })),
            _ => Err("use `unit` and `requests_per_unit`, or `unlimited: true` alone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
domain: azure_openai
descriptors:
- key: tokens
  value: team-a
  rate_limit: {unit: minute, requests_per_unit: 500}
- key: tokens
  value: team-b
  rate_limit: {unlimited: true}
- key: tokens
  rate_limit: {unit: day, requests_per_unit: 4294967295}
";

    #[test]
    fn a_named_value_is_before_the_default() {
        let limits = Limits::parse(FILE).unwrap();
        let of = |domain: &str, key: &str, value: &str| limits.of(domain, key, value);
        let named = Some(Limit {
            hits: 500,
            unit: Unit::Minute,
        });
        let default = Some(Limit {
            hits: u32::MAX,
            unit: Unit::Day,
        });
        assert_eq!(of("azure_openai", "tokens", "team-a"), named);
        assert_eq!(of("azure_openai", "tokens", "team-b"), None);
        assert_eq!(of("azure_openai", "tokens", "team-c"), default);
        assert_eq!(of("azure_openai", "requests", "team-a"), None);
        assert_eq!(of("other", "tokens", "team-a"), None);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, problem) in [
            ("domain: d\ndescriptors: [{key: a, rate_limit: {unit: minute}}]", "descriptor a: use `unit`"),
            ("domain: d\ndescriptors: [{key: a, value: b, rate_limit: {unit: day, requests_per_unit: 1, unlimited: true}}]", "descriptor a=b: use `unit`"),
            (
                "domain: d\ndescriptors: [{key: a, rate_limit: {unlimited: true}}, {key: a, rate_limit: {unlimited: true}}]",
                "descriptor a: is there twice",
            ),
            ("domain: d\ndescriptors: [{key: a, rate_limit: {unit: week, requests_per_unit: 1}}]", "week"),
            ("domain: d\ndescriptors: [{key: a, descriptors: []}]", "descriptors"),
            ("descriptors: []", "domain"),
        ] {
            let error = Limits::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
