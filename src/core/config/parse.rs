//! From the plugin configuration's JSON to [`Config`].

use core::time::Duration;

use serde_json::Value;

use super::backends::read_backends;

use super::identity::read_identities;
use super::limits::{read_limits, Around};
use super::problem::{ConfigError, Fault};
use super::reader::{refused, whole_number, Object, Problems};
use super::shown::shown_text;
use super::usage::read_usage;
use super::{audience, protobuf, unique};
use super::{
    AffinityKey, AffinityRules, Backend, BackendCredential, Budget, Config, Cooldown, Engine,
    HeaderNames, Identity, Ids, LeftToEnvoy, OtherPaths, Plugin, Policy, Retry, StateRules,
    MAX_ATTEMPTS,
};
use crate::prelude::*;
use crate::state::ids::{Collision, Tags};

/// Statuses after which another backend may do better: throttled, timed out, or broken on the server's side.
// 529 is what Anthropic answers when it is overloaded.
const RETRIABLE_STATUSES: [u16; 7] = [408, 429, 500, 502, 503, 504, 529];

impl Plugin {
    /// Reads a plugin configuration: JSON, or the bytes of a protobuf Struct.
    ///
    /// `environment` looks up the variables of Envoy's VM configuration, the place for secrets.
    ///
    /// # Errors
    /// Every problem there is, at once: each names the field's path, the value and the expected form.
    pub fn from_bytes(
        bytes: &[u8],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let problems = Problems::default();
        let value = unique::from_slice(bytes).or_else(|error| protobuf::object(bytes).ok_or(error));
        let plugin = match value {
            Ok(value) => read_plugin(&value, environment, &problems),
            Err(error) => {
                let problem = match error.is_data() {
                    true => format!("in the plugin configuration {error}; use it once"),
                    false => format!("the plugin configuration is not JSON: {error}"),
                };
                problems.add("", problem);
                None
            }
        };
        problems.into_result(plugin)
    }
}

