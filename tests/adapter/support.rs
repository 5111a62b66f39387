//! A fleet of three backends, its requests, and the token service.

use std::io::Write;
use std::time::Duration;

// Links the module, whose callbacks the mock host calls.
use azure_openai_balancer as _;
use mock_host::{Call, Headers, Host, LogLevel, Setup, Stream, Vm};
use serde_json::{json, Value};

/// Three backends, with defaults for all other fields.
pub(crate) const CONFIG: &str = r#"{
    "backends": [
        {"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"},
        {"name": "west", "cluster": "aoai_west", "host": "west.openai.azure.com"},
        {"name": "north", "cluster": "aoai_north", "host": "north.openai.azure.com"}
    ],
    "identity": {"cluster": "imds"}
}"#;

pub(crate) const PATH: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

/// The secrets of the tests. None of them may appear in a log line.
pub(crate) const TOKEN: &str = "TOKEN-ONE";
pub(crate) const SECOND_TOKEN: &str = "TOKEN-TWO";
pub(crate) const CLIENT_KEY: &str = "CLIENT-KEY";

/// `CONFIG` with one field replaced or added.
pub(crate) fn config_with(key: &str, value: Value) -> String {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config[key] = value;
    config.to_string()
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A worker that has a token.
pub(crate) fn ready() -> (Host, Vm) {
    ready_with(Setup::new(CONFIG))
}

/// A worker with this setup that has a token.
pub(crate) fn ready_with(setup: Setup) -> (Host, Vm) {
    let host = Host::new();
    let vm = host.start(setup).unwrap();
    host.advance(millis(1));
    give_token(&vm, TOKEN);
    (host, vm)
}

/// A worker with a token, `count` backends, and these settings.
pub(crate) fn fleet(count: usize, more: Value) -> (Host, Vm) {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(count);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    ready_with(Setup::new(config.to_string()))
}

/// The one call to the token service in progress.
pub(crate) fn fetch(vm: &Vm) -> Call {
    let mut fetches = fetches(vm);
    assert_eq!(fetches.len(), 1, "{fetches:#?}");
    fetches.remove(0)
}

pub(crate) fn fetches(vm: &Vm) -> Vec<Call> {
    let calls = vm.calls().into_iter();
    calls.filter(|call| call.cluster == "imds").collect()
}

/// The token service answers with a token for an hour.
pub(crate) fn give_token(vm: &Vm, token: &str) {
    give_token_for(vm, token, seconds(3600));
}

pub(crate) fn give_token_for(vm: &Vm, token: &str, lifetime: Duration) {
    let body = token_answer(&vm.host(), token, lifetime);
    vm.answer(&fetch(vm), 200, [], body);
}

pub(crate) fn token_answer(host: &Host, token: &str, lifetime: Duration) -> String {
    let expires_on = (host.now() + lifetime).as_secs();
    json!({
        "access_token": token,
        "expires_on": expires_on.to_string(),
        "expires_in": lifetime.as_secs().to_string(),
        "token_type": "Bearer",
    })
    .to_string()
}

/// A client's chat request, without a body's length.
pub(crate) fn chat() -> Headers {
    Headers::from([
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "gateway.internal"),
        (":path", PATH),
        ("content-type", "application/json"),
        ("api-key", CLIENT_KEY),
        ("authorization", "Bearer CLIENT-KEY"),
        ("x-stainless-lang", "python"),
    ])
}

/// A client's request to `path`, without a body's length.
pub(crate) fn post(path: &str) -> Headers {
    Headers::from([
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "gateway.internal"),
        (":path", path),
        ("content-type", "application/json"),
    ])
}

/// A client's chat request whose body has this length.
pub(crate) fn chat_of(length: usize) -> Headers {
    chat().with("content-length", length.to_string())
}

pub(crate) const BODY: &str = r#"{"model":"gpt-4o","messages":[]}"#;

