//! The limits of clients: tokens and requests.

use serde_json::Value;

use super::field::Integer;
use super::fields::{client_limits, limits, plugin};
use super::forms::{is_name, NAME_FORM};
use super::reader::{refused, whole_number, Object, Problems};
use super::redact::redacted_text;
use crate::prelude::*;

/// The most clients that may have limits of their own.
pub const MAX_LIMITED_CLIENTS: usize = 1000;

/// The largest limit.
pub const MAX_LIMIT: u64 = 1_000_000_000_000;

/// The limits of clients, each counted separately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRules {
    /// The limits of clients without their own.
    pub default: Limits,
    /// The limits of single clients, sorted by name.
    pub clients: Vec<(String, Limits)>,
}

/// The limits of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tokens a minute, prompts and completions together. `None` is no limit.
    pub tokens_per_minute: Option<u64>,
    /// Tokens a day, from midnight to midnight UTC. `None` is no limit.
    pub tokens_per_day: Option<u64>,
    /// Requests a minute. `None` is no limit.
    pub requests_per_minute: Option<u64>,
}

impl Limits {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether tokens are limited.
    pub fn has_tokens(&self) -> bool {
        self.tokens_per_minute.is_some() || self.tokens_per_day.is_some()
    }
}

impl LimitRules {
    /// The limits of the client with this name. Clients without a name share the default limits.
    pub fn of(&self, client: Option<&str>) -> Limits {
        let own = client.and_then(|client| {
            let at = self
                .clients
                .binary_search_by(|(name, _)| name.as_str().cmp(client));
            self.clients.get(at.ok()?)
        });
        own.map_or(self.default, |(_, limits)| *limits)
    }

    /// Whether tokens are limited for any client.
    pub fn have_tokens(&self) -> bool {
        self.all().any(Limits::has_tokens)
    }

    fn all(&self) -> impl Iterator<Item = &Limits> {
        let own = self.clients.iter().map(|(_, limits)| limits);
        own.chain([&self.default])
    }
}

/// Settings of other fields on which limits depend.
pub(super) struct RelatedSettings {
    /// Whether a header names clients.
    pub(super) names_clients: bool,
    /// Whether tokens are counted.
    pub(super) counts_tokens: bool,
}

/// Reads the limits. `None` if nothing is limited.
#[inline(never)]
pub(super) fn read_limits(
    root: &mut Object<'_>,
    related: &RelatedSettings,
    problems: &Problems,
) -> Option<LimitRules> {
    if root.is_null(&plugin::LIMITS) {
        return None;
    }
    let mut object = root.object(&plugin::LIMITS)?;
    let default = object.object(&limits::DEFAULT);
    let default = default.map(|object| read_limits_of_one(object, Limits::default()));
    let default = default.unwrap_or_default();
    let clients = object.value(limits::CLIENTS.name);
    let clients = clients.and_then(|value| read_clients(&object, value, default, problems));
    let rules = LimitRules {
        default,
        clients: clients.unwrap_or_default(),
    };
    if !rules.clients.is_empty() && !related.names_clients {
        let problem = "needs headers.client, the header with the client's name; set that too";
        object.problem(limits::CLIENTS.name, problem);
    }
    object.finish();
    if rules.have_tokens() && !related.counts_tokens {
        let problem =
            "limits of tokens need `usage`, which is false; remove `usage`, or limit requests only";
        root.problem(plugin::LIMITS.name, problem);
    }
    let is_any = rules.all().any(|limits| !limits.is_none());
    is_any.then_some(rules)
}

fn read_clients(
    object: &Object<'_>,
    value: &Value,
    default: Limits,
    problems: &Problems,
) -> Option<Vec<(String, Limits)>> {
    let path = object.path_of(limits::CLIENTS.name);
    let Some(named) = value
        .as_object()
        .filter(|named| named.len() <= MAX_LIMITED_CLIENTS)
    else {
        let form = format!(
            r#"an object such as {{"team-a": {{"tokens_per_minute": 50000}}}}, of at most {MAX_LIMITED_CLIENTS} names"#
        );
        object.problem(limits::CLIENTS.name, refused(value, &form));
        return None;
    };
    let mut clients: Vec<(String, Limits)> = Vec::new();
    for (name, value) in named {
        let path = format!("{path}.{name}");
        if name.is_empty() || !is_name(name) {
            let shown = redacted_text(name);
            problems.add(
                &path,
                format_args!("{shown} is not allowed; use {NAME_FORM}"),
            );
            continue;
        }
        let limits = match value {
            Value::Null => Some(Limits::default()),
            value => {
                Object::new(path, value, problems).map(|object| read_limits_of_one(object, default))
            }
        };
        // Names mostly come sorted, and the standard library's sort would be as large as this file.
        let at = clients.partition_point(|(known, _)| known < name);
        clients.insert(at, (name.clone(), limits?));
    }
    Some(clients)
}

