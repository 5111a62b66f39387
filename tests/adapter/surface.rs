//! Further parts of Azure OpenAI's API: names in bodies, APIs that only some backends have, and several identities.

use azure_openai_balancer::core::state::ids::Tag;
use mock_host::{Headers, Setup};
use serde_json::{json, Value};

use super::budget::host_calls;
use super::engines::*;

/// The tag of a backend's objects.
pub(crate) fn tag(name: &str) -> String {
    Tag::of(format!("{name}.openai.azure.com").as_str())
        .as_str()
        .to_owned()
}

/// The request at the backend: cluster, path, body. Its length was announced.
pub(crate) fn reached(attempt: &Attempt) -> (String, String, String) {
    let message = attempt.sent().expect("it left");
    let header = |name| message.headers.get(name).unwrap_or_default().to_owned();
    let body = message.text().to_owned();
    if !body.is_empty() {
        assert_eq!(header("content-length"), body.len().to_string());
    }
    (attempt.cluster(), header(":path"), body)
}

/// This many backends, edited.
fn backends(count: usize, edit: impl FnOnce(&mut Value)) -> Value {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(count);
    edit(&mut config["backends"]);
    json!({"backends": config["backends"]})
}

/// Three backends with names of their own. The second one has no others.
pub(crate) fn aliased() -> Value {
    backends(3, |backends| {
        backends[0]["deployments"] = json!({"gpt": "gpt-4o-east"});
        backends[1]["deployments"] = json!({"gpt": "g"});
        backends[1]["unlisted_deployments"] = json!("refuse");
    })
}

pub(crate) const V1_CHAT: &str = "/openai/v1/chat/completions";

/// Answers the fetch for the identity whose token service is `imds2`.
fn give_second_identity_its_token(gateway: &Gateway) {
    let mut calls = gateway.vm.calls().into_iter();
    let fetch = calls.find(|call| call.cluster == "imds2").unwrap();
    let token = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
    gateway.vm.answer(&fetch, 200, [], token);
}