/// A client's chat request, complete.
pub(crate) fn send(vm: &Vm) -> Stream {
    let stream = vm.request(chat_of(BODY.len()), false);
    stream.body(BODY, true);
    stream
}

/// A client's request without a body.
pub(crate) fn get(vm: &Vm) -> Stream {
    vm.request(listing(), true)
}

/// The headers of a client's request without a body.
pub(crate) fn listing() -> Headers {
    request_of("GET", "/openai/models?api-version=2024-10-21", "")
}

/// The headers of a client's request with this body.
pub(crate) fn request_of(method: &str, path: &str, body: &str) -> Headers {
    let headers = Headers::from([
        (":method", method),
        (":scheme", "https"),
        (":authority", "gateway.internal"),
        (":path", path),
    ]);
    match body.is_empty() {
        true => headers,
        false => headers
            .with("content-type", "application/json")
            .with("content-length", body.len().to_string()),
    }
}

/// The cluster that the filter chose for the router.
pub(crate) fn routed_to(stream: &Stream) -> String {
    let forwarded = stream.forwarded().expect("the request went on");
    let cluster = forwarded.headers.get("x-aoai-cluster");
    cluster.expect("the route's header is set").to_owned()
}

/// An error in Azure's form.
pub(crate) fn error(code: &str) -> String {
    json!({"error": {"code": code, "message": "as Azure words it"}}).to_string()
}

/// An error with a message.
pub(crate) fn worded(code: &str, message: &str) -> String {
    json!({"error": {"code": code, "message": message}}).to_string()
}

/// Errors of a backend that send a request to the next one: status, body, the outcome in the statistics, and words in
/// the log.
pub(crate) fn denials() -> Vec<(u16, String, &'static str, &'static str)> {
    let tenant = "Tenant provided in token does not match resource token";
    let token = "Token tenant 33e0 does not match resource tenant.";
    let blocked =
        "Your resource has been temporarily blocked because we detected unusual behavior.";
    let nowhere = "Subdomain does not map to a resource.";
    let (denied, missing) = ("permission_denied", "deployment_not_found");
    let named = "has no deployment \"gpt-4o\"";
    vec![
        (401, error("PermissionDenied"), denied, "role"),
        (403, error("403"), denied, "role"),
        (
            403,
            error("AuthenticationTypeDisabled"),
            denied,
            "remove its api_key_env",
        ),
        (
            403,
            worded("Forbidden", blocked),
            denied,
            "open a support request",
        ),
        (
            400,
            worded(tenant, token),
            denied,
            "identity of the resource's tenant",
        ),
        (404, worded("404", nowhere), denied, "correct its host"),
        (404, error("DeploymentNotFound"), missing, named),
        (404, error("unknown_model"), missing, named),
        (400, error("unknown_model"), missing, named),
        (410, error("ModelDeprecated"), missing, named),
    ]
}

/// The text, compressed with gzip.
pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// The backend's whole answer to the router's request.
pub(crate) fn respond(stream: &Stream, status: u16, body: &str) {
    let headers = [("content-type", "application/json")];
    stream.respond(status, headers, body.is_empty());
    if !body.is_empty() {
        stream.response_body(body, true);
    }
}

/// `error.code` of an answer.
pub(crate) fn code(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("the body is JSON");
    body["error"]["code"]
        .as_str()
        .expect("it has a code")
        .to_owned()
}

/// The module logged no warning or error.
pub(crate) fn assert_quiet(host: &Host) {
    let loud = loud(host);
    assert!(loud.is_empty(), "nothing to warn about: {loud:?}");
}

/// The warnings and errors the module logged.
pub(crate) fn loud(host: &Host) -> Vec<String> {
    let logs = host.logs().into_iter();
    logs.filter(|log| log.level >= LogLevel::Warn)
        .map(|log| log.text)
        .collect()
}

/// The value of a statistic, after the worker's report.
pub(crate) fn counted(host: &Host, name: &str) -> u64 {
    host.advance(seconds(2));
    host.statistic(name)
}