/// Reads the limits of one client. Omitted limits are those of `otherwise`.
fn read_limits_of_one(mut object: Object<'_>, otherwise: Limits) -> Limits {
    let mut limit = |field: &Integer, otherwise: Option<u64>| {
        let Some(value) = object.value(field.name) else {
            return otherwise;
        };
        let number = whole_number(value).filter(|number| field.range.contains(number));
        if number.is_none() && !value.is_null() {
            let form = format!("a whole number from 1 to {MAX_LIMIT}, or null for no limit");
            object.problem(field.name, refused(value, &form));
        }
        number
    };
    let limits = Limits {
        tokens_per_minute: limit(
            &client_limits::TOKENS_PER_MINUTE,
            otherwise.tokens_per_minute,
        ),
        tokens_per_day: limit(&client_limits::TOKENS_PER_DAY, otherwise.tokens_per_day),
        requests_per_minute: limit(
            &client_limits::REQUESTS_PER_MINUTE,
            otherwise.requests_per_minute,
        ),
    };
    object.finish();
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;
    use crate::config::{Config, ConfigError, Plugin};

    fn parse(limits: &Value, others: &Value) -> Result<Option<LimitRules>, ConfigError> {
        let mut config = json!({
            "backends": [{"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"}],
            "identity": {"cluster": "imds"},
            "limits": limits,
        });
        for (key, value) in others.as_object().unwrap() {
            config[key] = value.clone();
        }
        match Plugin::from_bytes(config.to_string().as_bytes(), &|_| None)? {
            Plugin::Balancer(config) => {
                let Config { limits, .. } = *config;
                Ok(limits)
            }
            Plugin::Upstream => panic!("not a balancer"),
        }
    }

    fn named() -> Value {
        json!({"headers": {"client": "x-client"}})
    }

    #[test]
    fn a_clients_own_limits_override_the_default_field_by_field() {
        let limits = json!({
            "default": {"tokens_per_minute": 10_000, "requests_per_minute": 60},
            "clients": {
                "team-b": {"tokens_per_minute": null, "tokens_per_day": 1_000_000},
                "team-a": {"tokens_per_minute": 50_000.0},
                "batch": null,
                "same": {},
            },
        });
        let rules = parse(&limits, &named()).unwrap().unwrap();
        let numbers = |client| {
            let limits = rules.of(client);
            [
                limits.tokens_per_minute,
                limits.tokens_per_day,
                limits.requests_per_minute,
            ]
        };
        for (client, expected) in [
            (Some("team-a"), [Some(50_000), None, Some(60)]),
            (Some("team-b"), [None, Some(1_000_000), Some(60)]),
            (Some("batch"), [None; 3]),
            (Some("same"), [Some(10_000), None, Some(60)]),
            (Some("another"), [Some(10_000), None, Some(60)]),
            (None, [Some(10_000), None, Some(60)]),
        ] {
            assert_eq!(numbers(client), expected, "{client:?}");
        }
    }

    #[test]
    fn limits_without_any_limit_are_none() {
        for limits in [
            json!(null),
            json!({}),
            json!({"default": {}, "clients": {"a": {}, "b": null}}),
            json!({"default": {"tokens_per_day": null}}),
        ] {
            assert_eq!(parse(&limits, &named()).unwrap(), None, "{limits}");
        }
    }

    #[test]
    fn problems_in_limits_name_their_path() {
        let no_number = "use a whole number from 1 to 1000000000000, or null for no limit";
        for (limits, others, problem) in [
            (
                json!([]),
                named(),
                "limits: [] is not allowed; use an object".to_owned(),
            ),
            (
                json!({"default": null}),
                named(),
                "limits.default: null is not allowed; use an object".to_owned(),
            ),
            (
                json!({"default": {"tokens_per_minute": 0}}),
                named(),
                format!("limits.default.tokens_per_minute: 0 is not allowed; {no_number}"),
            ),
            (
                json!({"clients": {"a": {"requests_per_minute": "60"}}}),
                named(),
                format!("limits.clients.a.requests_per_minute: \"60\" is not allowed; {no_number}"),
            ),
            (
                json!({"default": {"tokens_per_hour": 1}}),
                named(),
                "limits.default.tokens_per_hour: unknown field; use one of tokens_per_minute, tokens_per_day, requests_per_minute"
                    .to_owned(),
            ),
            (
                json!({"clients": {"a b": {}}}),
                named(),
                "limits.clients.a b: \"a b\" is not allowed; use 1 to 64 letters, digits, '-' or '_'".to_owned(),
            ),
            (
                json!({"clients": {"a": {"tokens_per_day": 5}}}),
                json!({}),
                "limits.clients: needs headers.client, the header with the client's name; set that too".to_owned(),
            ),
            (
                json!({"clients": {"a": {"tokens_per_day": 5}}}),
                json!({"headers": {"client": "x-client"}, "usage": false}),
                "limits: limits of tokens need `usage`, which is false; remove `usage`, or limit requests only"
                    .to_owned(),
            ),
        ] {
            let problems = parse(&limits, &others).unwrap_err();
            assert_eq!(problems.lines(), [problem], "{limits}");
        }
        let requests = json!({"default": {"requests_per_minute": 60}});
        assert!(parse(&requests, &json!({"usage": false})).is_ok());
    }

    #[test]
    fn more_clients_than_allowed_are_refused() {
        let clients: serde_json::Map<_, _> = (0..=MAX_LIMITED_CLIENTS)
            .map(|n| (format!("client-{n}"), json!({})))
            .collect();
        let problems = parse(&json!({"clients": clients}), &named()).unwrap_err();
        let problem = &problems.lines()[0];
        assert!(problem.starts_with("limits.clients: ") && problem.ends_with("at most 1000 names"));
    }
}
