//! Creations that may have succeeded are not repeated: the failures after which they are retried.

use std::time::Duration;

use e2e::{cases, east_and_west, Engine, Form, Gateway, GatewayBuilder, Response};
use serde_json::{json, Value};
use simulator::{Behaviour, Failure, Simulator};

const SECOND: Duration = Duration::from_secs(1);

fn attempts(answer: &Response) -> &str {
    answer.header("x-aoai-attempts").unwrap_or_default()
}

/// Two backends and a gateway with a short time limit, without cooldowns.
fn forgetful(engine: Engine) -> (Simulator, GatewayBuilder) {
    let (azure, gateway) = east_and_west(engine);
    let gateway = gateway.plugin(|p| {
        p["cooldown"] = Value::Null;
        p["retry"] = json!({"per_try_timeout": "500ms", "budget": null});
        p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt4o-east"});
    });
    (azure, gateway)
}

fn all(azure: &Simulator, behaviour: &Behaviour) {
    for backend in azure.backends() {
        backend.set(behaviour.clone());
    }
}

/// An upload of a file.
fn file(gateway: &Gateway) -> Response {
    let form = Form::new()
        .text("purpose", "batch")
        .file("file", "a.jsonl", &[b'x'; 100_000]);
    gateway.upload("/openai/v1/files", &form)
}

/// A response in the background.
fn background(gateway: &Gateway) -> Response {
    let request = json!({"model": "gpt-4o", "input": "hi", "background": true});
    gateway.call("POST", "/openai/v1/responses", &request)
}

/// A response for which the client waits.
fn foreground(gateway: &Gateway) -> Response {
    let request = json!({"model": "gpt-4o", "input": "hi", "metadata": {"background": true}, "background": false});
    gateway.call("POST", "/openai/v1/responses", &request)
}

/// Creations that go to any backend.
const CREATIONS: [fn(&Gateway) -> Response; 2] = [file, background];

/// Failures after which the backend may have carried out the request, and the status for the client.
fn doubtful() -> Vec<(Behaviour, u16)> {
    let mut failures: Vec<_> = [408, 500, 502, 504]
        .map(|status| (Behaviour::status(status), status))
        .into();
    failures.push((Behaviour::hang(), 504));
    failures.push((Behaviour::reset(), 503));
    failures.push((Behaviour::close(), 503));
    failures
}

