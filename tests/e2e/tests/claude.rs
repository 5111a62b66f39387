//! Claude on Foundry: Anthropic's Messages API, with the credentials and errors that its clients know.

use e2e::{cases, simulate_with, Engine, Gateway, GatewayBuilder, Response};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator, Stream};

use crate::sdk::python;

const MESSAGES: &str = "/anthropic/v1/messages";
const KEY: &str = "EAST-SECRET";

/// Two resources of Foundry and one of Azure OpenAI. One of Foundry's has a key; the other is a project with its own
/// name for the model.
fn foundry(engine: Engine) -> (Simulator, GatewayBuilder) {
    let azure = simulate_with(&["east", "west", "north"], |settings| {
        if let [east, west, _] = settings.backends.as_mut_slice() {
            east.host = "east.services.ai.azure.com".to_owned();
            east.api_key = Some(KEY.to_owned());
            west.host = "west.services.ai.azure.com".to_owned();
            west.deployments = Some(vec!["sonnet-west".to_owned(), "gpt-4o".to_owned()]);
            west.base_path = "/api/projects/contoso".to_owned();
        }
    });
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .secret("EAST_KEY", KEY)
        .plugin(|p| {
            p["backends"][0]["api_key_env"] = json!("EAST_KEY");
            p["backends"][1]["base_path"] = json!("/api/projects/contoso");
            p["backends"][1]["deployments"] = json!({"claude-sonnet": "sonnet-west"});
        });
    (azure, gateway)
}

fn ask(gateway: &Gateway, path: &str, stream: bool) -> Response {
    let body = json!({
        "model": "claude-sonnet", "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": "hi"}],
    });
    let headers = [
        ("content-type", "application/json"),
        ("anthropic-version", "2023-06-01"),
        ("x-api-key", "CLIENT-SECRET"),
    ];
    let body = body.to_string();
    gateway
        .client()
        .send("POST", path, &headers, body.as_bytes())
        .unwrap()
}

cases! {
    fn case_45_claude_is_balanced_streamed_and_authenticated(engine) {
        let (azure, gateway) = foundry(engine);
        let gateway = gateway.start();
        gateway.warm_up(&azure);
        azure.backends().iter().for_each(|backend| backend.clear_requests());
        for (path, stream) in [(MESSAGES, false), (MESSAGES, true), ("/anthropic/v1/messages/count_tokens", false)] {
            for _ in 0..4 {
                let answer = ask(&gateway, path, stream);
                assert_eq!((answer.status, answer.header("x-aoai-attempts")), (200, Some("1")), "{}", answer.text());
                let received = azure.backend(answer.backend()).requests().pop().unwrap();
                assert_eq!(received.path, path, "a project has no part in it");
                let (key, name) = match answer.backend() {
                    "east" => (Some(KEY), "claude-sonnet"),
                    _ => (None, "sonnet-west"),
                };
                assert_eq!(received.header("x-api-key"), key);
                assert_eq!((received.header("api-key"), received.header("authorization").is_some()), (None, key.is_none()));
                assert_eq!(received.model().as_deref(), Some(name));
                assert!(!format!("{received:?}").contains("CLIENT-SECRET"));
                if stream {
                    let text = answer.text();
                    assert!(text.starts_with("event: message_start\n") && text.contains("event: message_stop\n"), "{text}");
                }
            }
        }
        assert_eq!(["east", "west", "north"].map(|name| azure.backend(name).count()), [6, 6, 0]);
    }

    fn case_45_claude_is_retried_and_still_streams(engine) {
        let (azure, gateway) = foundry(engine);
        // Without cooldowns, requests meet each failure.
        let gateway = gateway.without_cooldowns().start();
        gateway.warm_up(&azure);
        for failure in [Behaviour::status(529), Behaviour::status(503), Behaviour::throttled(1)] {
            azure.backend("west").set(Behaviour::stream(Stream { events: 5, interval_ms: 0, ..Stream::default() }));
            azure.backend("east").set(failure.clone());
            for _ in 0..2 {
                let answer = ask(&gateway, MESSAGES, true);
                assert_eq!((answer.status, answer.backend()), (200, "west"), "{failure:?}");
                assert!(answer.text().contains("event: message_stop"), "{}", answer.text());
            }
        }
    }

    fn case_45_the_anthropic_sdk_works_unchanged(engine) {
        let (azure, gateway) = foundry(engine);
        let gateway = gateway.start();
        gateway.warm_up(&azure);
        let printed = python(&gateway, include_str!("sdk/claude.py"));
        assert_eq!(printed, "['east', 'west']\n['east', 'west']\n");
        azure.backends().iter().for_each(|backend| backend.set(Behaviour::throttled(30)));
        let refused = python(&gateway, include_str!("sdk/claude_refused.py"));
        assert_eq!(refused, "rate_limit_error\n".repeat(5));
        for request in azure.backends().iter().flat_map(|backend| backend.requests()) {
            assert!(!format!("{request:?}").contains("CLIENT-SECRET"));
        }
    }

    fn case_45_the_gateways_errors_have_anthropics_shape(engine) {
        let (azure, gateway) = foundry(engine);
        let gateway = gateway.start();
        gateway.warm_up(&azure);
        let error = |answer: &Response| {
            let body = answer.json();
            assert_eq!(body["type"], "error", "{body}");
            assert!(body["error"]["message"].is_string(), "{body}");
            body["error"]["type"].clone()
        };
        for backend in azure.backends() {
            backend.set(Behaviour::throttled(30));
        }
        let theirs = ask(&gateway, MESSAGES, false);
        assert_eq!((theirs.status, error(&theirs)), (429, json!("rate_limit_error")));
        assert_eq!(theirs.header("x-aoai-attempts"), Some("2"));
        // The filter does not read the models of these requests. One of them may make a trial.
        let ours = (0..5).map(|_| ask(&gateway, MESSAGES, false)).find(|answer| answer.header("x-aoai-attempts") == Some("0"));
        let ours = ours.expect("a refusal of the gateway's own");
        assert_eq!((ours.status, error(&ours)), (429, json!("rate_limit_error")));
        assert!(ours.header("retry-after").is_some());
        let azure = e2e::simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let nowhere = ask(&gateway, MESSAGES, false);
        assert_eq!((nowhere.status, error(&nowhere)), (404, json!("not_found_error")));
        assert_eq!(azure.backend("east").count(), 0);
        let openai: Value = gateway.call("GET", "/other", &Value::Null).json();
        assert_eq!(openai["error"]["code"], "path_not_served");
    }
}
