//! Warnings of `check`: the file is valid, the exit status is 0, and standard error names probable mistakes.

use cli::{check, Form};

/// The warnings about a file, as `check` prints them.
fn warnings(text: &str, form: Form) -> Vec<String> {
    let checked = check(text, Some(form)).unwrap_or_else(|problems| panic!("{problems:?}"));
    checked.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn each_warning_names_the_place_the_value_and_the_fix() {
    for (list, expected) in [
        (
            "backends: [{host: a.openai.azure.com}]\nadmin: {port: 10000}\n",
            "2:15: admin.port: warning: 10000 is the listener's port too; use a port of its own",
        ),
        (
            "backends: [{host: a.openai.azure.com}]\nstatus: {port: 10000}\n",
            "2:16: status.port: warning: 10000 is the listener's port too; use a port of its own",
        ),
        (
            "backends: [{host: a.openai.azure.com}]\nstatus: {address: 0.0.0.0, port: 9901}\n",
            "2:34: status.port: warning: 9901 is the admin interface's port too; use a port of its own",
        ),
        (
            "backends:\n- {host: \"a.openai.azure.com:8443\"}\n",
            "2:10: backends[0].host: warning: \"a.openai.azure.com:8443\" has a port, which becomes part of the `host` \
             header; use the host name alone",
        ),
        (
            "backends:\n- {name: a, host: 10.0.0.4}\n",
            "2:19: backends[0].host: warning: \"10.0.0.4\" is an IP address, for which no resource has a certificate; use \
             the resource's host name",
        ),
        (
            "backends:\n- {host: a, unlisted_deployments: refuse}\n",
            "2:35: backends[0].unlisted_deployments: warning: the backend refuses every deployment, because it lists none; \
             list its `deployments`, or use \"pass\"",
        ),
        (
            "backends: [{host: a}]\nidentity: {wait_timeout: 1s}\nkubernetes: {gateway: g}\n",
            "2:11: identity: warning: on AKS, IMDS gives the identity of the node, and refuses to choose when it has \
             several; use the source \"workload_identity\", or name one with `client_id`",
        ),
    ] {
        assert_eq!(warnings(list, Form::Backends), [expected], "{list}");
    }
}

#[test]
fn an_intended_setting_gets_no_warning() {
    for list in [
        "backends: [{host: a.openai.azure.com}]\n",
        "backends: [{host: a, unlisted_deployments: refuse, deployments: {gpt-4o: b}}]\n",
        "backends: [{host: a}]\nidentity: {client_id: b}\nkubernetes: {gateway: g}\n",
        "backends: [{host: a}]\nidentity: {source: workload_identity}\nkubernetes: {gateway: g}\n",
        "backends: [{host: a, api_key_env: K}]\nkubernetes: {gateway: g}\n",
        "backends: [{host: a}]\nlistener: {address: 127.0.0.1}\nadmin: {address: 127.0.0.2, port: 10000}\n",
        "backends: [{host: a}]\nlimits: {default: {tokens_per_minute: 5}}\n",
        "backends: [{host: a}]\nstatus: {port: 9902}\n",
        "backends: [{host: a}]\nstatus: {address: 127.0.0.2, port: 9901}\n",
    ] {
        assert_eq!(warnings(list, Form::Backends), [""; 0], "{list}");
    }
}

#[test]
fn a_plugin_configuration_gets_warnings_too() {
    let plugin =
        r#"{"backends": [{"name": "a", "cluster": "b", "host": "10.0.0.4", "api_key_env": "K"}]}"#;
    let warnings = warnings(plugin, Form::Plugin);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("backends[0].host: warning: "),
        "{warnings:?}"
    );
}

#[test]
fn a_limit_service_without_limits_gets_a_warning() {
    let list = "backends: [{host: a}]\nlimits: {service: {endpoint: \"http://a\"}}\n";
    assert_eq!(
        warnings(list, Form::Backends),
        ["2:19: limits.service: warning: the service has no limits to count; set `limits.default` or `limits.clients`"]
    );
}

#[test]
fn limits_for_all_clients_together_get_a_warning() {
    let limits = r#""limits": {"default": {"tokens_per_minute": 5}}"#;
    let backends =
        r#""backends": [{"name": "a", "cluster": "b", "host": "h", "api_key_env": "K"}]"#;
    let warning = warnings(&format!("{{{backends}, {limits}}}"), Form::Plugin);
    assert_eq!(warning.len(), 1, "{warning:?}");
    assert!(
        warning[0]
            .contains("limits: warning: without `headers.client` all requests are one client's"),
        "{warning:?}"
    );
    let named = format!(r#"{{{backends}, {limits}, "headers": {{"client": "x"}}}}"#);
    assert_eq!(warnings(&named, Form::Plugin), [""; 0]);
}
