//! Requests whose bodies are encoded, which the module does not read. With the filter engine.

use mock_host::{Headers, Host, Stream, Vm};
use serde_json::{json, Value};

use super::support::*;
use super::surface::{aliased, request};

/// What stands for a compressed body: no text at all.
pub(crate) const GZIP: &[u8] = b"\x1f\x8b\x08\0\xff{\"model\":\0";

const V1_CHAT: &str = "/openai/v1/chat/completions";
const RESPONSES: &str = "/openai/v1/responses";

/// The headers of a request with an encoded body.
pub(crate) fn encoded(path: &str, encoding: &str) -> Headers {
    request("POST", path, "x")
        .replaced("content-length", &GZIP.len().to_string())
        .with("content-encoding", encoding)
}

fn send_encoded(vm: &Vm, path: &str, encoding: &str) -> Stream {
    let stream = vm.request(encoded(path, encoding), false);
    if stream.answered().is_none() {
        stream.body(GZIP, true);
    }
    stream
}

fn assert_refused(host: &Host, vm: &Vm, stream: &Stream) {
    let answer = stream.answer();
    assert_eq!(
        (answer.status, code(answer.text())),
        (415, "content_encoding_not_supported".into())
    );
    assert_eq!(answer.headers.get("accept-encoding"), Some("identity"));
    assert_eq!(answer.headers.get("content-type"), Some("application/json"));
    assert!(stream.forwarded().is_none() && vm.calls().is_empty());
    assert_eq!(counted(host, "aoai.refused.not_served"), 1);
}

/// It went on as it came, on every attempt.
fn assert_untouched(vm: &Vm, stream: &Stream, encoding: &str) {
    let forwarded = stream.forwarded().expect("it went on");
    assert_eq!(forwarded.body, GZIP);
    assert_eq!(forwarded.headers.get("content-encoding"), Some(encoding));
    assert_eq!(
        forwarded.headers.get("content-length"),
        Some(GZIP.len().to_string().as_str())
    );
    respond(stream, 500, "x");
    let call = vm.call();
    assert_eq!(call.body, GZIP);
    assert_eq!(call.headers.get("content-encoding"), Some(encoding));
    vm.answer(&call, 200, [], "fine");
}

#[test]
fn an_encoded_body_that_would_decide_is_refused_at_once() {
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
        let (host, vm) = fleet(2, config);
        let stream = send_encoded(&vm, path, encoding);
        assert_refused(&host, &vm, &stream);
        let coding = encoding.trim_start_matches("identity, ");
        assert!(stream.answer().text().contains(coding), "{encoding}");
    }
}

#[test]
fn an_encoded_form_is_refused_where_its_model_decides() {
    let (host, vm) = fleet(2, aliased());
    let headers = encoded("/openai/v1/audio/transcriptions", "gzip")
        .replaced("content-type", "multipart/form-data; boundary=B");
    assert_refused(&host, &vm, &vm.request(headers, false));
    let headers = encoded("/openai/v1/files", "gzip")
        .replaced("content-type", "multipart/form-data; boundary=B");
    let stream = vm.request(headers, false);
    stream.body(GZIP, true);
    assert_eq!(stream.forwarded().unwrap().body, GZIP);
}

#[test]
fn an_encoded_body_that_decides_nothing_passes_untouched() {
    for (config, path, encoding) in [
        (json!({}), V1_CHAT, "gzip"),
        (json!({}), PATH, "br"),
        (aliased(), PATH, "gzip"),
        (json!({}), V1_CHAT, "identity"),
    ] {
        let (_host, vm) = fleet(2, config);
        assert_untouched(&vm, &send_encoded(&vm, path, encoding), encoding);
    }
    let (_host, vm) = fleet(2, json!({"state": {"ids": "plain"}}));
    let stream = send_encoded(&vm, RESPONSES, "gzip");
    assert_eq!(stream.forwarded().unwrap().body, GZIP);
}

#[test]
fn a_body_in_no_encoding_is_read_whatever_its_header_says() {
    for encoding in ["identity", "Identity", "utf-8", ""] {
        let (_host, vm) = fleet(2, aliased());
        let body = r#"{"model":"gpt"}"#;
        let headers = request("POST", V1_CHAT, body)
            .with("content-encoding", encoding)
            .with("accept-encoding", "gzip")
            .with("transfer-encoding", "chunked");
        let stream = vm.request(headers, false);
        stream.body(body, true);
        let forwarded = stream.forwarded().expect("it went on");
        assert_eq!(forwarded.text(), r#"{"model":"gpt-4o-east"}"#, "{encoding}");
        assert_eq!(forwarded.headers.get("content-encoding"), Some(encoding));
    }
}

#[test]
fn an_encoded_request_without_a_body_is_served() {
    let (_host, vm) = fleet(2, json!({}));
    let path = "/openai/v1/responses/resp_1/cancel";
    let headers = request("POST", path, "").with("content-encoding", "gzip");
    assert!(vm.request(headers, true).forwarded().is_some());
}

#[test]
fn an_encoded_body_passes_while_a_missing_model_is_remembered() {
    let (host, vm) = fleet(2, json!({}));
    let body = r#"{"model":"m"}"#;
    let chat = |vm: &Vm| vm.request(request("POST", V1_CHAT, body), false);
    let stream = chat(&vm);
    stream.body(body, true);
    respond(&stream, 404, &error("DeploymentNotFound"));
    vm.answer(&vm.call(), 200, [], "fine");
    assert!(chat(&vm).forwarded().is_none(), "bodies are read now");
    assert_untouched(&vm, &send_encoded(&vm, V1_CHAT, "gzip"), "gzip");
    assert_eq!(counted(&host, "aoai.refused.not_served"), 0);
}

#[test]
fn a_refusal_of_an_encoded_body_draws_no_turn() {
    let (_host, vm) = fleet(2, json!({}));
    let mut asked = Vec::new();
    for _ in 0..4 {
        assert_eq!(send_encoded(&vm, RESPONSES, "gzip").answer().status, 415);
        let stream = get(&vm);
        asked.push(routed_to(&stream));
        respond(&stream, 200, "fine");
    }
    assert_eq!(asked, ["aoai_east", "aoai_west", "aoai_east", "aoai_west"]);
}

#[test]
fn an_encoded_body_is_refused_without_a_token_too() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = send_encoded(&vm, RESPONSES, "gzip");
    let answer: Value = serde_json::from_str(stream.answer().text()).unwrap();
    assert_eq!(answer["error"]["code"], "content_encoding_not_supported");
}
