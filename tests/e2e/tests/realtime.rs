//! Realtime sessions: WebSockets whose backend and credential are chosen once.

use std::net::TcpStream;
use std::time::Duration;

use e2e::{cases, east_and_west, simulate, uneven, Gateway};
use serde_json::{json, Value};
use simulator::{Behaviour, RecordedRequest, Simulator};
use tungstenite::client::IntoClientRequest;
use tungstenite::{client, Error, HandshakeError, Message, WebSocket};

const SECOND: Duration = Duration::from_secs(1);

const PATHS: [&str; 2] = [
    "/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o",
    "/openai/v1/realtime?model=gpt-4o",
];

struct Session {
    socket: WebSocket<TcpStream>,
    /// The backend's first message.
    greeting: Value,
    backend: String,
}

/// Opens a session, or returns the status of the refusal.
fn open(gateway: &Gateway, path: &str) -> Result<Session, u16> {
    let uri = format!("ws://{}{path}", gateway.address());
    let mut request = uri.into_client_request().unwrap();
    for (name, value) in [
        ("api-key", "CLIENT-SECRET"),
        ("authorization", "Bearer CLIENT-SECRET"),
        ("x-api-key", "CLIENT-SECRET"),
        ("cookie", "session=CLIENT-SECRET"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(10 * SECOND)).unwrap();
    match client(request, stream) {
        Ok((mut socket, response)) => {
            let greeting = socket.read().unwrap().into_text().unwrap();
            let backend = response.headers()["x-sim-backend"]
                .to_str()
                .unwrap()
                .to_owned();
            Ok(Session {
                socket,
                greeting: serde_json::from_str(&greeting).unwrap(),
                backend,
            })
        }
        Err(HandshakeError::Failure(Error::Http(refusal))) => Err(refusal.status().as_u16()),
        Err(error) => panic!("{path}: {error}"),
    }
}

/// The requests for sessions at the backends.
fn asked(azure: &Simulator) -> Vec<RecordedRequest> {
    let requests = azure.requests().into_iter();
    requests
        .filter(|request| request.path.contains("/realtime"))
        .collect()
}

cases! {
    fn case_27_a_session_is_opened_in_each_backends_form(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for (path, shown) in PATHS.into_iter().zip([
            [
                ("east", "/openai/realtime?api-version=2024-10-01-preview&deployment=gpt4o-east&x=1"),
                ("west", "/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-4o&x=1"),
                ("north", "/api/projects/contoso/openai/realtime?api-version=2024-10-01-preview&deployment=a-longer-name-in-the-north&x=1"),
            ],
            [
                ("east", "/openai/v1/realtime?model=gpt4o-east&x=1"),
                ("west", "/openai/v1/realtime?model=gpt-4o&x=1"),
                ("north", "/api/projects/contoso/openai/v1/realtime?model=a-longer-name-in-the-north&x=1"),
            ],
        ]) {
            let mut seen = Vec::new();
            for _ in 0..3 {
                let before = asked(&azure).len();
                let mut session = open(&gateway, &format!("{path}&api-key=CLIENT-SECRET&Authorization=Bearer%20CLIENT-SECRET&x=1")).unwrap();
                for word in ["naïve", "again"] {
                    session.socket.send(Message::text(word)).unwrap();
                    assert_eq!(session.socket.read().unwrap().into_text().unwrap().as_str(), word);
                }
                let requests = asked(&azure);
                assert_eq!(requests.len(), before + 1);
                let request = &requests[before];
                assert_eq!(request.service, session.backend);
                let expected = shown.iter().find(|(name, _)| *name == session.backend).unwrap().1;
                assert_eq!(request.path, expected);
                assert!(!format!("{request:?}").contains("CLIENT-SECRET"), "{request:?}");
                let credential = if session.backend == "east" { "key" } else { "valid" };
                assert_eq!(session.greeting["asked"]["credential"], credential);
                assert_eq!(request.header("api-key").is_some(), session.backend == "east");
                assert_eq!((request.header("x-api-key"), request.header("cookie")), (None, None));
                seen.push(session.backend);
            }
            seen.sort();
            assert_eq!(seen, ["east", "north", "west"], "each in its turn");
        }
    }

    fn case_43_a_websocket_for_responses_passes_where_ids_are_plain(engine) {
        let path = "/openai/v1/responses";
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let before = azure.upstream_calls();
        let began = std::time::Instant::now();
        assert_eq!(open(&gateway, path).map(|session| session.backend), Err(426));
        assert!(began.elapsed() < SECOND && azure.upstream_calls() == before, "at once");
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["state"] = json!({"ids": "plain", "home": "west"}))
            .start();
        gateway.warm_up(&azure);
        for _ in 0..2 {
            let mut session = open(&gateway, path).unwrap();
            assert_eq!(session.backend, "west", "with all other responses");
            session.socket.send(Message::text(r#"{"type":"response.create"}"#)).unwrap();
            assert_eq!(session.socket.read().unwrap().into_text().unwrap().as_str(), r#"{"type":"response.create"}"#);
        }
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        assert_eq!(open(&gateway, path).unwrap().backend, "east");
    }

    fn case_42_a_call_is_joined_and_ended_where_it_was_made(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        let calls = "/openai/v1/realtime/calls";
        let mut homes = Vec::new();
        for throttled in [false, false, true] {
            if throttled {
                azure.backend("east").set(Behaviour::throttled(1).times(1));
            }
            let headers = [("content-type", "application/sdp")];
            let made = gateway.client().send("POST", &format!("{calls}?model=gpt-4o"), &headers, b"v=0").unwrap();
            assert_eq!(made.status, 201, "{}", made.text());
            let home = made.header("x-sim-backend").unwrap().to_owned();
            assert!(made.text().contains(&home), "the answer is as it was: {}", made.text());
            let id = made.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
            for _ in 0..2 {
                let session = open(&gateway, &format!("/openai/v1/realtime?call_id={id}")).unwrap();
                assert_eq!(session.backend, home);
            }
            for (verb, status) in [("refer", 200), ("accept", 200), ("hangup", 200), ("hangup", 404)] {
                let done = gateway.call("POST", &format!("{calls}/{id}/{verb}"), &json!({}));
                assert_eq!((done.status, done.header("x-sim-backend")), (status, Some(home.as_str())), "{verb}");
            }
            assert_eq!(open(&gateway, &format!("/openai/v1/realtime?call_id={id}")).map(|it| it.backend), Err(404));
            assert!(azure.requests().iter().all(|request| !request.path.contains(".b")), "no tag goes up");
            homes.push(home);
        }
        assert_ne!(homes[0], homes[1], "calls are dealt out");
        assert_eq!(homes[2], "west", "after the other one refused");
    }

    fn case_42_a_key_for_a_session_works_where_it_was_made(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        let mut homes = Vec::new();
        for _ in 0..2 {
            let made = gateway.call("POST", "/openai/v1/realtime/client_secrets", &json!({"session": {"type": "realtime"}}));
            let home = made.header("x-sim-backend").unwrap().to_owned();
            let key = made.json()["value"].as_str().unwrap().to_owned();
            let authorization = format!("Bearer {key}");
            let headers = [("content-type", "application/sdp"), ("authorization", authorization.as_str())];
            for _ in 0..3 {
                let call = gateway.client().send("POST", "/openai/v1/realtime/calls", &headers, b"v=0").unwrap();
                assert_eq!((call.status, call.header("x-sim-backend")), (201, Some(home.as_str())), "{}", call.text());
                let shown = azure.backend(&home).requests().pop().unwrap();
                let own = key.split(".b").next().unwrap();
                assert_eq!(shown.header("authorization"), Some(format!("Bearer {own}").as_str()));
            }
            let wrong = authorization.replace("ek_", "ek_0");
            let headers = [("authorization", wrong.as_str())];
            for _ in 0..3 {
                let refused = gateway.client().send("POST", "/openai/v1/realtime/calls", &headers, b"v=0").unwrap();
                assert_eq!((refused.status, refused.header("x-aoai-attempts")), (401, Some("1")));
            }
            homes.push(home);
        }
        assert_ne!(homes[0], homes[1], "keys are dealt out");
        let mut serving: Vec<_> = (0..2).map(|_| {
            let chat = gateway.chat(&e2e::chat_request());
            assert_eq!(chat.header("x-aoai-attempts"), Some("1"));
            chat.header("x-sim-backend").unwrap().to_owned()
        }).collect();
        serving.sort();
        assert_eq!(serving, ["east", "west"], "no one is blamed for wrong keys");
    }

    fn case_42_evals_skills_and_sessions_live_on_one_resource(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["state"] = json!({"home": "west"}))
            .start();
        gateway.warm_up(&azure);
        for (collection, at_home) in [("evals", true), ("skills", true), ("dashboard/webhook_endpoints", true), ("live/sessions", false)] {
            let path = format!("/openai/v1/{collection}");
            for _ in 0..2 {
                let made = gateway.call("POST", &path, &json!({"name": "n"}));
                assert_eq!(made.status, 200, "{collection}: {}", made.text());
                let home = made.header("x-sim-backend").unwrap().to_owned();
                assert!(!at_home || home == "west", "{collection}");
                let id = made.json()["id"].as_str().unwrap().to_owned();
                if collection == "evals" {
                    let runs = format!("{path}/{id}/runs");
                    let run = gateway.call("POST", &runs, &json!({"eval_id": id}));
                    let run = run.json()["id"].as_str().unwrap().to_owned();
                    let read = gateway.call("GET", &format!("{runs}/{run}"), &Value::Null);
                    assert_eq!((read.status, &read.json()["id"], &read.json()["eval_id"]), (200, &json!(run), &json!(id)));
                }
                for (method, status) in [("GET", 200), ("DELETE", 200), ("GET", 404)] {
                    let answer = gateway.call(method, &format!("{path}/{id}"), &Value::Null);
                    assert_eq!((answer.status, answer.header("x-sim-backend")), (status, Some(home.as_str())), "{collection} {method}");
                }
            }
        }
    }

    fn case_19_a_session_names_its_deployment_in_any_letters(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for path in ["/openai/realtime?API-Version=2024-10-01-preview&Deployment=GPT-4o", "/openai/v1/realtime?Model=GPT-4O"] {
            for _ in 0..3 {
                let session = open(&gateway, path).unwrap();
                let request = asked(&azure).pop().unwrap();
                let version = if session.backend == "west" { "api-version=2025-04-01-preview" } else { "API-Version=2024-10-01-preview" };
                assert!(path.starts_with("/openai/v1") || request.path.contains(version), "{}", request.path);
                assert_eq!(request.path.to_ascii_lowercase().matches("api-version=").count(), usize::from(!path.contains("/v1/")));
                let name = match session.backend.as_str() {
                    "east" => "gpt4o-east",
                    "north" => "a-longer-name-in-the-north",
                    _ => path.rsplit('=').next().unwrap(),
                };
                assert_eq!(request.path.rsplit('=').next(), Some(name));
                assert_eq!(session.greeting["session"]["model"], name);
            }
        }
    }

    fn case_27_an_open_session_is_not_opened_again(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        for path in PATHS {
            let before = asked(&azure).len();
            let mut session = open(&gateway, path).unwrap();
            azure.backend(&session.backend).stop();
            assert!(session.socket.read().is_err(), "it ends as the backend ended it");
            assert_eq!(asked(&azure).len(), before + 1);
            azure.backend(&session.backend).restart().unwrap();
        }
    }

    fn case_27_a_session_ends_for_both_sides(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        let session = open(&gateway, PATHS[1]).unwrap();
        assert_eq!(azure.backend("east").open_streams(), 1);
        drop(session);
        gateway.wait_for(|_| azure.backend("east").open_streams() == 0, 3 * SECOND, "the backend to notice");
    }

    fn case_27_a_refusal_is_not_retried_and_remembered(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        gateway.warm_up(&azure);
        azure.backend("east").set(Behaviour::throttled(30));
        let outcomes: Vec<_> = (0..6).map(|_| open(&gateway, PATHS[0]).map(|session| session.backend)).collect();
        let refused = outcomes.iter().filter(|outcome| **outcome == Err(429)).count();
        assert_eq!(refused, 1, "{outcomes:?}");
        assert_eq!(asked(&azure).len(), 6);
        azure.backend("west").set(Behaviour::throttled(30));
        assert_eq!(open(&gateway, PATHS[0]).err(), Some(429));
        assert_eq!(asked(&azure).len(), 7);
        // A trial on each backend confirms the refusal.
        for asks in [8, 9, 9, 9] {
            assert_eq!(open(&gateway, PATHS[1]).err(), Some(429));
            assert_eq!(asked(&azure).len(), asks, "then no one is asked");
        }
    }

    fn case_27_a_backend_without_the_realtime_api_is_skipped(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| {
                p["backends"][0]["apis"] = json!(["chat"]);
                p["backends"][1]["deployments"] = json!({"gpt-4o": "gpt-4o"});
                p["backends"][1]["unlisted_deployments"] = json!("refuse");
            })
            .start();
        gateway.warm_up(&azure);
        for path in PATHS {
            for _ in 0..4 {
                let session = open(&gateway, &path.replace("gpt-4o", "rt%20one")).unwrap();
                assert_eq!(session.backend, "north");
                assert_eq!(session.greeting["session"]["model"], "rt one");
                assert_ne!(open(&gateway, path).unwrap().backend, "east");
            }
        }
    }
}
