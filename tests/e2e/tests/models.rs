//! Deployments named in the body: in the v1 API, for responses, and in forms.

use std::time::Duration;

use e2e::{
    cases, east_and_west, simulate, simulate_with, Engine, Form, Gateway, GatewayBuilder, Response,
};
use ring::digest::{digest, SHA256};
use serde_json::{json, Value};
use simulator::{Behaviour, ImdsBehaviour, RecordedRequest, Simulator};

const CHAT: &str = "/openai/v1/chat/completions";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

const DATED: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

/// A stand-in for a compressed body.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff{\"model\":\"gpt-4o\"}\0\xfe";

fn gzipped(gateway: &Gateway, path: &str, content_type: &str, encoding: &str) -> Response {
    let headers = [
        ("content-type", content_type),
        ("content-encoding", encoding),
    ];
    gateway
        .client()
        .send("POST", path, &headers, GZIP)
        .expect("an answer")
}

/// Each backend and its own name for the deployment.
const NAMES: [(&str, &str); 3] = [
    ("east", "gpt4o-east"),
    ("west", "a-longer-name-in-the-west"),
    ("north", "gpt-4o"),
];

/// Three backends, two of which have their own names for deployments, without cooldowns.
fn renaming(engine: Engine) -> (Simulator, GatewayBuilder) {
    let azure = simulate(&NAMES.map(|(backend, _)| backend));
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .plugin(|p| {
            p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt4o-east", "whisper": "w"});
            p["backends"][1]["deployments"] =
                json!({"gpt-4o": "a-longer-name-in-the-west", "whisper": "whisper-in-the-west"});
            p["cooldown"] = Value::Null;
            p["retry"] = json!({"budget": null});
        });
    (azure, gateway)
}

fn last(azure: &Simulator, backend: &str) -> RecordedRequest {
    let requests = azure.backend(backend).requests();
    requests
        .last()
        .cloned()
        .unwrap_or_else(|| panic!("nothing came to {backend}"))
}

/// The backend received exactly this body, with its length announced.
fn assert_received(request: &RecordedRequest, body: &[u8]) {
    let digest: String = digest(&SHA256, body)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let start = String::from_utf8_lossy(&request.body[..request.body.len().min(400)]);
    assert_eq!(request.body_len, body.len() as u64, "{start}");
    assert_eq!(request.body_sha256, digest, "{start}");
    let length = request
        .header("content-length")
        .map(|length| length.parse::<usize>().unwrap());
    assert!(
        length.is_none_or(|length| length == body.len()),
        "{length:?} for {}",
        body.len()
    );
}

/// Sends a body once to each of the three backends, and compares the received bodies. `MODEL` stands for the name.
fn assert_renamed(
    gateway: &Gateway,
    azure: &Simulator,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    names: [(&str, &str); 3],
) {
    let named = |name: &str| -> Vec<u8> {
        let at = body
            .windows(5)
            .position(|five| five == b"MODEL")
            .expect("a place for the name");
        [&body[..at], name.as_bytes(), &body[at + 5..]].concat()
    };
    for backend in azure.backends() {
        backend.set(Behaviour::internal_error());
    }
    let sent = named(names[2].1);
    let answer = gateway.client().send("POST", path, headers, &sent).unwrap();
    assert_eq!(
        (answer.status, answer.header("x-aoai-attempts")),
        (500, Some("3")),
        "{}",
        answer.text()
    );
    for (backend, name) in names {
        assert_received(&last(azure, backend), &named(name));
    }
}

