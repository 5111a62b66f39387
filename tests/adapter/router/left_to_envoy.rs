//! Settings that Envoy's configuration makes in the filter's place.

use super::*;

#[test]
fn no_attempt_sets_its_host_or_its_time_limit() {
    let mut config = routing(json!({}));
    config["left_to_envoy"] = json!(["timeout", "host"]);
    let gateway = ready(&config);
    let request = gateway.send();
    answer(&request.attempt(), 429, "busy");
    answer(&request.attempt(), 200, "hello");
    let client = chat().get(":authority").unwrap().to_owned();
    assert_eq!(request.attempts().len(), 2);
    for attempt in request.attempts() {
        assert_eq!(attempt.header(":authority"), Some(client.clone()));
        let limit = attempt.header("x-envoy-upstream-rq-per-try-timeout-ms");
        assert_eq!(limit, None);
    }
}
