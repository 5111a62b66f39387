//! Typical mistakes in a list of backends: each message has the place, the value and the expected form.

use cli::Form;

/// A list, and its messages.
const MISTAKES: &[(&str, &[&str])] = &[
    ("backends: contoso.openai.azure.com\n", &["1:11: backends: \"contoso.openai.azure.com\" is not allowed; use a list with at least one backend such as [{host: contoso-eastus.openai.azure.com}]"]),
    ("backends:\n", &["1:9: backends: null is not allowed; use a list with at least one backend such as [{host: contoso-eastus.openai.azure.com}]"]),
    ("backends: {host: a}\n", &["1:11: backends: {\"host\":\"a\"} is not allowed; use a list with at least one backend such as [{host: contoso-eastus.openai.azure.com}]"]),
    ("backends:\n- contoso.openai.azure.com\n", &["2:3: backends[0]: \"contoso.openai.azure.com\" is not allowed; use an object such as {host: contoso-eastus.openai.azure.com}"]),
    ("backends:\n-\n", &["2:2: backends[0]: null is not allowed; use an object such as {host: contoso-eastus.openai.azure.com}"]),
    ("- host: contoso.openai.azure.com\n", &["1:1: [{\"host\":\"contoso.openai.azure.com\"}] is not allowed; use a list such as `backends: [{host: contoso-eastus.openai.azure.com}]`"]),
    ("contoso.openai.azure.com\n", &["1:1: \"contoso.openai.azure.com\" is not allowed; use a list such as `backends: [{host: contoso-eastus.openai.azure.com}]`"]),
    ("host: contoso.openai.azure.com\n", &["1:1: backends: is missing; use a list of backends such as [{host: contoso-eastus.openai.azure.com}]", "1:1: host: unknown field, it belongs to an entry of `backends`. Use one of ..."]),
    ("backend:\n- host: a\n", &["1:1: backends: is missing; use a list of backends such as [{host: contoso-eastus.openai.azure.com}]", "1:1: backend: unknown field, did you mean backends? Use one of ..."]),
    ("", &["1:1: the file is empty; use a list such as `backends: [{host: contoso-eastus.openai.azure.com}]`"]),
    ("backends:\n- host:\n", &["2:7: backends[0].host: null is not allowed; use a host name such as \"contoso-eastus.openai.azure.com\", without scheme or path"]),
    ("backends:\n- name: east\n", &["2:3: backends[0].host: is missing; use a host name such as \"contoso-eastus.openai.azure.com\", without scheme or path"]),
    ("backends:\n- host: https://a.openai.azure.com\n", &["2:9: backends[0].host: \"https://a.openai.azure.com\" is not allowed; use a host name such as \"contoso-eastus.openai.azure.com\", without scheme or path"]),
    ("backends:\n- host: a.openai.azure.com/openai\n", &["2:9: backends[0].host: \"a.openai.azure.com/openai\" is not allowed; use a host name such as \"contoso-eastus.openai.azure.com\", without scheme or path"]),
    ("backends:\n- host: [a, b]\n", &["2:9: backends[0].host: [\"a\",\"b\"] is not allowed; use a host name such as \"contoso-eastus.openai.azure.com\", without scheme or path"]),
    ("backends:\n\t- host: a\n", &["2:2: this is not YAML: tabs disallowed within this context (block indentation); use spaces to indent"]),
    ("backends:\n- host: a\n weight: 2\n", &["3:2: this is not YAML: while parsing a block mapping, did not find expected key; check the indentation"]),
    ("backends:\n- host: a\n   weight: 2\n", &["3:10: this is not YAML: mapping values are not allowed in this context; check the indentation, and put a text with \": \" in quotes"]),
    ("backends:\n- host: a\n  host: b\n", &["3:3: \"host\" is given twice; use it once"]),
    ("backends:\n- {host: a, weight: 2\n", &["3:1: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'; close the bracket, and put a text with brackets in quotes"]),
    ("backends:\n- host: \"a\n", &["2:9: this is not YAML: while scanning a quoted scalar, found unexpected end of stream; close the quotes"]),
    ("backends:\n- host: {{ host }}\n", &["2:10: backends[0].host: a name that begins with a bracket is not allowed; put a text that begins with one in quotes"]),
    ("backends:\n- host: *.openai.azure.com\n", &["2:9: this is not YAML: while parsing node, found unknown anchor; put a text that begins with \"*\" in quotes"]),
    ("backends:\n- host: @east\n", &["2:9: this is not YAML: unexpected character: `@'; put the text in quotes"]),
    ("backends:\n- {host: a, weight: \"2\"}\n", &["2:21: backends[0].weight: \"2\" is not allowed; use a whole number from 1 to 100"]),
    ("backends:\n- {host: a, Weight: 2}\n", &["2:13: backends[0].Weight: unknown field, did you mean weight? Use one of ..."]),
    ("backends:\n- {host: a, priority: first}\n", &["2:23: backends[0].priority: \"first\" is not allowed; use a whole number from 0 to 255"]),
    ("backends:\n- {host: a, name: east us}\n", &["2:19: backends[0].name: \"east us\" is not allowed; use 1 to 64 letters, digits, '-' or '_'"]),
    ("backends:\n- {host: a}\n- {host: a}\n", &["3:3: backends[1].name: \"a\" is used twice; use a different name for each backend"]),
    ("backends:\n- {host: a, deployments: [gpt-4o]}\n", &["2:26: backends[0].deployments: [\"gpt-4o\"] is not allowed; use an object such as {\"gpt-4o\": \"gpt-4o-eu\"}"]),
    ("backends:\n- {host: a, deployments: {gpt-4o: }}\n", &["2:33: backends[0].deployments.gpt-4o: null is not allowed; use names of 1 to 128 letters, digits, '-', '_' or '.' on both sides"]),
    ("backends:\n- {host: a, deployments: {4: four}}\n", &["2:27: backends[0].deployments: 4 is not allowed as a name; put it in quotes: \"4\""]),
    ("backends:\n- {host: a, deployments: {gpt 4: four}}\n", &["2:34: backends[0].deployments.gpt 4: \"four\" is not allowed; use names of 1 to 128 letters, digits, '-', '_' or '.' on both sides"]),
    ("backends:\n- {host: a, apis: chat}\n", &["2:19: backends[0].apis: \"chat\" is not allowed; use a list of chat, responses, embeddings, images, audio, videos, files, batches, realtime, assistants, fine_tuning, messages"]),
    ("backends:\n- {host: a, api_version: 20241021}\n", &["2:26: backends[0].api_version: 20241021 is not allowed; use a version of the API such as \"2024-10-21\""]),
    ("backends:\n- {host: a, base_path: api}\n", &["2:24: backends[0].base_path: \"api\" is not allowed; use a path such as \"/api/projects/contoso\", without a slash at its end"]),
    ("backends:\n- {host: a, endpoint: 10.0.0.4}\n", &["2:23: backends[0].endpoint: \"10.0.0.4\" is not allowed; use a URL such as \"https://10.0.0.4\" or \"http://127.0.0.1:8080\""]),
    ("backends:\n- {host: a, endpoint: \"https://10.0.0.4/openai\"}\n", &["2:23: backends[0].endpoint: \"https://10.0.0.4/openai\" is not allowed; use a URL without a path; `base_path` is the beginning of paths"]),
    ("backends:\n- {host: a, api_key: 0123456789abcdef0123456789abcdef}\n", &["2:13: backends[0].api_key: unknown field, did you mean api_key_env? Use one of ..."]),
    ("backends:\n- {host: a, api_key_env: $EAST_KEY}\n", &["2:26: backends[0].api_key_env: *** (not shown, it may be a secret) is not allowed; use the name of an environment variable: letters, digits and '_', such as EAST_API_KEY"]),
    ("backends:\n- {host: a, first_byte_timeout: 10}\n", &["2:33: backends[0].first_byte_timeout: 10 is not allowed; use a duration with a unit such as \"250ms\", \"10s\", \"5m\" or \"1h\""]),
    ("backends:\n- {host: a, unlisted_deployments: deny}\n", &["2:35: backends[0].unlisted_deployments: \"deny\" is not allowed; use \"pass\" or \"refuse\""]),
    ("backends: [{host: a, identity: one}]\n", &["1:32: backends[0].identity: \"one\" is not allowed; use the name of one of `identities`"]),
    ("backends: [{host: a}]\nidentity: managed\n", &["2:11: identity: \"managed\" is not allowed; use an object such as {source: workload_identity}, or leave it out for IMDS"]),
    ("backends: [{host: a}]\nidentity: {client_id: 123}\n", &["2:23: identity.client_id: 123 is not allowed; use the id of an identity"]),
    ("backends: [{host: a}]\nidentity: {clientId: x}\n", &["2:12: identity.clientId: unknown field, did you mean client_id? Use one of ..."]),
    ("backends: [{host: a}]\nidentity: {source: managed_identity}\n", &["2:20: identity.source: \"managed_identity\" is not allowed; use \"imds\", \"app_service\", \"workload_identity\" or \"client_secret\""]),
    ("backends: [{host: a}]\nidentity: {tenant_id: x}\n", &["2:12: identity.tenant_id: unknown field, it needs the source \"workload_identity\" or \"client_secret\". Use one of ..."]),
    ("backends: [{host: a}]\nidentity: {source: client_secret, client_secret: abc}\n", &["2:35: identity.client_secret: unknown field, did you mean client_secret_env? Use one of ..."]),
    ("backends: [{host: a}]\nidentities: {one: two}\n", &["2:19: identities.one: \"two\" is not allowed; use an object such as {client_id: 11111111-2222-3333-4444-555555555555}"]),
    ("backends: [{host: a}]\nlimits: {default: {tokens_per_day: 5}, service: http://a}\n", &["2:49: limits.service: \"http://a\" is not allowed; use an object of endpoint, on_failure"]),
    ("backends: [{host: a}]\nlimits: {default: {tokens_per_day: 5}, service: {}}\n", &["2:49: limits.service.endpoint: is missing; use a URL such as \"http://ratelimit:8081\""]),
    ("backends: [{host: a}]\nlimits: {default: {tokens_per_day: 5}, service: {endpoint: \"http://a/b\"}}\n", &["2:60: limits.service.endpoint: has a path, which gRPC does not use; use a URL without one"]),
    ("backends: [{host: a}]\nlimits: {default: {tokens_per_day: 5}, service: {endpoint: \"http://a\", on_failure: deny}}\n", &["2:84: limits.service.on_failure: \"deny\" is not allowed; use \"pass\" or \"refuse\""]),
    ("backends: [{host: a}]\nlimits: {default: {tokens_per_day: 4294967296}, service: {endpoint: \"http://a\"}}\n", &["2:36: limits.default.tokens_per_day: 4294967296 is not allowed with a rate limit service; use 1 to 4294967295, or null for no limit"]),
    ("backends: [{host: a}]\nretry: 3\n", &["2:8: retry: 3 is not allowed; use an object such as {max_attempts: 2}"]),
    ("backends: [{host: a}]\nretry: {attempts: 3}\n", &["2:9: retry.attempts: unknown field, did you mean max_attempts? Use one of ..."]),
    ("backends: [{host: a}]\nretry: {statuses: 429}\n", &["2:19: retry.statuses: 429 is not allowed; use a list of statuses such as [429, 503]"]),
    ("backends: [{host: a}]\nretry: {statuses: [401]}\n", &["2:20: retry.statuses[0]: 401 is not allowed; use a status from 400 to 599, except 401"]),
    ("backends: [{host: a}]\nretry: {replay_limit: 4MB}\n", &["2:23: retry.replay_limit: \"4MB\" is not allowed; use a size with a unit such as \"512KiB\" or \"4MiB\""]),
    ("backends: [{host: a}]\nretry: {budget: 20}\n", &["2:17: retry.budget: 20 is not allowed; use an object such as {percent: 20}, or null for retries without limit"]),
    ("backends: [{host: a}]\nretry: {repeat_creations: yes}\n", &["2:27: retry.repeat_creations: \"yes\" is not allowed; use true or false"]),
    ("backends: [{host: a}]\ncooldown: off\n", &["2:11: cooldown: \"off\" is not allowed; use an object such as {wait_timeout: 2s}, or null to switch cooldowns off"]),
    ("backends: [{host: a}]\ncooldown: {throttled: 10}\n", &["2:23: cooldown.throttled: 10 is not allowed; use a duration with a unit such as \"250ms\", \"10s\", \"5m\" or \"1h\""]),
    ("backends: [{host: a}]\nheaders: {client: X-Client}\n", &["2:19: headers.client: \"X-Client\" is not allowed; use the name of a header in lower case, or null to disable it"]),
    ("backends: [{host: a}]\npolicy: least-throttled\n", &["2:9: policy: \"least-throttled\" is not allowed; use \"round_robin\" or \"least_throttled\""]),
    ("backends: [{host: a}]\nstate: plain\n", &["2:8: state: \"plain\" is not allowed; use an object such as {ids: plain}"]),
    ("backends: [{host: a}]\nengine: Router\n", &["2:9: engine: \"Router\" is not allowed; use \"filter\" or \"router\""]),
    ("backends: [{host: a}]\nlistener: 8080\n", &["2:11: listener: 8080 is not allowed; use an object of address, port, tls"]),
    ("backends: [{host: a}]\nport: 8080\n", &["2:1: port: unknown field, it belongs to `listener`. Use one of ..."]),
    ("backends: [{host: a}]\nlistener: {port: 70000}\n", &["2:18: listener.port: 70000 is not allowed; use a port from 1 to 65535"]),
    ("backends: [{host: a}]\nlistener: {address: localhost}\n", &["2:21: listener.address: \"localhost\" is not allowed; use an IP address such as \"0.0.0.0\" or \"127.0.0.1\""]),
    ("backends: [{host: a}]\nlistener: {tls: {cert: a, key: b}}\n", &["2:18: listener.tls.cert: unknown field, did you mean certificate? Use one of ..."]),
    ("backends: [{host: a}]\nlistener: {tls: {certificate: a}}\n", &["2:17: listener.tls.key: is missing; use the path of a file in PEM form"]),
    ("backends: [{host: a}]\nclients: my-app\n", &["2:10: clients: \"my-app\" is not allowed; use an object of keys_file, entra_id"]),
    ("backends: [{host: a}]\nclients: {entra_id: {tenant: t}}\n", &["2:21: clients.entra_id.audience: is missing; use the client id, or the URI, of the application that stands for this gateway"]),
    ("backends: [{host: a}]\ntls: {ca: /etc/ca.pem}\n", &["2:7: tls.ca: unknown field; use one of ..."]),
    ("backends: [{host: a}]\ntls: /etc/ca.pem\n", &["2:6: tls: \"/etc/ca.pem\" is not allowed; use an object of trusted_ca"]),
    ("backends: [{host: a}]\nkubernetes: {namespace: My_NS}\n", &["2:25: kubernetes.namespace: \"My_NS\" is not allowed; use lower-case letters, digits, '-' and '.', such as \"azure-openai\""]),
    ("backends: [{host: a}]\nkubernetes: {image: }\n", &["2:19: kubernetes.image: null is not allowed; use a text without spaces"]),
    ("backends: [{host: a}]\nmax_attempts: 2\n", &["2:1: max_attempts: unknown field, it belongs to `retry`. Use one of ..."]),
    ("backends: [{host: a}]\nother_paths: allow\n", &["2:14: other_paths: \"allow\" is not allowed; use \"refuse\", \"pass\" or a list of paths such as [\"/providers/\"]"]),
    ("backends: [{host: a}]\nleft_to_envoy: [retries]\n", &["2:17: left_to_envoy[0]: \"retries\" is not allowed; use \"timeout\" or \"host\""]),
    ("backends: [{host: a}]\n---\nx: 1\n", &["1:1: 2 documents are not allowed; use one"]),
];

/// The messages about this list, with shortened lists of known fields.
fn problems(list: &str) -> Vec<String> {
    let problems = cli::check(list, Some(Form::Backends)).expect_err(list);
    let cut = |text: String| match text.find("se one of ") {
        Some(at) if text.contains("unknown field") => format!("{}se one of ...", &text[..at]),
        _ => text,
    };
    problems
        .iter()
        .map(|problem| cut(problem.to_string()))
        .collect()
}

#[test]
fn typical_mistakes_have_place_value_and_form() {
    assert!(MISTAKES.len() >= 60, "{}", MISTAKES.len());
    for (list, expected) in MISTAKES {
        assert_eq!(problems(list), *expected, "{list}");
    }
}

/// Words that only authors of JSON use, or nobody.
#[test]
fn no_message_has_words_of_another_form() {
    for (list, _) in MISTAKES {
        for problem in problems(list) {
            for word in ["JSON", "short form"] {
                assert!(!problem.contains(word), "{list}: {problem}");
            }
        }
    }
}