cases! {
    fn the_model_in_a_body_is_each_backends_own_name(engine) {
        let gateway = engine.fleet(3, aliased());
        let body = r#"{"messages":[{"model":"gpt","n":1.0}],"model" : "gpt"}"#;
        let request = gateway.ask("POST", V1_CHAT, body);
        let named = |own: &str| body.replace(r#": "gpt""#, &format!(r#": "{own}""#));
        for (cluster, own) in [(EAST, "gpt-4o-east"), (WEST, "g"), (NORTH, "gpt")] {
            let attempt = request.attempt();
            assert_eq!(
                reached(&attempt),
                (cluster.into(), V1_CHAT.into(), named(own))
            );
            answer(&attempt, 500, "x");
        }
        assert_eq!(outcome(&request), is(500, "north", "3", "x"));
    }

    fn a_backend_without_the_model_is_not_asked(engine) {
        let gateway = engine.fleet(3, aliased());
        let mut asked = Vec::new();
        for _ in 0..6 {
            let request = gateway.ask("POST", V1_CHAT, r#"{"model":"other"}"#);
            let (cluster, _, body) = reached(&request.attempt());
            assert_eq!(body, r#"{"model":"other"}"#);
            asked.push(cluster);
            answer(&request.attempt(), 200, "fine");
        }
        asked.sort();
        assert_eq!(asked, [EAST, EAST, EAST, NORTH, NORTH, NORTH]);
    }

    fn a_body_that_is_not_json_is_left_to_the_backend(engine) {
        let gateway = engine.fleet(3, aliased());
        let body = r#"{"model":"gpt""#;
        let (_, _, sent) = reached(&gateway.ask("POST", V1_CHAT, body).attempt());
        assert_eq!(sent, body);
    }

    fn the_model_in_a_form_is_each_backends_own_name(engine) {
        let gateway = engine.fleet(3, aliased());
        let body = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt\r\n--B\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\0\x01model\r\n--B--\r\n";
        let path = "/openai/v1/audio/transcriptions";
        let headers = request_of("POST", path, body);
        let headers = headers.replaced("content-type", "multipart/form-data; boundary=B");
        let request = gateway.request(headers, false);
        request.body(body, true);
        let (_, _, sent) = reached(&request.attempt());
        assert_eq!(sent, body.replace("gpt", "gpt-4o-east"));
    }

    fn a_large_body_passes_as_soon_as_its_model_is_known(engine) {
        let gateway = engine.fleet(3, aliased());
        let head = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt\r\n--B\r\n";
        let headers = request_of("POST", "/openai/v1/audio/transcriptions", "x");
        let headers = headers
            .replaced("content-length", "9000000")
            .replaced("content-type", "multipart/form-data; boundary=B");
        let request = gateway.request(headers, false);
        assert!(request.forwarded().is_none());
        request.body(head, false);
        let forwarded = request.attempt().sent().expect("it left");
        assert_eq!(forwarded.text(), head.replace("gpt", "gpt-4o-east"));
        assert_eq!(forwarded.headers.get("content-length"), Some("9000008"));
        request.body("the file", false);
        let text = request.attempt().sent().unwrap().text().to_owned();
        assert!(text.ends_with("the file"), "{text}");
    }

    fn a_body_that_all_backends_accept_is_not_read(engine) {
        let gateway = engine.fleet(3, json!({}));
        let headers = request_of("POST", V1_CHAT, "x").replaced("content-length", "9000000");
        let request = gateway.request(headers, false);
        assert!(request.forwarded().is_some(), "nothing in it decides");
        gateway.host.clear_counts();
        request.body("much", false);
        let calls = host_calls(&gateway.host);
        assert!(calls.is_empty(), "{calls:?}");
    }

    fn an_api_goes_to_backends_that_have_it(engine) {
        let gateway = engine.fleet(
            2,
            backends(2, |backends| {
                backends[0]["apis"] = json!(["chat", "embeddings"])
            }),
        );
        for _ in 0..4 {
            let request = gateway.ask("POST", "/openai/v1/images/generations", "{}");
            assert_eq!(request.attempt().cluster(), WEST);
            answer(&request.attempt(), 200, "fine");
        }
        let gateway = engine.fleet(1, backends(1, |b| b[0]["apis"] = json!(["chat"])));
        let request = gateway.ask("POST", "/openai/v1/images/generations", "{}");
        assert_eq!(
            (request.answer().status, code(request.answer().text())),
            (404, "api_not_available".into())
        );
        assert_eq!(gateway.counted("aoai.refused.not_served"), 1);
    }

    fn a_region_without_an_api_is_skipped_for_a_while(engine) {
        let gateway = engine.fleet(2, json!({}));
        let body = r#"{"error":{"code":"NotFound","message":"The Images API is not enabled in this region."}}"#;
        let request = gateway.ask("POST", "/openai/v1/images/generations", "{}");
        assert_eq!(request.attempt().cluster(), EAST);
        answer(&request.attempt(), 404, body);
        answer(&request.attempt(), 200, "fine");
        assert_eq!(request.answer().status, 200);
        for _ in 0..3 {
            let request = gateway.ask("POST", "/openai/v1/images/generations", "{}");
            assert_eq!(request.attempt().cluster(), WEST);
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(
            gateway.send().attempt().cluster(),
            EAST,
            "what it has is still asked of it"
        );
        assert!(
            loud(&gateway.host)[0].contains("has no API images"),
            "{:?}",
            loud(&gateway.host)
        );
    }

    fn every_identity_has_a_token_of_its_own(engine) {
        let mut config: Value = serde_json::from_str(&engine.config(3, json!({}))).unwrap();
        config["identities"] = json!({"research": {"cluster": "imds2", "client_id": "r"}});
        config["backends"][1]["identity"] = json!("research");
        let gateway = engine.ready(Setup::new(config.to_string()));
        // One identity has no token yet, so its backend is skipped.
        for expected in [EAST, NORTH, NORTH] {
            let request = gateway.get();
            assert_eq!(request.attempt().cluster(), expected);
            answer(&request.attempt(), 200, "fine");
        }
        give_second_identity_its_token(&gateway);
        let mut shown = Vec::new();
        for _ in 0..3 {
            let request = gateway.get();
            let attempt = request.attempt();
            shown.push((attempt.cluster(), attempt.header("authorization").unwrap()));
            answer(&request.attempt(), 200, "fine");
        }
        shown.sort();
        let bearer = |token: &str| format!("Bearer {token}");
        assert_eq!(
            shown,
            [
                (EAST.to_owned(), bearer(TOKEN)),
                (NORTH.to_owned(), bearer(TOKEN)),
                (WEST.to_owned(), bearer(SECOND_TOKEN)),
            ]
        );
    }

    fn a_request_for_one_backend_waits_for_its_token(engine) {
        let mut config: Value = serde_json::from_str(&engine.config(3, json!({}))).unwrap();
        config["identities"] = json!({"research": {"cluster": "imds2"}});
        config["backends"][1]["identity"] = json!("research");
        let gateway = engine.ready(Setup::new(config.to_string()));
        let path = format!("/openai/v1/responses/resp_1{}", tag("west"));
        let request = gateway.ask("GET", &path, "");
        assert!(request.is_held());
        gateway.host.advance(millis(100));
        give_second_identity_its_token(&gateway);
        assert_eq!(request.attempt().cluster(), WEST);
    }

    fn other_paths_are_refused_or_passed(engine) {
        let gateway = engine.fleet(2, json!({}));
        for path in ["/health", "/openai/../admin", "/openai/%2e%2e/admin"] {
            let request = gateway.ask("GET", path, "");
            let answer = request.answer();
            assert_eq!(
                (answer.status, code(answer.text())),
                (404, "path_not_served".into()),
                "{path}"
            );
            assert!(request.forwarded().is_none() && request.attempts().is_empty());
        }
        assert_eq!(gateway.counted("aoai.refused.not_served"), 3);
        let gateway = engine.fleet(2, json!({"other_paths": "pass"}));
        assert_eq!(
            reached(&gateway.ask("GET", "/health", "").attempt()).1,
            "/health"
        );
        let gateway = engine.fleet(2, json!({"other_paths": ["/providers/"]}));
        let request = gateway.ask("GET", "/providers/x?api-key=KEY&a=b", "");
        assert_eq!(reached(&request.attempt()).1, "/providers/x?a=b");
        for path in ["/health", "/providers/../health"] {
            let request = gateway.ask("GET", path, "");
            assert_eq!(code(request.answer().text()), "path_not_served", "{path}");
        }
        let gateway = engine.fleet(2, json!({"other_paths": "pass"}));
        // A path that is not text cannot be searched for credentials.
        let headers = Headers::from([(":method", "GET")]).with(":path", *b"/h\xe9alth?api-key=KEY");
        let request = gateway.request(headers, true);
        assert_eq!(code(request.answer().text()), "path_not_served");
    }

    fn unknown_operations_are_passed_on_and_not_retried(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.ask("POST", "/openai/v1/novelties", "{}");
        answer(&request.attempt(), 500, "x");
        assert_eq!(request.answer().status, 500);
        assert_eq!(gateway.counted("aoai.no_retry.unknown_operation"), 1);
    }
}
