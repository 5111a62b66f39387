//! Requests with encoded bodies, which the module does not read.

use mock_host::Headers;
use serde_json::{json, Value};

use super::engines::*;
use super::surface::aliased;

/// A stand-in for a compressed body: it is not text.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\xff{\"model\":\0";

const V1_CHAT: &str = "/openai/v1/chat/completions";
const RESPONSES: &str = "/openai/v1/responses";

/// The headers of a request with an encoded body.
fn encoded(path: &str, encoding: &str) -> Headers {
    request_of("POST", path, "x")
        .replaced("content-length", &GZIP.len().to_string())
        .with("content-encoding", encoding)
}

fn send_encoded(gateway: &Gateway, path: &str, encoding: &str) -> Request {
    let request = gateway.request(encoded(path, encoding), false);
    if request.answered().is_none() {
        request.body(GZIP, true);
    }
    request
}

fn assert_refused(gateway: &Gateway, request: Request) {
    let answer = request.answer();
    assert_eq!(
        (answer.status, code(answer.text())),
        (415, "content_encoding_not_supported".into())
    );
    assert_eq!(answer.headers.get("accept-encoding"), Some("identity"));
    assert_eq!(answer.headers.get("content-type"), Some("application/json"));
    assert!(request.forwarded().is_none() && request.attempts().is_empty());
    drop(request);
    assert_eq!(gateway.counted("aoai.refused.not_served"), 1);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
}

/// The request passed unchanged, on every attempt.
fn assert_untouched(request: &Request, encoding: &str) {
    for status in [500, 200] {
        let attempt = request.attempt();
        assert_eq!(attempt.sent().unwrap().body, GZIP);
        assert_eq!(
            attempt.header("content-encoding").as_deref(),
            Some(encoding)
        );
        assert_eq!(
            attempt.header("content-length"),
            Some(GZIP.len().to_string())
        );
        answer(&attempt, status, "x");
    }
    assert_eq!(outcome(request).0, 200);
}

cases! {
    fn an_encoded_body_that_must_be_read_is_refused_at_once(engine) {
        for (config, path, encoding) in [
            (aliased(), V1_CHAT, "gzip"),
            (aliased(), V1_CHAT, "GZIP"),
            (aliased(), V1_CHAT, "identity, br"),
            (aliased(), "/openai/v1/audio/transcriptions", "deflate"),
            (json!({}), RESPONSES, "zstd"),
            (json!({}), "/openai/v1/batches", "gzip"),
            (
                json!({}),
                "/openai/v1/vector_stores/vs_1/files",
                "x-something-new",
            ),
        ] {
            let gateway = engine.fleet(2, config);
            let request = send_encoded(&gateway, path, encoding);
            let coding = encoding.trim_start_matches("identity, ");
            assert!(request.answer().text().contains(coding), "{encoding}");
            assert_refused(&gateway, request);
        }
    }

    fn an_encoded_form_is_refused_where_its_model_must_be_read(engine) {
        let gateway = engine.fleet(2, aliased());
        let headers = encoded("/openai/v1/audio/transcriptions", "gzip")
            .replaced("content-type", "multipart/form-data; boundary=B");
        assert_refused(&gateway, gateway.request(headers, false));
        let headers = encoded("/openai/v1/files", "gzip")
            .replaced("content-type", "multipart/form-data; boundary=B");
        let request = gateway.request(headers, false);
        request.body(GZIP, true);
        assert_eq!(request.attempt().sent().unwrap().body, GZIP);
    }

    fn an_encoded_body_that_need_not_be_read_passes_unchanged(engine) {
        for (config, path, encoding) in [
            (json!({}), V1_CHAT, "gzip"),
            (json!({}), PATH, "br"),
            (aliased(), PATH, "gzip"),
            (json!({}), V1_CHAT, "identity"),
        ] {
            let gateway = engine.fleet(2, config);
            assert_untouched(&send_encoded(&gateway, path, encoding), encoding);
        }
        let gateway = engine.fleet(2, json!({"state": {"ids": "plain"}}));
        let request = send_encoded(&gateway, RESPONSES, "gzip");
        assert_eq!(request.attempt().sent().unwrap().body, GZIP);
    }

    fn an_identity_encoding_is_read(engine) {
        for encoding in ["identity", "Identity", "utf-8", ""] {
            let gateway = engine.fleet(2, aliased());
            let body = r#"{"model":"gpt"}"#;
            let headers = request_of("POST", V1_CHAT, body)
                .with("content-encoding", encoding)
                .with("accept-encoding", "gzip")
                .with("transfer-encoding", "chunked");
            let request = gateway.request(headers, false);
            request.body(body, true);
            let forwarded = request.attempt().sent().expect("it left");
            assert_eq!(forwarded.text(), r#"{"model":"gpt-4o-east"}"#, "{encoding}");
            assert_eq!(forwarded.headers.get("content-encoding"), Some(encoding));
        }
    }

    fn an_encoded_request_without_a_body_is_served(engine) {
        let gateway = engine.fleet(2, json!({}));
        let path = "/openai/v1/responses/resp_1/cancel";
        let headers = request_of("POST", path, "").with("content-encoding", "gzip");
        assert!(gateway.request(headers, true).forwarded().is_some());
    }

    fn an_encoded_body_passes_while_a_missing_model_is_remembered(engine) {
        let gateway = engine.fleet(2, json!({}));
        let body = r#"{"model":"m"}"#;
        let chat = |gateway: &Gateway| gateway.request(request_of("POST", V1_CHAT, body), false);
        let request = chat(&gateway);
        request.body(body, true);
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        answer(&request.attempt(), 200, "fine");
        assert!(chat(&gateway).forwarded().is_none(), "bodies are read now");
        assert_untouched(&send_encoded(&gateway, V1_CHAT, "gzip"), "gzip");
        assert_eq!(gateway.counted("aoai.refused.not_served"), 0);
    }

    fn a_refusal_of_an_encoded_body_draws_no_turn(engine) {
        let gateway = engine.fleet(2, json!({}));
        let mut asked = Vec::new();
        for _ in 0..4 {
            assert_eq!(
                send_encoded(&gateway, RESPONSES, "gzip").answer().status,
                415
            );
            let request = gateway.get();
            asked.push(request.attempt().cluster());
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(asked, [EAST, WEST, EAST, WEST]);
    }

    fn an_encoded_body_is_refused_without_a_token_too(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = send_encoded(&gateway, RESPONSES, "gzip");
        let answer: Value = serde_json::from_str(request.answer().text()).unwrap();
        assert_eq!(answer["error"]["code"], "content_encoding_not_supported");
    }
}
