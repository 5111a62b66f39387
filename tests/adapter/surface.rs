//! The rest of Azure OpenAI's surface: names in bodies, APIs that not every backend has, several identities, and objects that
//! live on one backend. With the filter engine.

use azure_openai_balancer::core::state::ids::Tag;
use mock_host::{Headers, Setup, Stream, Vm};
use serde_json::{json, Value};

use super::support::*;

pub(crate) const EAST: &str = "aoai_east";
pub(crate) const WEST: &str = "aoai_west";

/// The tag of a backend's objects.
pub(crate) fn tag(name: &str) -> String {
    Tag::of(&format!("{name}.openai.azure.com"))
        .as_str()
        .to_owned()
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> Headers {
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

/// A client's request, complete, with its body in two parts.
fn ask(vm: &Vm, method: &str, path: &str, body: &str) -> Stream {
    let stream = vm.request(request(method, path, body), body.is_empty());
    if !body.is_empty() {
        let (one, other) = body.split_at(body.len() / 2);
        stream.body(one, false);
        stream.body(other, true);
    }
    stream
}

/// What went on: cluster, path, body, and the length that was announced for it.
fn forwarded(stream: &Stream) -> (String, String, String) {
    let forwarded = stream.forwarded().expect("it went on");
    let header = |name| forwarded.headers.get(name).unwrap_or_default().to_owned();
    let body = forwarded.text().to_owned();
    if !body.is_empty() {
        assert_eq!(header("content-length"), body.len().to_string());
    }
    (header("x-aoai-cluster"), header(":path"), body)
}

/// So many backends, edited.
fn backends(count: usize, edit: impl FnOnce(&mut Value)) -> Value {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(count);
    edit(&mut config["backends"]);
    json!({"backends": config["backends"]})
}

/// Three backends with names of their own; the second one has no others.
pub(crate) fn aliased() -> Value {
    backends(3, |backends| {
        backends[0]["deployments"] = json!({"gpt": "gpt-4o-east"});
        backends[1]["deployments"] = json!({"gpt": "g"});
        backends[1]["unlisted_deployments"] = json!("refuse");
    })
}

const V1_CHAT: &str = "/openai/v1/chat/completions";

#[test]
fn the_model_in_a_body_is_each_backends_own_name() {
    let (_host, vm) = fleet(3, aliased());
    let body = r#"{"messages":[{"model":"gpt","n":1.0}],"model" : "gpt"}"#;
    let stream = ask(&vm, "POST", V1_CHAT, body);
    let to_east = body.replace(r#": "gpt""#, r#": "gpt-4o-east""#);
    assert_eq!(forwarded(&stream), (EAST.into(), V1_CHAT.into(), to_east));
    respond(&stream, 500, "x");
    let call = vm.call();
    assert_eq!(call.cluster, WEST);
    assert_eq!(call.text(), body.replace(r#": "gpt""#, r#": "g""#));
    vm.answer(&call, 500, [("x-envoy-upstream-service-time", "1")], "x");
    let call = vm.call();
    assert_eq!((call.cluster.as_str(), call.text()), ("aoai_north", body));
}

#[test]
fn a_backend_without_the_model_is_not_asked() {
    let (_host, vm) = fleet(3, aliased());
    let mut asked = Vec::new();
    for _ in 0..6 {
        let stream = ask(&vm, "POST", V1_CHAT, r#"{"model":"other"}"#);
        let (cluster, _, body) = forwarded(&stream);
        assert_eq!(body, r#"{"model":"other"}"#);
        asked.push(cluster);
        respond(&stream, 200, "fine");
    }
    asked.sort();
    assert_eq!(
        asked,
        [EAST, EAST, EAST, "aoai_north", "aoai_north", "aoai_north"]
    );
}

#[test]
fn a_body_that_is_no_json_is_the_backends_to_refuse() {
    let (_host, vm) = fleet(3, aliased());
    let body = r#"{"model":"gpt""#;
    let (_, _, sent) = forwarded(&ask(&vm, "POST", V1_CHAT, body));
    assert_eq!(sent, body);
}

#[test]
fn the_model_of_a_form_too() {
    let (_host, vm) = fleet(3, aliased());
    let body = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt\r\n--B\r\n\
                Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\0\x01model\r\n--B--\r\n";
    let path = "/openai/v1/audio/transcriptions";
    let headers = request("POST", path, body);
    let headers = headers.replaced("content-type", "multipart/form-data; boundary=B");
    let stream = vm.request(headers, false);
    stream.body(body, true);
    let (_, _, sent) = forwarded(&stream);
    assert_eq!(sent, body.replace("gpt", "gpt-4o-east"));
}

#[test]
fn a_large_body_goes_on_as_soon_as_it_has_said_enough() {
    let (_host, vm) = fleet(3, aliased());
    let head = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt\r\n--B\r\n";
    let headers = request("POST", "/openai/v1/audio/transcriptions", "x");
    let headers = headers
        .replaced("content-length", "9000000")
        .replaced("content-type", "multipart/form-data; boundary=B");
    let stream = vm.request(headers, false);
    assert!(stream.forwarded().is_none());
    stream.body(head, false);
    let forwarded = stream.forwarded().expect("it went on");
    assert_eq!(forwarded.text(), head.replace("gpt", "gpt-4o-east"));
    assert_eq!(forwarded.headers.get("content-length"), Some("9000008"));
    stream.body("the file", false);
    let text = stream.forwarded().unwrap().text().to_owned();
    assert!(text.ends_with("the file"), "{text}");
}

#[test]
fn what_all_backends_take_is_not_read() {
    let (host, vm) = fleet(3, json!({}));
    host.clear_counts();
    let headers = request("POST", V1_CHAT, "x").replaced("content-length", "9000000");
    let stream = vm.request(headers, false);
    assert!(stream.forwarded().is_some(), "nothing in it decides");
}

#[test]
fn an_api_is_asked_of_those_that_have_it() {
    let (_host, vm) = fleet(
        2,
        backends(2, |backends| {
            backends[0]["apis"] = json!(["chat", "embeddings"])
        }),
    );
    for _ in 0..4 {
        let stream = ask(&vm, "POST", "/openai/v1/images/generations", "{}");
        assert_eq!(routed_to(&stream), WEST);
        respond(&stream, 200, "fine");
    }
    let (host, vm) = fleet(1, backends(1, |b| b[0]["apis"] = json!(["chat"])));
    let stream = ask(&vm, "POST", "/openai/v1/images/generations", "{}");
    assert_eq!(
        (stream.answer().status, code(stream.answer().text())),
        (404, "api_not_available".into())
    );
    assert_eq!(counted(&host, "aoai.refused.not_served"), 1);
}

#[test]
fn an_api_that_a_region_does_not_have_is_not_asked_of_it_for_a_while() {
    let (host, vm) = fleet(2, json!({}));
    let body = r#"{"error":{"code":"NotFound","message":"The Images API is not enabled in this region."}}"#;
    let stream = ask(&vm, "POST", "/openai/v1/images/generations", "{}");
    assert_eq!(routed_to(&stream), EAST);
    respond(&stream, 404, body);
    vm.answer(&vm.call(), 200, [], "fine");
    assert_eq!(stream.answer().status, 200);
    for _ in 0..3 {
        let stream = ask(&vm, "POST", "/openai/v1/images/generations", "{}");
        assert_eq!(routed_to(&stream), WEST);
        respond(&stream, 200, "fine");
    }
    assert_eq!(
        routed_to(&send(&vm)),
        EAST,
        "what it has is still asked of it"
    );
    assert!(
        loud(&host)[0].contains("has no API images"),
        "{:?}",
        loud(&host)
    );
}

#[test]
fn every_identity_has_a_token_of_its_own() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["identities"] = json!({"research": {"cluster": "imds2", "client_id": "r"}});
    config["backends"][1]["identity"] = json!("research");
    let (host, vm) = ready_with(Setup::new(config.to_string()));
    // One identity has no token yet: its backend is passed over.
    for expected in [EAST, "aoai_north", "aoai_north"] {
        let stream = get(&vm);
        assert_eq!(routed_to(&stream), expected);
        respond(&stream, 200, "fine");
    }
    let fetch = vm.calls().into_iter().find(|call| call.cluster == "imds2");
    vm.answer(
        &fetch.unwrap(),
        200,
        [],
        token_answer(&host, SECOND_TOKEN, seconds(3600)),
    );
    let mut shown = Vec::new();
    for _ in 0..3 {
        let stream = get(&vm);
        let headers = stream.forwarded().unwrap().headers;
        shown.push((
            routed_to(&stream),
            headers.get("authorization").unwrap().to_owned(),
        ));
        respond(&stream, 200, "fine");
    }
    shown.sort();
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(
        shown,
        [
            (EAST.to_owned(), bearer(TOKEN)),
            ("aoai_north".to_owned(), bearer(TOKEN)),
            (WEST.to_owned(), bearer(SECOND_TOKEN)),
        ]
    );
}

#[test]
fn a_request_that_can_go_to_one_backend_waits_for_that_ones_token() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["identities"] = json!({"research": {"cluster": "imds2"}});
    config["backends"][1]["identity"] = json!("research");
    let (host, vm) = ready_with(Setup::new(config.to_string()));
    let path = format!("/openai/v1/responses/resp_1{}", tag("west"));
    let stream = ask(&vm, "GET", &path, "");
    assert!(stream.forwarded().is_none() && stream.answered().is_none());
    host.advance(millis(100));
    let fetch = vm.calls().into_iter().find(|call| call.cluster == "imds2");
    vm.answer(
        &fetch.unwrap(),
        200,
        [],
        token_answer(&host, SECOND_TOKEN, seconds(3600)),
    );
    assert_eq!(routed_to(&stream), WEST);
}

#[test]
fn what_is_made_on_a_backend_is_found_there_again() {
    let (_host, vm) = fleet(3, json!({}));
    get(&vm);
    let body = r#"{"model":"gpt","input":"resp_1"}"#;
    let stream = ask(&vm, "POST", "/openai/v1/responses", body);
    assert_eq!(
        forwarded(&stream),
        (WEST.into(), "/openai/v1/responses".into(), body.into())
    );
    stream.respond(
        200,
        [
            ("content-type", "application/json"),
            ("content-length", "47"),
        ],
        false,
    );
    stream.response_body(r#"{"id":"resp_1","output":["#, false);
    stream.response_body(r#"{"id":"msg_2"}],"text":"resp_1"}"#, true);
    let answer = stream.answer();
    let id = format!("resp_1{}", tag("west"));
    assert_eq!(
        answer.text(),
        format!(r#"{{"id":"{id}","output":[{{"id":"msg_2"}}],"text":"resp_1"}}"#)
    );
    assert_eq!(answer.headers.get("content-length"), None);

    for _ in 0..3 {
        let stream = ask(
            &vm,
            "GET",
            &format!("/openai/v1/responses/{id}?after={id}"),
            "",
        );
        let path = "/openai/v1/responses/resp_1?after=resp_1";
        assert_eq!(
            forwarded(&stream),
            (WEST.into(), path.into(), String::new())
        );
        respond(&stream, 200, "fine");
    }
    let body = format!(r#"{{"model":"gpt","previous_response_id":"{id}"}}"#);
    let stream = ask(&vm, "POST", "/openai/v1/responses", &body);
    let sent = r#"{"model":"gpt","previous_response_id":"resp_1"}"#;
    assert_eq!(
        forwarded(&stream),
        (WEST.into(), "/openai/v1/responses".into(), sent.into())
    );
}

#[test]
fn what_continues_takes_no_ones_turn() {
    let (_host, vm) = fleet(2, json!({}));
    let continued = format!(r#"{{"previous_response_id":"resp_1{}"}}"#, tag("west"));
    let mut made = Vec::new();
    for _ in 0..4 {
        let stream = ask(&vm, "POST", "/openai/v1/responses", "{}");
        made.push(routed_to(&stream));
        respond(&stream, 200, "fine");
        let stream = ask(&vm, "POST", "/openai/v1/responses", &continued);
        assert_eq!(routed_to(&stream), WEST);
        respond(&stream, 200, "fine");
    }
    assert_eq!(made, [EAST, WEST, EAST, WEST]);
}

#[test]
fn an_object_whose_backend_is_throttled_is_asked_of_no_other() {
    let (_host, vm) = fleet(2, json!({}));
    let path = format!("/openai/v1/responses/resp_1{}", tag("west"));
    let stream = ask(&vm, "GET", &path, "");
    stream.respond(429, [("retry-after", "7")], true);
    let answer = stream.answer();
    assert_eq!(
        (answer.status, answer.headers.get("retry-after")),
        (429, Some("7")),
        "its own"
    );
    assert!(vm.calls().is_empty());
    let trial = ask(&vm, "GET", &path, "");
    assert_eq!(routed_to(&trial), WEST);
    let stream = ask(&vm, "GET", &path, "");
    let answer = stream.answer();
    assert_eq!(
        (answer.status, code(answer.text())),
        (429, "backend_throttled".into())
    );
    assert_eq!(answer.headers.get("retry-after"), Some("7"));
    assert!(stream.forwarded().is_none());
    assert_eq!(routed_to(&get(&vm)), EAST);
}

#[test]
fn objects_of_two_backends_cannot_be_used_together() {
    let (_host, vm) = fleet(3, json!({}));
    let body = format!(
        r#"{{"previous_response_id":"resp_1{}","tools":[{{"vector_store_ids":["vs_1{}"]}}]}}"#,
        tag("west"),
        tag("north")
    );
    let stream = ask(&vm, "POST", "/openai/v1/responses", &body);
    let answer = stream.answer();
    assert_eq!(
        (answer.status, code(answer.text())),
        (400, "objects_on_different_backends".into())
    );
}

#[test]
fn what_does_not_say_where_it_lives_is_at_home() {
    let (_host, vm) = fleet(3, json!({"state": {"home": "north"}}));
    for (method, path, body) in [
        ("GET", "/openai/v1/responses/resp_1", ""),
        ("GET", "/openai/v1/files", ""),
        ("POST", "/openai/assistants?api-version=1", "{}"),
        (
            "POST",
            "/openai/v1/responses",
            r#"{"previous_response_id":"resp_1"}"#,
        ),
        // A tag of no backend that there is.
        ("GET", "/openai/v1/responses/resp_1.b000000", ""),
    ] {
        let stream = ask(&vm, method, path, body);
        assert_eq!(
            forwarded(&stream),
            ("aoai_north".into(), path.into(), body.into())
        );
        respond(&stream, 200, "fine");
    }
    let (_host, vm) = fleet(3, json!({"state": {"ids": "plain"}}));
    for _ in 0..3 {
        let stream = ask(&vm, "POST", "/openai/v1/responses", "{}");
        assert_eq!(routed_to(&stream), EAST);
        stream.respond(200, [("content-type", "application/json")], false);
        stream.response_body(r#"{"id":"resp_1"}"#, true);
        assert_eq!(stream.answer().text(), r#"{"id":"resp_1"}"#);
    }
}

#[test]
fn ids_in_an_answer_that_was_sent_again_are_tagged_too() {
    let (_host, vm) = fleet(2, json!({}));
    let stream = ask(&vm, "POST", "/openai/v1/responses", "{}");
    respond(&stream, 429, "x");
    let json = [("content-type", "application/json; charset=utf-8")];
    vm.answer(&vm.call(), 200, json, r#"{"id":"resp_1"}"#);
    let expected = format!(r#"{{"id":"resp_1{}"}}"#, tag("west"));
    assert_eq!(stream.answer().text(), expected);
}

#[test]
fn what_a_file_contains_is_not_touched() {
    let (_host, vm) = fleet(2, json!({}));
    let path = format!("/openai/v1/files/file-1{}/content", tag("east"));
    let stream = ask(&vm, "GET", &path, "");
    assert_eq!(forwarded(&stream).1, "/openai/v1/files/file-1/content");
    let content = r#"{"id":"resp_1"}"#;
    stream.respond(200, [("content-type", "application/json")], false);
    stream.response_body(content, true);
    assert_eq!(stream.answer().text(), content);
}

#[test]
fn an_answer_that_is_to_be_read_comes_unencoded() {
    let (_host, vm) = fleet(2, json!({}));
    for (path, expected) in [("/openai/v1/responses", None), (V1_CHAT, Some("gzip"))] {
        let stream = vm.request(
            request("POST", path, "{}").with("accept-encoding", "gzip"),
            false,
        );
        stream.body("{}", true);
        let headers = stream.forwarded().unwrap().headers;
        assert_eq!(headers.get("accept-encoding"), expected, "{path}");
        respond(&stream, 500, "x");
        assert_eq!(vm.call().headers.get("accept-encoding"), expected, "{path}");
        stream.disconnect();
        for call in vm.calls() {
            vm.answer(&call, 200, [], "");
        }
    }
}

#[test]
fn what_makes_something_is_not_done_twice_where_it_may_have_been_done() {
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
        (V1_CHAT, "{}", "response_timeout", true),
    ] {
        let (host, vm) = fleet(2, json!({}));
        let stream = ask(&vm, "POST", path, body);
        stream.respond_locally(504, details);
        assert_eq!(
            vm.calls().len(),
            usize::from(again),
            "{path} {body} {details}"
        );
        let told = counted(&host, "aoai.no_retry.not_repeatable");
        assert_eq!(told, u64::from(!again), "{path} {body} {details}");
    }
    for (status, again) in [(429, true), (503, true), (500, false), (408, false)] {
        let (_host, vm) = fleet(2, json!({}));
        let stream = ask(&vm, "POST", "/openai/v1/files", "{}");
        respond(&stream, status, "x");
        assert_eq!(vm.calls().len(), usize::from(again), "{status}");
    }
    let (_host, vm) = fleet(2, json!({"retry": {"repeat_creations": true}}));
    respond(&ask(&vm, "POST", "/openai/v1/files", "{}"), 500, "x");
    assert_eq!(vm.calls().len(), 1);
}

#[test]
fn paths_of_no_one_here_are_refused_or_passed() {
    let (host, vm) = fleet(2, json!({}));
    for path in ["/health", "/openai/../admin", "/openai/%2e%2e/admin"] {
        let stream = ask(&vm, "GET", path, "");
        let answer = stream.answer();
        assert_eq!(
            (answer.status, code(answer.text())),
            (404, "path_not_served".into()),
            "{path}"
        );
        assert!(stream.forwarded().is_none());
    }
    assert_eq!(counted(&host, "aoai.refused.not_served"), 3);
    let (_host, vm) = fleet(2, json!({"other_paths": "pass"}));
    assert_eq!(forwarded(&ask(&vm, "GET", "/health", "")).1, "/health");
    // One that is no text could not be searched for credentials.
    let headers = Headers::from([(":method", "GET")]).with(":path", *b"/h\xe9alth?api-key=KEY");
    let stream = vm.request(headers, true);
    assert_eq!(code(stream.answer().text()), "path_not_served");
}

#[test]
fn what_is_not_known_is_passed_on_and_not_tried_again() {
    let (host, vm) = fleet(2, json!({}));
    let stream = ask(&vm, "POST", "/openai/v1/novelties", "{}");
    respond(&stream, 500, "x");
    assert_eq!(stream.answer().status, 500);
    assert_eq!(counted(&host, "aoai.no_retry.unknown_operation"), 1);
}