cases! {
    fn a_creation_that_may_have_happened_is_not_repeated(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        for (failure, status) in doubtful() {
            all(&azure, &failure);
            for create in CREATIONS {
                let before = azure.upstream_calls();
                let answer = create(&gateway);
                assert_eq!((answer.status, attempts(&answer)), (status, "1"), "{failure:?}: {}", answer.text());
                assert_eq!(azure.upstream_calls(), before + 1, "{failure:?}");
            }
        }
        gateway.wait_for(
            // Two creations for each of four statuses.
            |g| g.stat("wasmcustom.aoai.no_retry.not_repeatable") >= Some(8),
            3 * SECOND,
            "the reason to be counted",
        );
    }

    fn a_creation_without_an_answer_is_counted_as_not_repeatable(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        for (number, failure) in [Behaviour::hang(), Behaviour::reset(), Behaviour::close()].into_iter().enumerate() {
            all(&azure, &failure);
            file(&gateway);
            gateway.wait_for(
                |g| g.stat("wasmcustom.aoai.no_retry.not_repeatable") == i64::try_from(number + 1).ok(),
                3 * SECOND,
                &format!("the reason to be counted after {failure:?}"),
            );
        }
    }

    fn creations_of_every_kind_are_attempted_once(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        all(&azure, &Behaviour::status(502));
        for (path, body) in [
            ("/openai/v1/batches", json!({"input_file_id": "file-1"})),
            ("/openai/batches?api-version=2024-10-21", json!({"input_file_id": "file-1"})),
            ("/openai/v1/fine_tuning/jobs", json!({"model": "m", "training_file": "file-1"})),
            ("/openai/v1/threads", json!({})),
            ("/openai/v1/threads/runs", json!({"assistant_id": "asst_1"})),
            ("/openai/v1/threads/thread_1/runs", json!({"assistant_id": "asst_1"})),
            ("/openai/responses?api-version=2024-10-21", json!({"background": true})),
        ] {
            let before = azure.upstream_calls();
            let answer = gateway.call("POST", path, &body);
            assert_eq!((answer.status, attempts(&answer)), (502, "1"), "{path}");
            assert_eq!(azure.upstream_calls(), before + 1, "{path}");
        }
    }

    fn a_refused_creation_goes_to_the_next_backend(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        let region = "Not enabled: the API is not enabled in this region.";
        for failure in [
            Behaviour::throttled(1),
            Behaviour::status(503),
            Behaviour::permission_denied(),
            Behaviour::error(Failure::coded(403, "Forbidden", "Access denied.")),
            Behaviour::error(Failure::coded(404, "NotFound", region)),
            Behaviour::deployment_not_found(),
        ] {
            for create in CREATIONS {
                azure.backend("west").clear();
                azure.backend("east").set(failure.clone());
                let before = azure.upstream_calls();
                let mut numbers = [create(&gateway), create(&gateway)].map(|answer| {
                    assert_eq!((answer.status, answer.header("x-aoai-backend")), (200, Some("west")), "{failure:?}: {}", answer.text());
                    attempts(&answer).to_owned()
                });
                numbers.sort();
                assert_eq!(numbers, ["1", "2"], "{failure:?}");
                assert_eq!(azure.upstream_calls(), before + 3);
            }
        }
    }

    fn a_creation_is_repeated_once_with_a_new_token(engine) {
        for create in CREATIONS {
            let (azure, gateway) = forgetful(engine);
            let gateway = gateway.start();
            assert_eq!(create(&gateway).status, 200);
            azure.imds().revoke_all();
            let answer = create(&gateway);
            assert_eq!((answer.status, attempts(&answer)), (200, "2"), "{}", answer.text());
        }
    }

    fn a_creation_without_a_connection_goes_on_with_every_byte(engine) {
        let (azure, gateway) = forgetful(engine);
        // On a busy machine, the simulator needs some time for two megabytes.
        let gateway = gateway.plugin(|p| p["retry"]["per_try_timeout"] = json!("30s")).start();
        assert_eq!(file(&gateway).status, 200, "the token is there");
        azure.backend("east").stop();
        let content: Vec<u8> = (0..=255_u8).cycle().take(2_000_000).collect();
        let form = Form::new().text("purpose", "batch").file("file", "a.jsonl", &content);
        for _ in 0..2 {
            let answer = gateway.upload("/openai/v1/files", &form);
            assert_eq!((answer.status, answer.header("x-aoai-backend")), (200, Some("west")), "{}", answer.text());
            let received = azure.backend("west").requests().pop().unwrap();
            assert_eq!(received.body_len, form.bytes().len() as u64);
            assert_eq!(answer.json()["bytes"], content.len());
            assert_eq!(background(&gateway).status, 200);
        }
    }

    fn a_slow_upload_that_times_out_is_made_once(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        assert_eq!(file(&gateway).status, 200, "the token is there");
        all(&azure, &Behaviour::hang());
        let before = azure.upstream_calls();
        let mut upload = gateway.client().upload("POST", "/openai/v1/files", &[Form::CONTENT_TYPE]).unwrap();
        let form = Form::new().text("purpose", "batch").file("file", "a.jsonl", &[b'x'; 100_000]);
        for piece in form.bytes().chunks(20_000) {
            upload.chunk(piece).unwrap();
            // The client uploads slowly. That alone causes no failure.
            std::thread::sleep(Duration::from_millis(150));
        }
        let answer = upload.finish().unwrap().read_to_end();
        assert_eq!((answer.status, attempts(&answer)), (504, "1"), "{}", answer.text());
        assert_eq!(azure.upstream_calls(), before + 1);
    }

    fn requests_that_create_nothing_are_repeated(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.start();
        for (failure, status) in doubtful() {
            all(&azure, &failure);
            let before = azure.upstream_calls();
            let answer = foreground(&gateway);
            assert_eq!((answer.status, attempts(&answer)), (status, "2"), "{failure:?}: {}", answer.text());
            assert_eq!(azure.upstream_calls(), before + 2, "{failure:?}");
        }
    }

    fn repeat_creations_repeats_them(engine) {
        let (azure, gateway) = forgetful(engine);
        let gateway = gateway.plugin(|p| p["retry"]["repeat_creations"] = json!(true)).start();
        for (failure, status) in doubtful() {
            all(&azure, &failure);
            for create in CREATIONS {
                let answer = create(&gateway);
                assert_eq!((answer.status, attempts(&answer)), (status, "2"), "{failure:?}: {}", answer.text());
            }
        }
        assert_eq!(gateway.settled_stat(&azure, "no_retry.not_repeatable"), 0);
    }
}
