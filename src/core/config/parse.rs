//! Reads the JSON of the plugin configuration into [`Config`].

use serde_json::Value;

use super::affinity::read_affinity;
use super::backend::read_backends;
use super::cooldown::read_cooldown;
use super::field::{text, Text};
use super::fields::plugin;
use super::headers::read_headers;
use super::identity::read_identities;
use super::left_to_envoy::{check_timeouts, read_left_to_envoy};
use super::limits::{read_limits, LimitRules, RelatedSettings};
use super::objects::read_state;
use super::other_paths::read_other_paths;
use super::problem::{ConfigError, Fault};
use super::reader::{Object, Problems};
use super::retry::read_retry;
use super::usage::read_usage;
use super::{audience, protobuf, unique};
use super::{AffinityKey, Backend, BackendCredential, Config, Identity, Plugin, Streams};
use crate::prelude::*;
use crate::state::ids::{Collision, Tags};

/// The only field of the upstream filter's configuration.
const ROLE: Text = text(
    "role",
    r#""upstream", alone, in a cluster's filters; none in a listener's"#,
    |text| text == "upstream",
);

impl Plugin {
    /// Reads a plugin configuration: JSON, or the bytes of a protobuf Struct.
    ///
    /// `environment` looks up the variables of Envoy's VM configuration, the place for secrets.
    ///
    /// # Errors
    /// Every problem, each with the field's path, the value and the expected form.
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
    if value.get(ROLE.name).is_none() {
        let config = read_config(value, environment, problems)?;
        return Some(Plugin::Balancer(Box::new(config)));
    }
    let mut object = Object::new(String::new(), value, problems)?;
    object.text(&ROLE);
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
    let list = root.required(plugin::BACKENDS.name, plugin::BACKENDS.form);
    let mut identities = read_identities(&mut root, environment, problems);
    let backends = list.map(|list| read_backends(&root, list, &identities, environment, problems));
    let read = backends.as_deref().unwrap_or_default();
    check_identity(&root, read, &identities);
    audience::complete(&mut identities, read, problems);
    check_hosts(read, problems);
    let state = read_state(&mut root, read);
    let other_paths = read_other_paths(&mut root, problems);
    let policy = root.choice(&plugin::POLICY);
    let affinity = read_affinity(&mut root, problems);
    let cooldown = read_cooldown(&mut root);
    let retry = read_retry(&mut root, problems);
    let headers = read_headers(&mut root);
    let (mut usage, streams) = read_usage(&mut root, problems);
    let by = affinity.as_ref().map(|rules| &rules.by);
    let names_client = headers.as_ref().is_none_or(|names| names.client.is_some());
    if by == Some(&AffinityKey::Client) && !names_client {
        let problem =
            "\"client\" needs headers.client, the header with the client's name; set that too";
        problems.add("affinity.by", problem);
    }
    let related = RelatedSettings {
        names_clients: names_client,
        counts_tokens: usage.is_counted,
    };
    let limits = read_limits(&mut root, &related, problems);
    // Bills and limits are wrong if some of a client's streams are not counted.
    let needs_all =
        !usage.prices.is_empty() || limits.as_ref().is_some_and(LimitRules::have_tokens);
    usage.streams = streams.unwrap_or(match needs_all {
        true => Streams::Always,
        false => Streams::Asked,
    });
    let left_to_envoy = read_left_to_envoy(&mut root, problems);
    if left_to_envoy.timeout {
        check_timeouts(backends.as_deref().unwrap_or_default(), problems);
    }
    root.finish();
    Some(Config {
        backends: backends?,
        policy,
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

/// Adds a problem if a backend has neither a key nor an identity.
#[inline(never)]
fn check_identity(root: &Object<'_>, backends: &[Backend], identities: &[Identity]) {
    if root.has(plugin::IDENTITY.name) {
        return;
    }
    // An unreadable credential already has a problem.
    let lacks = |backend: &Backend| matches!(backend.credential, BackendCredential::Identity(index) if index >= identities.len());
    if backends.iter().any(lacks) || backends.is_empty() && identities.is_empty() {
        let form = r#"an object such as {"cluster": "imds"}, or set api_key_env for every backend"#;
        root.problem(plugin::IDENTITY.name, Fault::missing(form));
    }
}

/// Adds a problem if two resources have the same tag in ids of objects.
#[inline(never)]
fn check_hosts(backends: &[Backend], problems: &Problems) {
    if let Err(collision) = Tags::new(backends.iter().map(Backend::resource)) {
        let Collision { first, second } = collision;
        let path = format!("backends[{second}].host");
        let problem = format!(
            "its resource gets the same tag in ids of objects as backends[{first}]; use another host name of the resource"
        );
        problems.add(&path, problem);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use serde_json::json;

    use super::super::forms::VARIABLE_FORM;
    use super::super::retry::RETRIABLE_STATUSES;
    use super::super::{Budget, Engine, LeftToEnvoy, Policy, Proof, Source};
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
    fn a_key_from_the_environment_replaces_the_identity() {
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
                r#"identity: is missing; use an object such as {"cluster": "imds"}, or set api_key_env for every backend"#
            ]
        );
    }

    #[test]
    fn null_disables_cooldowns_and_the_budget() {
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
    fn left_to_envoy_is_a_list_of_settings() {
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
    fn a_route_has_one_time_limit_for_all_backends() {
        let json = MINIMAL.replace(r#""host""#, r#""first_byte_timeout": "2s", "host""#);
        let json = json.replacen(
            r#""backends""#,
            r#""left_to_envoy": ["timeout"], "backends""#,
            1,
        );
        let problem = parse(&json).unwrap_err().to_string();
        assert!(
            problem.starts_with("backends[0].first_byte_timeout: not allowed together with"),
            "{problem}"
        );
    }

    #[test]
    fn the_first_byte_timeout_is_at_most_the_attempts_timeout() {
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
    fn whole_doubles_count_as_integers() {
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
    fn a_key_in_place_of_a_variables_name_is_refused_and_redacted() {
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
    fn no_message_contains_a_key_from_any_field() {
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
    fn duplicate_fields_are_refused() {
        let twice = MINIMAL.replace(r#""host""#, r#""weight": 1, "weight": 2, "host""#);
        let error = parse(&twice).unwrap_err().to_string();
        let expected = r#"in the plugin configuration "weight" is given twice at line 2 column "#;
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
    fn all_problems_are_reported_at_once() {
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
    fn problems_name_the_path_the_value_and_the_expected_form() {
        let duration = r#"a duration with a unit such as "250ms", "10s", "5m" or "1h""#;
        for (pointer, value, problem) in [
            ("/backends", "[]", "backends: [] is not allowed; use a list with at least one backend".to_owned()),
            ("/backends", "{}", "backends: {} is not allowed; use a list with at least one backend".to_owned()),
            ("/backends/-", "3", "backends[1]: 3 is not allowed; use an object".to_owned()),
            (
                "/backends/-",
                r#"{"name": "east", "cluster": "b", "host": "h"}"#,
                r#"backends[1].name: "east" is used twice; use a different name for each backend"#.to_owned(),
            ),
            (
                "/backends/-",
                r#"{"name": "west", "cluster": "aoai_east", "host": "h"}"#,
                r#"backends[1].cluster: "aoai_east" is used twice; use a different cluster for each backend"#.to_owned(),
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
            ("/retry", r#"{"statuses": []}"#, "retry.statuses: an empty list is not allowed; use max_attempts 1 to disable retries".to_owned()),
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
            ("/affinity", r#"{"by": "client"}"#, r#"affinity.by: "client" needs headers.client, the header with the client's name; set that too"#.to_owned()),
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
                r#"backends[0].deployments.gpt-5: "gpt-5" differs from "GPT-5" only in case, and Azure ignores case; use one of them"#.to_owned(),
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
            ("/cooldown", r#"{"shortest": "10m"}"#, "cooldown.shortest: is longer than cooldown.longest (5m by default); use at most that".to_owned()),
            ("/cooldown", "false", "cooldown: false is not allowed; use an object".to_owned()),
            ("/headers", r#"{"cluster": "X-Cluster"}"#, r#"headers.cluster: "X-Cluster" is not allowed; use the name of a header in lower case"#.to_owned()),
            ("/headers", r#"{"backend": false}"#, "headers.backend: false is not allowed; use the name of a header in lower case, or null to disable it".to_owned()),
        ] {
            assert_eq!(problems_with(pointer, value), [problem], "{pointer} = {value}");
        }
    }

    #[test]
    fn text_that_is_not_json_is_reported() {
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
    fn too_many_backends_are_refused() {
        let list: Vec<Value> = (0..101)
            .map(|i| serde_json::json!({"name": format!("b{i}"), "cluster": format!("c{i}"), "host": "h"}))
            .collect();
        assert_eq!(
            problems_with("/backends", &Value::Array(list).to_string()),
            ["backends: 101 backends are not allowed; use 1 to 100"]
        );
    }

    #[test]
    fn two_selectors_of_an_identity_are_refused() {
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
    fn app_service_reports_missing_variables_and_their_place() {
        assert_eq!(
            parse_with(APP_SERVICE, &[("IDENTITY_ENDPOINT", "localhost")])
                .unwrap_err()
                .lines(),
            [
                r#"identity.header_env: the variable "IDENTITY_HEADER" is not set or not printable; set it in vm_config.environment_variables"#,
                r#"identity.endpoint_env: the variable's value is not a URL; use one such as "http://localhost:42356/msi/token""#,
            ]
        );
    }

    #[test]
    fn workload_identity_reads_the_webhooks_variables() {
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
    fn missing_settings_of_entra_id_are_reported() {
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
                r#"identity.tenant_id: is missing, and the variable "AZURE_TENANT_ID" is not set or has the wrong form; use the id of the tenant, or set the variable in vm_config.environment_variables"#,
                r#"identity.authority_host: the variable AZURE_AUTHORITY_HOST is not a host; use a host such as "https://login.microsoftonline.com""#,
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
    fn settings_of_apis_paths_and_state_are_read() {
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