fn read_plugin(
    value: &Value,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Option<Plugin> {
    if value.get("role").is_none() {
        let config = read_config(value, environment, problems)?;
        return Some(Plugin::Balancer(Box::new(config)));
    }
    let mut object = Object::new(String::new(), value, problems)?;
    let form = r#""upstream", alone, in a cluster's filters; none in a listener's"#;
    object.optional_string("role", form, |text| text == "upstream");
    object.finish();
    Some(Plugin::Upstream)
}

#[inline(never)]
fn read_config(
    value: &Value,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Option<Config> {
    let mut root = Object::new(String::new(), value, problems)?;
    let list = root.required("backends", "a list of backends");
    let mut identities = read_identities(&mut root, environment, problems);
    let backends = list.map(|list| read_backends(&root, list, &identities, environment, problems));
    let read = backends.as_deref().unwrap_or_default();
    check_identity(&root, read, &identities);
    audience::complete(&mut identities, read, problems);
    check_hosts(read, problems);
    let state = read_state(&mut root, read, problems);
    let other_paths = read_other_paths(&mut root, problems);
    let policy_form = r#""round_robin" or "least_throttled""#;
    let policy = root.optional_string("policy", policy_form, |text| {
        matches!(text, "round_robin" | "least_throttled")
    });
    let affinity = root.value("affinity");
    let affinity =
        affinity.and_then(|value| read_affinity(root.path_of("affinity"), value, problems));
    let empty = Value::Object(serde_json::Map::new());
    let cooldown = root.value("cooldown").unwrap_or(&empty);
    let cooldown = read_cooldown(root.path_of("cooldown"), cooldown, problems);
    let retry = root.value("retry").unwrap_or(&empty);
    let retry = read_retry(root.path_of("retry"), retry, problems);
    let headers = root.value("headers").unwrap_or(&empty);
    let headers = read_headers(root.path_of("headers"), headers, problems);
    let usage = read_usage(&mut root, problems);
    let by = affinity.as_ref().map(|rules| &rules.by);
    let names_client = headers.as_ref().is_none_or(|names| names.client.is_some());
    if by == Some(&AffinityKey::Client) && !names_client {
        let problem =
            "\"client\" needs headers.client, the header with the client's name; give that too";
        problems.add("affinity.by", problem);
    }
    let around = Around {
        names_clients: names_client,
        counts_tokens: usage.is_counted,
    };
    let limits = read_limits(&mut root, &around, problems);
    let left_to_envoy = read_left_to_envoy(&mut root, problems);
    if left_to_envoy.timeout {
        check_timeouts(backends.as_deref().unwrap_or_default(), problems);
    }
    root.finish();
    Some(Config {
        backends: backends?,
        policy: match policy.as_deref() {
            Some("least_throttled") => Policy::LeastThrottled,
            _ => Policy::RoundRobin,
        },
        affinity,
        identities,
        state,
        other_paths,
        cooldown: cooldown?,
        retry: retry?,
        headers: headers?,
        usage,
        limits,
        left_to_envoy,
    })
}

/// Whether every backend has something to show.
#[inline(never)]
fn check_identity(root: &Object<'_>, backends: &[Backend], identities: &[Identity]) {
    if root.has("identity") {
        return;
    }
    // One that could not be read has a problem of its own.
    let lacks = |backend: &Backend| matches!(backend.credential, BackendCredential::Identity(index) if index >= identities.len());
    if backends.iter().any(lacks) || backends.is_empty() && identities.is_empty() {
        let form = r#"an object such as {"cluster": "imds"}, or give every backend an api_key_env"#;
        root.problem("identity", Fault::missing(form));
    }
}

/// Whether the tags of objects tell the backends apart.
#[inline(never)]
fn check_hosts(backends: &[Backend], problems: &Problems) {
    if let Err(collision) = Tags::new(backends.iter().map(Backend::resource)) {
        let Collision { first, second } = collision;
        let path = format!("backends[{second}].host");
        let problem = format!(
            "the ids of its objects cannot be told from those of backends[{first}]; use another of the resource's host names"
        );
        problems.add(&path, problem);
    }
}

/// Whether no backend has a limit of its own, where the route has one for all.
#[inline(never)]
fn check_timeouts(backends: &[Backend], problems: &Problems) {
    for (index, backend) in backends.iter().enumerate() {
        if backend.first_byte_timeout.is_some() {
            let path = format!("backends[{index}].first_byte_timeout");
            let problem = "not allowed where left_to_envoy has \"timeout\": a route has one limit for all backends; \
                           leave \"timeout\" out";
            problems.add(&path, problem);
        }
    }
}

#[inline(never)]
fn read_left_to_envoy(root: &mut Object<'_>, problems: &Problems) -> LeftToEnvoy {
    let mut left = LeftToEnvoy::default();
    let given = root.value("left_to_envoy");
    // Nothing is left by an empty list, as by none.
    let Some(list) = given.filter(|list| list.as_array().is_none_or(|list| !list.is_empty()))
    else {
        return left;
    };
    let form = r#"a list of "timeout" and "host""#;
    for (path, value) in root.list("left_to_envoy", list, form) {
        match value.as_str() {
            Some("timeout") => left.timeout = true,
            Some("host") => left.host = true,
            _ => problems.add(&path, refused(value, r#""timeout" or "host""#)),
        }
    }
    left
}

#[inline(never)]
fn read_other_paths(root: &mut Object<'_>, problems: &Problems) -> OtherPaths {
    const FORM: &str = r#""refuse", "pass" or a list of paths such as ["/providers/"]"#;
    let Some(value) = root.value("other_paths") else {
        return OtherPaths::Refuse;
    };
    match value.as_str() {
        Some("refuse") => return OtherPaths::Refuse,
        Some("pass") => return OtherPaths::Pass,
        _ => {}
    }
    let mut roots = Vec::new();
    for (path, value) in root.list("other_paths", value, FORM) {
        match value.as_str().filter(|text| is_root(text)) {
            Some(text) => roots.push(text.to_owned()),
            None => {
                let form = r#"the beginning of a path, from "/" to "/", such as "/providers/""#;
                problems.add(&path, refused(value, form));
            }
        }
    }
    OtherPaths::Below(roots)
}

/// Whether paths can be below this one.
fn is_root(text: &str) -> bool {
    let inner = text
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'));
    inner.is_some_and(|inner| inner.split('/').all(is_segment))
}

/// Whether this is a part of a path that stands for itself.
fn is_segment(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(is_plain)
}

#[inline(never)]
fn read_state(root: &mut Object<'_>, backends: &[Backend], problems: &Problems) -> StateRules {
    let Some(value) = root.value("state") else {
        return StateRules::default();
    };
    let Some(mut object) = Object::new(root.path_of("state"), value, problems) else {
        return StateRules::default();
    };
    let form = "the name of one of the backends";
    let home = object.optional_string("home", form, |_| true);
    let index = home.as_ref().and_then(|home| {
        let index = backends.iter().position(|backend| backend.name == *home);
        if index.is_none() && !backends.is_empty() {
            let problem = format!("{} is not allowed; use {form}", shown_text(home));
            object.problem("home", problem);
        }
        index
    });
    let ids = object.optional_string("ids", r#""tagged" or "plain""#, |text| {
        matches!(text, "tagged" | "plain")
    });
    object.finish();
    StateRules {
        home: index,
        ids: match ids.as_deref() {
            Some("plain") => Ids::Plain,
            _ => Ids::Tagged,
        },
    }
}

#[inline(never)]
fn read_affinity(path: String, value: &Value, problems: &Problems) -> Option<AffinityRules> {
    const FORM: &str =
        r#""prompt_cache_key", "client" or an object such as {"header": "session_id"}"#;
    if value.is_null() {
        return None;
    }
    let mut object = Object::new(path, value, problems)?;
    let most_percent = object.hundredths(
        "most",
        100..=1000,
        125,
        "a number from 1 to 10, such as 1.25",
    );
    let by = object.required("by", FORM).and_then(|by| {
        if by.is_object() {
            let mut by = Object::new(object.path_of("by"), by, problems)?;
            let form = "the name of a header in lower case";
            let header = by.required_string("header", form, is_header_name);
            by.finish();
            return header.map(AffinityKey::Header);
        }
        match by.as_str() {
            Some("prompt_cache_key") => Some(AffinityKey::PromptCacheKey),
            Some("client") => Some(AffinityKey::Client),
            _ => {
                object.problem("by", refused(by, FORM));
                None
            }
        }
    });
    object.finish();
    Some(AffinityRules {
        by: by?,
        most_percent: u16::try_from(most_percent).unwrap_or(u16::MAX),
    })
}

#[inline(never)]
fn read_cooldown(path: String, value: &Value, problems: &Problems) -> Option<Cooldown> {
    if value.is_null() {
        return Some(Cooldown::NONE);
    }
    let mut object = Object::new(path, value, problems)?;
    let throttled = object.duration("throttled", "100ms"..="1h", "10s");
    let shortest = object.duration("shortest", "0s"..="1h", "250ms");
    let longest = object.duration("longest", "1s"..="24h", "5m");
    let failing = object.duration("failing", "100ms"..="1h", "5s");
    let consecutive_failures = object.integer("consecutive_failures", 1..=1000, 5);
    let failure_percent = object.integer("failure_percent", 1..=100, 50);
    let misconfigured = object.duration("misconfigured", "1s"..="24h", "5m");
    let wait_timeout = object.duration("wait_timeout", "0s"..="60s", "0s");
    if shortest > longest {
        object.problem(
            "shortest",
            "is longer than cooldown.longest, which is 5m if not given; use at most that",
        );
    }
    object.finish();
    Some(Cooldown {
        throttled,
        shortest,
        longest,
        failing,
        consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(u32::MAX),
        failure_percent: u8::try_from(failure_percent).unwrap_or(100),
        misconfigured,
        wait_timeout,
    })
}

impl Cooldown {
    /// What `null` stands for.
    const NONE: Self = Self {
        throttled: Duration::ZERO,
        shortest: Duration::ZERO,
        longest: Duration::ZERO,
        failing: Duration::ZERO,
        consecutive_failures: u32::MAX,
        failure_percent: 100,
        misconfigured: Duration::ZERO,
        wait_timeout: Duration::ZERO,
    };
}

#[inline(never)]
fn read_retry(path: String, value: &Value, problems: &Problems) -> Option<Retry> {
    let mut object = Object::new(path, value, problems)?;
    let engine = object.optional_string("engine", r#""filter" or "router""#, |text| {
        matches!(text, "filter" | "router")
    });
    let max_attempts = object.integer("max_attempts", 1..=MAX_ATTEMPTS as u64, 3);
    let statuses = match object.value("statuses") {
        None => RETRIABLE_STATUSES.to_vec(),
        Some(list) => read_statuses(&object, list, problems),
    };
    let per_try_timeout = object.duration("per_try_timeout", "100ms"..="1h", "300s");
    let stream_start = object.duration("stream_start", "0s"..="1m", "1s");
    let stream_idle_timeout = object.optional_duration("stream_idle_timeout", "1s"..="15m");
    let replay_limit = object.size("replay_limit", "0B"..="64MiB", "4MiB");
    let replay_memory = object.size("replay_memory", "64MiB"..="2GiB", "512MiB");
    let repeat_creations = object.flag("repeat_creations", false);
    let empty = Value::Object(serde_json::Map::new());
    let budget = object.value("budget").unwrap_or(&empty);
    let budget = match budget {
        Value::Null => None,
        value => Some(read_budget(object.path_of("budget"), value, problems)?),
    };
    object.finish();
    Some(Retry {
        engine: match engine.as_deref() {
            Some("router") => Engine::Router,
            _ => Engine::Filter,
        },
        max_attempts: u8::try_from(max_attempts).unwrap_or(u8::MAX),
        statuses,
        per_try_timeout,
        stream_start,
        stream_idle_timeout,
        replay_limit,
        replay_memory,
        repeat_creations,
        budget,
    })
}

#[inline(never)]
fn read_budget(path: String, value: &Value, problems: &Problems) -> Option<Budget> {
    let mut object = Object::new(path, value, problems)?;
    let percent = object.integer("percent", 0..=100, 20);
    let min_per_second = object.integer("min_per_second", 0..=10_000, 10);
    object.finish();
    Some(Budget {
        percent: u8::try_from(percent).unwrap_or(100),
        min_per_second: u16::try_from(min_per_second).unwrap_or(u16::MAX),
    })
}

#[inline(never)]
fn read_statuses(object: &Object<'_>, list: &Value, problems: &Problems) -> Vec<u16> {
    if list.as_array().is_some_and(Vec::is_empty) {
        object.problem(
            "statuses",
            "an empty list is not allowed; use max_attempts 1 to switch retries off",
        );
        return Vec::new();
    }
    object
        .list("statuses", list, "a list of statuses such as [429, 503]")
        .filter_map(|(path, value)| {
            let status = whole_number(value)
                .and_then(|number| u16::try_from(number).ok())
                // 401 has a rule of its own: a new token, or the next backend, as its error code says.
                .filter(|status| (400..600).contains(status) && *status != 401);
            if status.is_none() {
                problems.add(
                    &path,
                    refused(value, "a status from 400 to 599, except 401"),
                );
            }
            status
        })
        .collect()
}

#[inline(never)]
fn read_headers(path: String, value: &Value, problems: &Problems) -> Option<HeaderNames> {
    let mut object = Object::new(path, value, problems)?;
    let form = "the name of a header in lower case";
    let cluster = object
        .optional_string("cluster", form, is_header_name)
        .unwrap_or_else(|| "x-aoai-cluster".to_owned());
    let mut switchable = |key: &'static str, default: Option<&str>| match object.value(key) {
        None => default.map(str::to_owned),
        Some(Value::Null) => None,
        Some(value) => {
            let form = format!("{form}, or null to switch it off");
            object.string(key, value, &form, is_header_name)
        }
    };
    let backend = switchable("backend", Some("x-aoai-backend"));
    let attempts = switchable("attempts", Some("x-aoai-attempts"));
    let why = switchable("why", None);
    let client = switchable("client", None);
    object.finish();
    Some(HeaderNames {
        cluster,
        backend,
        attempts,
        why,
        client,
    })
}

fn is_header_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::forms::VARIABLE_FORM;
    use super::super::{Proof, Source};
    use super::*;

    const HOST_FORM: &str =
        r#"a host name such as "contoso-eastus.openai.azure.com", without scheme or path"#;

    const MINIMAL: &str = r#"{
        "backends": [{"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"}],
        "identity": {"cluster": "imds"}
    }"#;

    fn parse(json: &str) -> Result<Config, ConfigError> {
        parse_with(json, &[])
    }

    fn parse_with(json: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let plugin = Plugin::from_bytes(json.as_bytes(), &|name| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })?;
        match plugin {
            Plugin::Balancer(config) => Ok(*config),
            Plugin::Upstream => panic!("the upstream filter's configuration"),
        }
    }

    #[test]
    fn the_upstream_filters_configuration_is_its_role_alone() {
        let parse = |json: &str| Plugin::from_bytes(json.as_bytes(), &|_| None);
        assert!(matches!(
            parse(r#"{"role": "upstream"}"#),
            Ok(Plugin::Upstream)
        ));
        assert_eq!(
            parse(r#"{"role": "downstream", "backends": []}"#)
                .unwrap_err()
                .lines(),
            [
                r#"role: "downstream" is not allowed; use "upstream", alone, in a cluster's filters; none in a listener's"#,
                "backends: unknown field; use one of role",
            ]
        );
    }

    /// The problems of the minimal configuration with `pointer` replaced by `value`.
    fn problems_with(pointer: &str, value: &str) -> Vec<String> {
        let mut config: Value = serde_json::from_str(MINIMAL).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let value: Value = serde_json::from_str(value).unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.insert(key.to_owned(), value)),
            Value::Array(list) => list.push(value),
            other => panic!("{other} has no fields"),
        }
        parse(&config.to_string()).unwrap_err().lines()
    }

    #[test]
    fn the_minimal_configuration_has_sensible_defaults() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.backends[0].host, "east.openai.azure.com");
        assert!(matches!(
            config.identities[0].source,
            Source::Imds { selector: None }
        ));
        assert_eq!(
            config.identities[0].resource,
            "https://cognitiveservices.azure.com"
        );
        assert_eq!(config.identities[0].wait_timeout, Duration::from_secs(5));
        assert_eq!(config.retry.engine, Engine::Filter);
        assert_eq!(config.retry.max_attempts, 3);
        assert_eq!(config.retry.statuses, RETRIABLE_STATUSES);
        assert_eq!(config.retry.per_try_timeout, Duration::from_secs(300));
        assert_eq!(config.retry.stream_start, Duration::from_secs(1));
        assert_eq!(config.retry.replay_limit, 4 * 1024 * 1024);
        assert_eq!(config.retry.replay_memory, 512 * 1024 * 1024);
        assert_eq!(
            config.retry.budget,
            Some(Budget {
                percent: 20,
                min_per_second: 10
            })
        );
        assert_eq!(config.policy, Policy::RoundRobin);
        let backend = &config.backends[0];
        assert_eq!((backend.priority, backend.weight), (0, 1));
        assert_eq!(
            backend.attempt_timeout(&config.retry),
            Duration::from_secs(300)
        );
        let cooldown = &config.cooldown;
        let seconds = |duration: Duration| duration.as_secs();
        assert_eq!(seconds(cooldown.throttled), 10);
        assert_eq!(cooldown.shortest, Duration::from_millis(250));
        assert_eq!(seconds(cooldown.longest), 300);
        assert_eq!(
            (seconds(cooldown.failing), seconds(cooldown.misconfigured)),
            (5, 300)
        );
        assert_eq!(
            (cooldown.consecutive_failures, cooldown.failure_percent),
            (5, 50)
        );
        assert_eq!(seconds(cooldown.wait_timeout), 0);
        assert_eq!(config.headers.cluster, "x-aoai-cluster");
        assert_eq!(config.headers.backend.as_deref(), Some("x-aoai-backend"));
        assert_eq!(config.headers.attempts.as_deref(), Some("x-aoai-attempts"));
        assert_eq!(config.headers.why, None);
        assert_eq!(config.headers.client, None);
    }

    #[test]
    fn a_key_from_the_environment_may_stand_for_the_identity() {
        let keyed = MINIMAL.replace(r#""host""#, r#""api_key_env": "EAST_KEY", "host""#);
        let config = parse_with(&keyed, &[("EAST_KEY", "s3cret")]).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        let key = config.backends[0].credential.key().unwrap();
        assert_eq!(key.reveal(), "s3cret");
        let alone = keyed.replace(",\n        \"identity\": {\"cluster\": \"imds\"}", "");
        assert_ne!(alone, keyed);
        assert!(parse_with(&alone, &[("EAST_KEY", "s3cret")])
            .unwrap()
            .identities
            .is_empty());
        for value in [None, Some(""), Some("two words")] {
            let environment: Vec<_> = value.iter().map(|value| ("EAST_KEY", *value)).collect();
            assert_eq!(
                parse_with(&keyed, &environment).unwrap_err().lines(),
                [
                    r#"backends[0].api_key_env: the variable "EAST_KEY" is not set or not printable; set it in vm_config.environment_variables"#
                ]
            );
        }
        let without = alone.replace(r#""api_key_env": "EAST_KEY", "#, "");
        assert_eq!(
            parse(&without).unwrap_err().lines(),
            [
                r#"identity: is missing; use an object such as {"cluster": "imds"}, or give every backend an api_key_env"#
            ]
        );
    }

    #[test]
    fn cooldowns_and_the_budget_can_be_switched_off() {
        let json = MINIMAL.replace(
            r#""identity""#,
            r#""cooldown": null, "retry": {"budget": null}, "identity""#,
        );
        let config = parse(&json).unwrap();
        assert_eq!(config.cooldown.longest, Duration::ZERO);
        assert_eq!(config.cooldown.misconfigured, Duration::ZERO);
        assert_eq!(config.retry.budget, None);
    }

    #[test]
    fn what_is_left_to_envoy_is_named() {
        let left = |list: &str| {
            let list = format!(r#""left_to_envoy": {list}, "backends""#);
            parse(&MINIMAL.replacen(r#""backends""#, &list, 1))
        };
        assert_eq!(left("[]").unwrap().left_to_envoy, LeftToEnvoy::default());
        let all = left(r#"["host", "timeout"]"#).unwrap();
        let expected = LeftToEnvoy {
            timeout: true,
            host: true,
        };
        assert_eq!(all.left_to_envoy, expected);
        assert_eq!(
            left(r#"["hosts", 1]"#).unwrap_err().to_string(),
            "left_to_envoy[0]: \"hosts\" is not allowed; use \"timeout\" or \"host\"\n\
             left_to_envoy[1]: 1 is not allowed; use \"timeout\" or \"host\""
        );
        let problem = left("true").unwrap_err().to_string();
        assert!(
            problem.starts_with("left_to_envoy: true is not allowed; use a list of"),
            "{problem}"
        );
    }

    #[test]
    fn a_route_has_no_time_limits_for_single_backends() {
        let json = MINIMAL.replace(r#""host""#, r#""first_byte_timeout": "2s", "host""#);
        let json = json.replacen(
            r#""backends""#,
            r#""left_to_envoy": ["timeout"], "backends""#,
            1,
        );
        let problem = parse(&json).unwrap_err().to_string();
        assert!(
            problem
                .starts_with("backends[0].first_byte_timeout: not allowed where left_to_envoy has"),
            "{problem}"
        );
    }

    #[test]
    fn the_first_byte_timeout_cannot_outlast_the_attempt() {
        let json = MINIMAL.replace(r#""host""#, r#""first_byte_timeout": "2s", "host""#);
        let config = parse(&json).unwrap();
        let mut retry = config.retry;
        assert_eq!(
            config.backends[0].attempt_timeout(&retry),
            Duration::from_secs(2)
        );
        retry.per_try_timeout = Duration::from_secs(1);
        assert_eq!(
            config.backends[0].attempt_timeout(&retry),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn in_a_protobuf_struct_integers_may_be_doubles() {
        let config = parse(
            r#"{"backends": [{"name": "e", "cluster": "c", "host": "h"}], "identity": {"cluster": "imds"},
                "retry": {"max_attempts": 2.0, "statuses": [429.0]}, "headers": {"backend": null}}"#,
        )
        .unwrap();
        assert_eq!(config.retry.max_attempts, 2);
        assert_eq!(config.retry.statuses, [429]);
        assert_eq!(config.headers.backend, None);
        assert!(config.headers.attempts.is_some());
    }

    #[test]
    fn a_key_for_a_variables_name_is_refused_and_not_shown() {
        let keys = [
            "3f9c0b1d5e7a4286b1c2d3e4f5a60718".to_owned(),
            "af9c0b1d5e7a4286b1c2d3e4f5a60718".to_owned(),
            "Ab3".repeat(28),
            "pa55-w0rd".to_owned(),
        ];
        for (pointer, path) in [
            ("/backends/0/api_key_env", "backends[0].api_key_env"),
            ("/identity/endpoint_env", "identity.endpoint_env"),
            ("/identity/header_env", "identity.header_env"),
        ] {
            for key in &keys {
                for value in [
                    json!(key),
                    json!([key]),
                    json!({"value": key}),
                    json!({key: 1}),
                ] {
                    let mut config: Value = serde_json::from_str(APP_SERVICE).unwrap();
                    let (parent, field) = pointer.rsplit_once('/').unwrap();
                    config.pointer_mut(parent).unwrap()[field] = value;
                    let set = &[("IDENTITY_ENDPOINT", "http://h"), ("IDENTITY_HEADER", "s")];
                    let refused = parse_with(&config.to_string(), set);
                    let expected = format!(
                        "{path}: *** (not shown, it may be a secret) is not allowed; use {VARIABLE_FORM}"
                    );
                    assert_eq!(refused.unwrap_err().lines(), [expected]);
                }
            }
        }
    }

    #[test]
    fn no_message_shows_a_key_wherever_it_was_put() {
        const KEY: &str = "3f9c0b1d5e7a4286b1c2d3e4f5a60718";
        let mut refused = 0;
        let all = [
            "/name",
            "/backends",
            "/backends/-",
            "/backends/0/name",
            "/backends/0/host",
            "/backends/0/api_key",
            "/backends/0/identity",
            "/backends/0/base_path",
            "/backends/0/deployments",
            "/identity",
            "/identity/resource",
            "/identities",
            "/state",
            "/policy",
            "/cooldown",
            "/retry",
            "/headers",
        ];
        for pointer in all {
            for value in [
                json!(KEY),
                json!([KEY]),
                json!({KEY: KEY}),
                json!({"a b": [KEY]}),
            ] {
                let mut config: Value = serde_json::from_str(MINIMAL).unwrap();
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                match config.pointer_mut(parent).unwrap() {
                    Value::Array(list) => list.push(value),
                    object => object[field] = value,
                }
                // Some fields take any text.
                if let Err(error) = parse(&config.to_string()) {
                    refused += 1;
                    assert!(!error.to_string().contains(KEY), "{pointer}: {error}");
                }
            }
        }
        assert!(refused > 50, "{refused}");
        let error = parse(&json!(KEY).to_string()).unwrap_err().to_string();
        assert_eq!(error, r#""***" is not allowed; use an object"#);
    }

    #[test]
    fn a_field_that_stands_twice_is_refused() {
        let twice = MINIMAL.replace(r#""host""#, r#""weight": 1, "weight": 2, "host""#);
        let error = parse(&twice).unwrap_err().to_string();
        let expected = r#"in the plugin configuration "weight" stands twice at line 2 column "#;
        assert!(error.starts_with(expected), "{error}");
        assert!(error.ends_with("; use it once"), "{error}");
    }

    #[test]
    fn paths_below_a_root_are_passed() {
        let mut config: Value = serde_json::from_str(MINIMAL).unwrap();
        config["other_paths"] = json!(["/mai/v1/", "/providers/"]);
        let paths = parse(&config.to_string()).unwrap().other_paths;
        for (path, passed) in [
            ("/mai/v1/images", true),
            ("/MAI/V1/images?x=../y", true),
            ("/providers/", true),
            ("/providers", false),
            ("/mai/v2/images", false),
            ("/providers/../admin", false),
            ("/providers/%2e%2e/admin", false),
            ("/providers/..\\admin", false),
            ("/", false),
        ] {
            assert_eq!(paths.pass(path), passed, "{path}");
        }
    }

    #[test]
    fn affinity_is_read() {
        let affinity = |json: &str| {
            let mut config: Value = serde_json::from_str(MINIMAL).unwrap();
            config["affinity"] = serde_json::from_str(json).unwrap();
            config["headers"] = json!({"client": "x-client"});
            let rules = parse(&config.to_string()).unwrap().affinity;
            rules.map(|rules| (rules.by, rules.most_percent))
        };
        let header = || AffinityKey::Header("session_id".to_owned());
        for (json, expected) in [
            ("null", None),
            (
                r#"{"by": "prompt_cache_key"}"#,
                Some((AffinityKey::PromptCacheKey, 125)),
            ),
            (
                r#"{"by": "client", "most": 2}"#,
                Some((AffinityKey::Client, 200)),
            ),
            (
                r#"{"by": {"header": "session_id"}, "most": 1.1}"#,
                Some((header(), 110)),
            ),
        ] {
            assert_eq!(affinity(json), expected, "{json}");
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let error = parse(
            r#"{"backends": [{"name": "a b", "cluster": 5}], "identity": {"source": "arc"}, "retries": {}}"#,
        )
        .unwrap_err();
        let expected = r#"
identity.source: "arc" is not allowed; use "imds", "app_service", "workload_identity" or "client_secret"
identity.cluster: is missing; use the name of an Envoy cluster
backends[0].name: "a b" is not allowed; use 1 to 64 letters, digits, '-' or '_'
backends[0].cluster: 5 is not allowed; use the name of an Envoy cluster
backends[0].host: is missing; use a host name such as "contoso-eastus.openai.azure.com", without scheme or path
retries: unknown field; use one of backends, identity, identities, state, other_paths, policy, affinity, cooldown, retry, headers, usage, limits, left_to_envoy"#;
        assert_eq!(error.to_string(), expected.trim_start());
    }

    #[test]
    fn each_field_names_its_path_its_value_and_the_expected_form() {
        let duration = r#"a duration with a unit such as "250ms", "10s", "5m" or "1h""#;
        for (pointer, value, problem) in [
            ("/backends", "[]", "backends: [] is not allowed; use a list with at least one backend".to_owned()),
            ("/backends", "{}", "backends: {} is not allowed; use a list with at least one backend".to_owned()),
            ("/backends/-", "3", "backends[1]: 3 is not allowed; use an object".to_owned()),
            (
                "/backends/-",
                r#"{"name": "east", "cluster": "b", "host": "h"}"#,
                r#"backends[1].name: "east" stands twice; use a different name for each backend"#.to_owned(),
            ),
            (
                "/backends/-",
                r#"{"name": "west", "cluster": "aoai_east", "host": "h"}"#,
                r#"backends[1].cluster: "aoai_east" stands twice; use a different cluster for each backend"#.to_owned(),
            ),
            (
                "/backends/0/host",
                r#""https://east/""#,
                format!(r#"backends[0].host: "https://east/" is not allowed; use {HOST_FORM}"#),
            ),
            ("/backends/0/wieght", "1", "backends[0].wieght: unknown field; use one of name, cluster, host, priority, weight, \
                 first_byte_timeout, stream_idle_timeout, unlisted_deployments, deployments, api_version, base_path, apis, identity, api_key_env".to_owned()),
            ("/identity/wait_timeout", "5", format!("identity.wait_timeout: 5 is not allowed; use {duration}")),
            ("/identity/wait_timeout", r#""2m""#, r#"identity.wait_timeout: "2m" is not allowed; use 0s to 60s"#.to_owned()),
            (
                "/identity/mi_res_id",
                r#""x""#,
                "identity.mi_res_id: unknown field; use one of source, cluster, resource, wait_timeout, fetch_timeout, \
                 client_id, object_id, msi_res_id"
                    .to_owned(),
            ),
            ("/retry", r#"{"engine": "envoy"}"#, r#"retry.engine: "envoy" is not allowed; use "filter" or "router""#.to_owned()),
            ("/retry", r#"{"max_attempts": 0}"#, "retry.max_attempts: 0 is not allowed; use a whole number from 1 to 5".to_owned()),
            ("/retry", r#"{"max_attempts": 2.5}"#, "retry.max_attempts: 2.5 is not allowed; use a whole number from 1 to 5".to_owned()),
            ("/retry", r#"{"max_attempts": "three"}"#, r#"retry.max_attempts: "three" is not allowed; use a whole number from 1 to 5"#.to_owned()),
            ("/retry", r#"{"statuses": [200]}"#, "retry.statuses[0]: 200 is not allowed; use a status from 400 to 599, except 401".to_owned()),
            ("/retry", r#"{"statuses": []}"#, "retry.statuses: an empty list is not allowed; use max_attempts 1 to switch retries off".to_owned()),
            ("/retry", r#"{"replay_limit": "1GiB"}"#, r#"retry.replay_limit: "1GiB" is not allowed; use 0B to 64MiB"#.to_owned()),
            ("/retry", r#"{"per_try_timeout": "0s"}"#, r#"retry.per_try_timeout: "0s" is not allowed; use 100ms to 1h"#.to_owned()),
            ("/retry", r#"{"stream_idle_timeout": "0s"}"#, r#"retry.stream_idle_timeout: "0s" is not allowed; use 1s to 15m"#.to_owned()),
            ("/retry", r#"{"stream_start": "2m"}"#, r#"retry.stream_start: "2m" is not allowed; use 0s to 1m"#.to_owned()),
            ("/retry", r#"{"budget": {"percent": 101}}"#, "retry.budget.percent: 101 is not allowed; use a whole number from 0 to 100".to_owned()),
            ("/retry", r#"{"budget": 20}"#, "retry.budget: 20 is not allowed; use an object".to_owned()),
            ("/affinity", "{}", r#"affinity.by: is missing; use "prompt_cache_key", "client" or an object such as {"header": "session_id"}"#.to_owned()),
            ("/affinity", r#"{"by": "model"}"#, r#"affinity.by: "model" is not allowed; use "prompt_cache_key", "client" or an object such as {"header": "session_id"}"#.to_owned()),
            ("/affinity", r#"{"by": {"header": "X-Session"}}"#, r#"affinity.by.header: "X-Session" is not allowed; use the name of a header in lower case"#.to_owned()),
            ("/affinity", r#"{"by": "prompt_cache_key", "most": 0.5}"#, "affinity.most: 0.5 is not allowed; use a number from 1 to 10, such as 1.25".to_owned()),
            ("/affinity", r#"{"by": "prompt_cache_key", "most": 1.255}"#, "affinity.most: 1.255 is not allowed; use a number from 1 to 10, such as 1.25".to_owned()),
            ("/affinity", r#"{"by": "client"}"#, r#"affinity.by: "client" needs headers.client, the header with the client's name; give that too"#.to_owned()),
            ("/policy", r#""random""#, r#"policy: "random" is not allowed; use "round_robin" or "least_throttled""#.to_owned()),
            ("/backends/0/weight", "0", "backends[0].weight: 0 is not allowed; use a whole number from 1 to 100".to_owned()),
            ("/backends/0/priority", "-1", "backends[0].priority: -1 is not allowed; use a whole number from 0 to 255".to_owned()),
            (
                "/backends/0/first_byte_timeout",
                r#""2h""#,
                r#"backends[0].first_byte_timeout: "2h" is not allowed; use 100ms to 1h"#.to_owned(),
            ),
            (
                "/backends/0/deployments",
                r#"{"gpt-4o": "a/b"}"#,
                r#"backends[0].deployments.gpt-4o: "a/b" is not allowed; use names of 1 to 128 letters, digits, '-', '_' or '.' on both sides"#.to_owned(),
            ),
            (
                "/backends/0/deployments",
                r#"{"gpt-5": "a", "o3": "b", "GPT-5": "c"}"#,
                r#"backends[0].deployments.gpt-5: "gpt-5" differs from "GPT-5" only by upper and lower case, which Azure does not tell apart; use one of them"#.to_owned(),
            ),
            ("/backends/0/deployments", "[]", r#"backends[0].deployments: [] is not allowed; use an object such as {"gpt-4o": "gpt-4o-eu"}"#.to_owned()),
            ("/backends/0/unlisted_deployments", "true", r#"backends[0].unlisted_deployments: true is not allowed; use "pass" or "refuse""#.to_owned()),
            ("/backends/0/api_version", r#""a&b""#, r#"backends[0].api_version: "a&b" is not allowed; use a version of the API such as "2024-10-21""#.to_owned()),
            (
                "/backends/0/base_path",
                r#""/x/""#,
                r#"backends[0].base_path: "/x/" is not allowed; use a path such as "/api/projects/contoso", without a slash at its end"#.to_owned(),
            ),
            ("/cooldown", r#"{"longest": "0s"}"#, r#"cooldown.longest: "0s" is not allowed; use 1s to 24h"#.to_owned()),
            ("/cooldown", r#"{"shortest": "10m"}"#, "cooldown.shortest: is longer than cooldown.longest, which is 5m if not given; use at most that".to_owned()),
            ("/cooldown", "false", "cooldown: false is not allowed; use an object".to_owned()),
            ("/headers", r#"{"cluster": "X-Cluster"}"#, r#"headers.cluster: "X-Cluster" is not allowed; use the name of a header in lower case"#.to_owned()),
            ("/headers", r#"{"backend": false}"#, "headers.backend: false is not allowed; use the name of a header in lower case, or null to switch it off".to_owned()),
        ] {
            assert_eq!(problems_with(pointer, value), [problem], "{pointer} = {value}");
        }
    }

    #[test]
    fn no_json_is_said_to_be_none() {
        let error = parse("{").unwrap_err().to_string();
        assert!(
            error.starts_with("the plugin configuration is not JSON: "),
            "{error}"
        );
        assert_eq!(
            parse("[]").unwrap_err().to_string(),
            "[] is not allowed; use an object"
        );
    }

    #[test]
    fn too_many_backends_are_refused_with_their_number() {
        let list: Vec<Value> = (0..101)
            .map(|i| serde_json::json!({"name": format!("b{i}"), "cluster": format!("c{i}"), "host": "h"}))
            .collect();
        assert_eq!(
            problems_with("/backends", &Value::Array(list).to_string()),
            ["backends: 101 backends are not allowed; use 1 to 100"]
        );
    }

    #[test]
    fn two_selectors_contradict_each_other() {
        let json = MINIMAL.replace(
            r#"{"cluster": "imds"}"#,
            r#"{"cluster": "imds", "client_id": "a", "object_id": "b"}"#,
        );
        assert_eq!(
            parse(&json).unwrap_err().to_string(),
            "identity.object_id: not allowed beside client_id; use one of them"
        );
    }

    const APP_SERVICE: &str = r#"{
        "backends": [{"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"}],
        "identity": {"source": "app_service", "cluster": "msi", "object_id": "me"}
    }"#;

    #[test]
    fn app_service_takes_endpoint_and_secret_from_the_environment() {
        let config = parse_with(
            APP_SERVICE,
            &[
                ("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token"),
                ("IDENTITY_HEADER", "s3cret"),
            ],
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        let Source::AppService {
            authority,
            path,
            secret,
            selector,
        } = config.identities[0].source.clone()
        else {
            panic!("not the App Service form");
        };
        assert_eq!(
            (authority.as_str(), path.as_str()),
            ("localhost:42356", "/msi/token")
        );
        assert_eq!(secret.reveal(), "s3cret");
        assert_eq!(selector.unwrap().parameter, "principal_id");
    }

    #[test]
    fn app_service_without_its_environment_says_where_to_set_it() {
        assert_eq!(
            parse_with(APP_SERVICE, &[("IDENTITY_ENDPOINT", "localhost")])
                .unwrap_err()
                .lines(),
            [
                r#"identity.header_env: the variable "IDENTITY_HEADER" is not set or not printable; set it in vm_config.environment_variables"#,
                r#"identity.endpoint_env: the variable holds no URL; use one such as "http://localhost:42356/msi/token""#,
            ]
        );
    }

    #[test]
    fn workload_identity_takes_what_the_webhook_sets() {
        let json = MINIMAL.replace(
            r#""cluster": "imds""#,
            r#""source": "workload_identity", "cluster": "entra_id", "token_file_cluster": "token_file""#,
        );
        let set = [
            ("AZURE_TENANT_ID", "tenant-1"),
            ("AZURE_CLIENT_ID", "client-1"),
            ("AZURE_AUTHORITY_HOST", "https://login.example.com/"),
        ];
        let source = |json: &str, set: &[(&str, &str)]| {
            let config = parse_with(json, set).unwrap();
            match config.identities[0].source.clone() {
                Source::Entra {
                    authority,
                    tenant,
                    client_id,
                    proof: Proof::TokenFile { cluster },
                } => [authority, tenant, client_id, cluster],
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            source(&json, &set),
            ["login.example.com", "tenant-1", "client-1", "token_file"]
        );
        assert_eq!(source(&json, &set[..2])[0], "login.microsoftonline.com");
        let government = json.replace("east.openai.azure.com", "east.openai.azure.us");
        assert_eq!(
            source(&government, &set[..2])[0],
            "login.microsoftonline.us"
        );
        let own = json.replace(
            r#""source""#,
            r#""tenant_id": "t", "client_id": "c", "authority_host": "a:8443", "source""#,
        );
        assert_eq!(source(&own, &set), ["a:8443", "t", "c", "token_file"]);
    }

    #[test]
    fn a_client_secret_comes_from_a_variable() {
        let json = MINIMAL.replace(
            r#""cluster": "imds""#,
            r#""source": "client_secret", "cluster": "entra_id", "tenant_id": "t", "client_id": "c""#,
        );
        let config = parse_with(&json, &[("AZURE_CLIENT_SECRET", "s3cret")]).unwrap();
        let source = &config.identities[0].source;
        assert!(!format!("{source:?}").contains("s3cret"));
        assert!(matches!(
            source,
            Source::Entra { proof: Proof::Secret(secret), .. } if secret.reveal() == "s3cret"
        ));
    }

    #[test]
    fn what_entra_id_has_to_know_is_asked_for() {
        let json = MINIMAL.replace(
            r#""cluster": "imds""#,
            r#""source": "workload_identity", "cluster": "entra_id", "client_id": "c", "client_secret_env": "S""#,
        );
        let set = [
            ("AZURE_TENANT_ID", "a/b"),
            ("AZURE_AUTHORITY_HOST", "https://a/b"),
        ];
        assert_eq!(
            parse_with(&json, &set).unwrap_err().lines(),
            [
                r#"identity.tenant_id: is missing, and the variable "AZURE_TENANT_ID" is not set or not of the right form; use the id of the tenant, or set the variable in vm_config.environment_variables"#,
                r#"identity.authority_host: the variable AZURE_AUTHORITY_HOST holds no host; use a host such as "https://login.microsoftonline.com""#,
                "identity.token_file_cluster: is missing; use the name of an Envoy cluster that answers with the token file",
                "identity.client_secret_env: unknown field; use one of source, cluster, resource, wait_timeout, fetch_timeout, tenant_id, client_id, authority_host, token_file_cluster",
            ]
        );
        let set = [("AZURE_TENANT_ID", "t")];
        let secret = json.replace("workload_identity", "client_secret");
        assert_eq!(
            parse_with(&secret, &set).unwrap_err().lines(),
            [
                r#"identity.client_secret_env: the variable "S" is not set or not printable; set it in vm_config.environment_variables"#
            ]
        );
    }

    #[test]
    fn backends_name_their_identities() {
        let json = r#"{
            "backends": [
                {"name": "a", "cluster": "a", "host": "a"},
                {"name": "b", "cluster": "b", "host": "b", "identity": "lab"},
                {"name": "c", "cluster": "c", "host": "c", "identity": "nobody"},
                {"name": "d", "cluster": "d", "host": "d", "identity": "lab", "api_key_env": "KEY"}
            ],
            "identity": {"cluster": "imds"},
            "identities": {"lab": {"cluster": "imds", "client_id": "l"}, "a b": {"cluster": "x"}, "other": 5}
        }"#;
        assert_eq!(
            parse_with(json, &[("KEY", "k")]).unwrap_err().lines(),
            [
                r#"identities.a b: "a b" is not allowed; use 1 to 64 letters, digits, '-' or '_'"#,
                "identities.other: 5 is not allowed; use an object",
                r#"backends[2].identity: "nobody" is not allowed; use the name of one of `identities`"#,
                "backends[3].identity: not allowed beside api_key_env; use one of them",
            ]
        );
        let only_named = r#"{
            "backends": [{"name": "a", "cluster": "a", "host": "a", "identity": "lab"}],
            "identities": {"lab": {"cluster": "imds"}}
        }"#;
        let config = parse(only_named).unwrap();
        assert_eq!(
            config.backends[0].credential,
            BackendCredential::Identity(0)
        );
        let unnamed = only_named.replace(r#", "identity": "lab""#, "");
        assert!(parse(&unnamed).unwrap_err().lines()[0].starts_with("identity: is missing"));
    }

    #[test]
    fn what_the_surface_is_served_with() {
        for (pointer, value, problem) in [
            (
                "/backends/0/apis",
                "[]",
                "backends[0].apis: [] is not allowed; use a list of chat, ",
            ),
            (
                "/backends/0/apis",
                r#"["chat", "chats"]"#,
                r#"backends[0].apis[1]: "chats" is not allowed; use one of chat, "#,
            ),
            (
                "/state",
                r#"{"home": "west"}"#,
                r#"state.home: "west" is not allowed; use the name of one of the backends"#,
            ),
            (
                "/state",
                r#"{"ids": "odd"}"#,
                r#"state.ids: "odd" is not allowed; use "tagged" or "plain""#,
            ),
            (
                "/other_paths",
                "true",
                r#"other_paths: true is not allowed; use "refuse", "pass" or a list of paths such as ["/providers/"]"#,
            ),
            (
                "/other_paths",
                r#"["/mai/v1/", "/"]"#,
                r#"other_paths[1]: "/" is not allowed; use the beginning of a path, from "/" to "/", such as "/providers/""#,
            ),
            (
                "/other_paths",
                r#"["/a/../"]"#,
                r#"other_paths[0]: "/a/../" is not allowed; use the beginning of a path"#,
            ),
            (
                "/retry",
                r#"{"repeat_creations": 1}"#,
                "retry.repeat_creations: 1 is not allowed; use true or false",
            ),
        ] {
            let problems = problems_with(pointer, value);
            assert!(
                problems.len() == 1 && problems[0].starts_with(problem),
                "{problems:?}"
            );
        }
        let json = MINIMAL.replace("\"identity\"", r#""state": {"home": "east"}, "identity""#);
        assert_eq!(parse(&json).unwrap().state.home, Some(0));
    }
}