cases! {
    fn a_body_that_waited_for_the_token_is_changed_too(engine) {
        let (azure, gateway) = renaming(engine);
        azure.imds().set(ImdsBehaviour::normal().after_ms(1500));
        let gateway = gateway.start();
        // One body arrives with its headers, and the other in many pieces.
        let large = format!(r#"{{"messages":["{}"],"model":"MODEL"}}"#, "x".repeat(700_000));
        let bodies = [r#"{"model":"MODEL","messages":[]}"#.to_owned(), large];
        let sent = e2e::parallel(6, |number| {
            let body = bodies[number % 2].replace("MODEL", "gpt-4o");
            gateway.client().send("POST", CHAT, JSON, body.as_bytes()).unwrap()
        });
        assert!(sent.iter().all(|answer| answer.status == 200), "{sent:?}");
        assert_eq!(azure.imds().count(), 1);
        for (backend, name) in NAMES {
            let requests = azure.backend(backend).requests();
            assert!(!requests.is_empty(), "nothing came to {backend}");
            for request in requests {
                let of = bodies.iter().map(|body| body.replace("MODEL", name));
                let body = of.into_iter().find(|body| body.len() as u64 == request.body_len);
                assert_received(&request, body.expect("one of the two").as_bytes());
            }
        }
    }

    fn tags_leave_a_body_that_waited_for_the_token(engine) {
        let azure = simulate(&["east", "west"]);
        let id = {
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            let made = gateway.call("POST", "/openai/v1/responses", &json!({"input": "x"}));
            made.json()["id"].as_str().expect("an id").to_owned()
        };
        azure.imds().set(ImdsBehaviour::normal().after_ms(1500));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let next = json!({"input": "x", "previous_response_id": id});
        let answer = gateway.call("POST", "/openai/v1/responses", &next);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn case_19_each_attempt_changes_only_the_model_of_a_json_body(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        let bodies = [
            r#"{"model":"MODEL","messages":[]}"#,
            " {\n  \"messages\" : [ ],\n\t\"model\"\t: \"MODEL\" ,\"stream\":false}\n",
            r#"{"messages":[{"model":"gpt-4o","content":"\"model\":\"gpt-4o\""}],"model":"MODEL"}"#,
            r#"{"metadata":{"model":"gpt-4o"},"tools":[["model","gpt-4o"]],"model":"MODEL","x":{"model":"gpt-4o"}}"#,
            r#"{"mod\u0065l":"MODEL","n":1.50,"big":1e400}"#,
            r#"{"a":"naïve 😀 \ud83d\ude00 \\","model":"MODEL","user":"gpt-4o"}"#,
            r#"{"prompt":"model","model":"MODEL"}"#,
            r#"{"model":"the last one counts","model":"MODEL"}"#,
        ];
        for path in [CHAT, "/openai/v1/embeddings", "/openai/v1/responses", "/openai/responses?api-version=2024-10-21"] {
            for body in bodies {
                assert_renamed(&gateway, &azure, path, JSON, body.as_bytes(), NAMES);
            }
        }
    }

    fn case_19_a_large_body_is_spliced_wherever_its_model_stands(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        let large = "x".repeat(3_000_000);
        for body in [
            format!(r#"{{"model":"MODEL","messages":[{{"content":"{large}"}}]}}"#),
            format!(r#"{{"messages":[{{"content":"{large}"}}],"model":"MODEL"}}"#),
        ] {
            assert_renamed(&gateway, &azure, CHAT, JSON, body.as_bytes(), NAMES);
        }
    }

    fn case_19_an_upload_of_unknown_size_is_spliced_too(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        let body = |name: &str| format!(r#"{{"messages":["{}"],"model":"{name}"}}"#, "x".repeat(5000));
        for _ in 0..3 {
            let mut upload = gateway.client().upload("POST", CHAT, JSON).unwrap();
            for piece in body("gpt-4o").as_bytes().chunks(700) {
                upload.chunk(piece).unwrap();
            }
            let answer = upload.finish().unwrap().read_to_end();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        for (backend, name) in NAMES {
            assert_received(&last(&azure, backend), body(name).as_bytes());
        }
    }

    fn case_19_names_and_paths_are_the_same_in_upper_and_lower_case(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["api_version"] = json!("2025-04-01-preview")).start();
        let names = [NAMES[0], NAMES[1], ("north", "GPT-4o")];
        for body in [r#"{"model":"MODEL","user":"gpt-4o"}"#, "\u{feff}{\"messages\":[],\"model\":\"MODEL\"}"] {
            for path in [CHAT, "/openai/V1/Responses", "/OpenAI/responses?API-Version=2024-10-21"] {
                assert_renamed(&gateway, &azure, path, JSON, body.as_bytes(), names);
            }
        }
        let request = last(&azure, "east");
        assert_eq!(request.path, "/OpenAI/responses?api-version=2025-04-01-preview");
        for backend in azure.backends() {
            backend.set(Behaviour::normal());
        }
        for _ in 0..3 {
            let path = "/OpenAI/Deployments/GPT-4O/Chat/Completions?Api-Version=2024-10-21&x=1";
            let answer = gateway.client().send("POST", path, JSON, b"\xef\xbb\xbf{}").unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let backend = answer.header("x-sim-backend").expect("a backend's own answer");
            let (name, version) = match backend {
                "east" => ("gpt4o-east", "api-version=2025-04-01-preview"),
                "west" => ("a-longer-name-in-the-west", "Api-Version=2024-10-21"),
                _ => ("GPT-4O", "Api-Version=2024-10-21"),
            };
            let request = last(&azure, backend);
            assert_eq!(request.path, format!("/OpenAI/Deployments/{name}/Chat/Completions?{version}&x=1"));
        }
    }

    fn case_44_an_encoded_body_that_must_be_read_is_refused(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        gateway.warm_up(&azure);
        let before = azure.upstream_calls();
        let json = "application/json";
        let refused = [
            (CHAT, json, "gzip"),
            (CHAT, "text/plain", "GZIP"),
            ("/openai/v1/responses", json, "br"),
            ("/openai/responses?api-version=2025-04-01-preview", json, "identity, zstd"),
            ("/openai/v1/batches", json, "deflate"),
            ("/openai/v1/audio/transcriptions", Form::CONTENT_TYPE.1, "gzip"),
        ];
        for (path, content_type, encoding) in refused {
            let answer = gzipped(&gateway, path, content_type, encoding);
            assert_eq!(answer.status, 415, "{path}: {}", answer.text());
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "content_encoding_not_supported");
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(answer.header("accept-encoding"), Some("identity"));
            assert_eq!(answer.header("x-aoai-attempts"), Some("0"));
        }
        assert_eq!(azure.upstream_calls(), before, "no backend was asked");
        gateway.wait_for(
            |gateway| gateway.stat("wasmcustom.aoai.refused.not_served") == Some(refused.len() as i64),
            Duration::from_secs(5),
            "the refusals to be counted",
        );
    }

    fn case_44_an_encoded_body_that_need_not_be_read_passes(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        for path in [CHAT, DATED, "/openai/v1/embeddings"] {
            for encoding in ["gzip", "Br", "gzip, identity"] {
                for backend in azure.backends() {
                    backend.set(Behaviour::internal_error());
                    backend.clear_requests();
                }
                let answer = gzipped(&gateway, path, "application/json", encoding);
                assert_eq!((answer.status, answer.header("x-aoai-attempts")), (500, Some("2")), "{path}");
                for backend in ["east", "west"] {
                    let request = last(&azure, backend);
                    assert_received(&request, GZIP);
                    assert_eq!(request.header("content-encoding"), Some(encoding));
                }
            }
        }
        // The filter reads bodies because a backend lacks a deployment. An encoded body passes unread.
        azure.backend("east").set(Behaviour::deployment_not_found().times(1));
        azure.backend("west").set(Behaviour::normal());
        for _ in 0..2 {
            assert_eq!(gateway.call("POST", CHAT, &json!({"model": "m"})).status, 200);
        }
        let answer = gzipped(&gateway, CHAT, "application/json", "gzip");
        let asked = answer.header("x-sim-backend").expect("a backend's own answer");
        assert_received(&last(&azure, asked), GZIP);
    }

    fn malformed_json_is_left_to_the_backend(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        for body in [
            r#"{"model":"gpt-4o""#,
            r#"{"model":"gpt-4o","messages":[}"#,
            r#"{"model":"gpt-4o"} trailing"#,
            r#"{"model":"gpt-4"#,
            "model=gpt-4o",
            "{\"model\":\"gpt-4o\",\"a\":\"\u{1}\n\"}",
            "[[[[",
        ] {
            let before = azure.upstream_calls();
            let answer = gateway.client().send("POST", CHAT, JSON, body.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.header("x-aoai-attempts")), (400, Some("1")), "{body}");
            assert_eq!(answer.json()["error"]["code"], "BadRequest", "{}", answer.text());
            assert_eq!(azure.upstream_calls(), before + 1);
            let asked = answer.header("x-sim-backend").expect("a backend's own answer");
            assert_received(&last(&azure, asked), body.as_bytes());
        }
    }

    fn a_body_without_a_model_is_passed_on_unchanged(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        for body in ["{}", r#"{"messages":[]}"#, r#"{"model":null}"#, r#"{"model":["gpt-4o"]}"#, ""] {
            let answer = gateway.client().send("POST", "/openai/v1/novelties", JSON, body.as_bytes()).unwrap();
            assert_eq!(answer.status, 404, "no such path there");
            let answer = gateway.client().send("POST", CHAT, JSON, body.as_bytes()).unwrap();
            let asked = answer.header("x-sim-backend").expect("a backend's own answer");
            assert_received(&last(&azure, asked), body.as_bytes());
        }
    }

    fn an_unlisted_model_goes_to_the_other_backends(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| {
                for (index, deployments) in [json!({"gpt-4o": "gpt-4o"}), json!({"gpt-4o": "own", "o3": "o3"})].into_iter().enumerate() {
                    p["backends"][index]["deployments"] = deployments;
                    p["backends"][index]["unlisted_deployments"] = json!("refuse");
                }
            })
            .start();
        let form = |model: &str| Form::new().file("file", "a", b"sound").text("model", model);
        for path in [CHAT, "/openai/v1/responses", "/openai/v1/embeddings"] {
            for _ in 0..4 {
                assert_eq!(gateway.call("POST", path, &json!({"model": "o3"})).status, 200);
            }
        }
        for _ in 0..4 {
            assert_eq!(gateway.upload("/openai/v1/audio/transcriptions", &form("o3")).status, 200);
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (0, 16));
        for _ in 0..4 {
            assert_eq!(gateway.call("POST", CHAT, &json!({"model": "gpt-4o"})).status, 200);
        }
        assert_eq!(azure.backend("east").count(), 2);
        let missing = json!({"model": "nowhere"});
        for answer in [
            gateway.call("POST", CHAT, &missing),
            gateway.call("POST", "/openai/v1/responses", &missing),
            gateway.upload("/openai/v1/audio/transcriptions", &form("nowhere")),
        ] {
            assert_eq!((answer.status, answer.header("x-aoai-attempts")), (404, Some("0")));
            assert_eq!(answer.json()["error"]["code"], "DeploymentNotFound");
        }
        assert_eq!(azure.upstream_calls(), 20, "no one was asked");
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.refused.no_deployment") == Some(3),
            Duration::from_secs(3),
            "the 404s to be counted",
        );
    }

    fn case_19_the_model_of_an_assistant_is_a_deployment_too(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        for path in ["/openai/v1/assistants", "/openai/assistants?api-version=2024-10-21"] {
            let body = json!({"model": "gpt-4o", "name": "gpt-4o"});
            assert_eq!(gateway.call("POST", path, &body).status, 200);
            assert_eq!(last(&azure, "east").model().as_deref(), Some("gpt4o-east"), "{path}");
        }
        for path in ["/openai/v1/threads/runs", "/openai/v1/threads/thread_1/runs"] {
            gateway.call("POST", path, &json!({"assistant_id": "asst_1", "model": "gpt-4o"}));
            assert_eq!(last(&azure, "east").model().as_deref(), Some("gpt4o-east"), "{path}");
        }
    }

    fn a_missing_model_is_remembered_by_the_clients_name(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[0].deployments = Some(vec!["other".to_owned()]);
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["backends"][0]["deployments"] = json!({"gpt-4o": "gone"}))
            .start();
        // Each API has its own memory: a backend may serve a model by one API only.
        for (asked, path) in [(1, CHAT), (2, "/openai/v1/responses")] {
            for _ in 0..6 {
                assert_eq!(gateway.call("POST", path, &json!({"model": "gpt-4o"})).status, 200);
            }
            assert_eq!(azure.backend("east").count(), asked);
        }
        for _ in 0..4 {
            assert_eq!(gateway.call("POST", CHAT, &json!({"model": "other"})).status, 200);
        }
        assert_eq!(azure.backend("east").count(), 4);
    }

    fn case_10_a_missing_model_is_remembered_without_any_names(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[0].deployments = Some(vec!["other".to_owned()]);
        });
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for _ in 0..20 {
            assert_eq!(gateway.call("POST", CHAT, &json!({"model": "gpt-4o"})).status, 200);
        }
        let asked = azure.backend("east").count();
        assert!(asked <= 2, "it was asked {asked} times for what it does not have");
    }

    fn a_v1_body_that_need_not_be_read_is_not_delayed(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        assert_eq!(gateway.call("POST", CHAT, &json!({"model": "m"})).status, 200);
        let before = azure.upstream_calls();
        let mut upload = gateway.client().upload("POST", CHAT, JSON).unwrap();
        // The body is larger than those that the router engine holds for a retry.
        let messages = format!(r#"{{"messages":["{}"],"#, "x".repeat(600_000));
        upload.chunk(messages.as_bytes()).unwrap();
        gateway.wait_for(
            |_| azure.upstream_calls() == before + 1,
            Duration::from_secs(3),
            "the request to be on its way before its body is complete",
        );
        upload.chunk(br#""model":"m"}"#).unwrap();
        assert_eq!(upload.finish().unwrap().read_to_end().status, 200);
    }

    fn case_28_each_attempt_changes_only_the_model_of_a_form(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        let names = [("east", "w"), ("west", "whisper-in-the-west"), ("north", "whisper")];
        let mut sound: Vec<u8> = (0..=255_u8).cycle().take(70_000).collect();
        sound.extend(b"\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--");
        let long: Vec<u8> = sound.iter().copied().cycle().take(2_000_000).collect();
        for form in [
            Form::new().text("model", "MODEL").file("file", "a.wav", &sound),
            Form::new().file("file", "a.wav", &sound).text("language", "whisper").text("model", "MODEL"),
            Form::new().text("model_name", "whisper").text("model", "MODEL").file("model", "model", b"whisper").file("file", "a", b""),
            Form::new().file("file", "long.wav", &long).text("model", "MODEL"),
        ] {
            let path = "/openai/v1/audio/transcriptions";
            assert_renamed(&gateway, &azure, path, &[Form::CONTENT_TYPE], &form.bytes(), names);
        }
    }

    fn case_28_a_broken_form_is_passed_on_unchanged(engine) {
        let (azure, gateway) = renaming(engine);
        let gateway = gateway.start();
        let form = Form::new().text("prompt", "x").text("model", "whisper").bytes();
        for (content_type, body) in [
            ("multipart/form-data", &form[..]),
            ("multipart/form-data; boundary=other", &form[..]),
            (Form::CONTENT_TYPE.1, &form[..100]),
            (Form::CONTENT_TYPE.1, b"no form"),
        ] {
            let path = "/openai/v1/audio/transcriptions";
            let answer = gateway.client().send("POST", path, &[("content-type", content_type)], body).unwrap();
            assert_eq!(answer.status, 400, "{}", answer.text());
            let asked = answer.header("x-sim-backend").expect("a backend's own answer");
            assert_received(&last(&azure, asked), body);
        }
    }
}
