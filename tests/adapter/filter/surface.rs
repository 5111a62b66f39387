//! Creations without an answer, which must not be repeated.

use serde_json::json;

use super::*;

#[test]
fn a_creation_that_may_have_succeeded_is_not_repeated() {
    for (path, body, details, again) in [
        ("/openai/v1/files", "{}", "response_timeout", false),
        (
            "/openai/v1/batches",
            "{}",
            "upstream_reset_before_response_started{connection_termination}",
            false,
        ),
        (
            "/openai/v1/batches",
            "{}",
            "upstream_reset_before_response_started{connection_failure}",
            true,
        ),
        (
            "/openai/v1/responses",
            r#"{"background":true}"#,
            "response_timeout",
            false,
        ),
        (
            "/openai/v1/responses",
            r#"{"background":false}"#,
            "response_timeout",
            true,
        ),
        (
            "/openai/v1/chat/completions",
            "{}",
            "response_timeout",
            true,
        ),
    ] {
        let (host, vm) = fleet(2, json!({}));
        let stream = vm.request(request_of("POST", path, body), false);
        stream.body(body, true);
        stream.respond_locally(504, details);
        assert_eq!(
            vm.calls().len(),
            usize::from(again),
            "{path} {body} {details}"
        );
        let told = counted(&host, "aoai.no_retry.not_repeatable");
        assert_eq!(told, u64::from(!again), "{path} {body} {details}");
    }
}
