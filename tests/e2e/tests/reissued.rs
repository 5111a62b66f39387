//! Answers to later attempts reach the client as the backend sent them.

use e2e::{cases, east_and_west, simulate, Gateway, Response};
use serde_json::json;
use simulator::{Behaviour, Simulator};

const PATH: &str = "/openai/v1/models";

/// An answer: the method of its request, its status, headers and body.
struct Shape(
    &'static str,
    u16,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const SHAPES: [Shape; 12] = [
    Shape(
        "GET",
        200,
        &[
            ("x-ms-region", "East US"),
            ("content-type", "application/json"),
            ("set-cookie", "b=2"),
            ("apim-request-id", "1"),
            ("set-cookie", "a=1"),
            ("server", "backend"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("vary", "accept-encoding"),
            ("vary", "origin"),
        ],
        "{}",
    ),
    Shape("GET", 200, &[("x-ms-region", "East US")], "no type"),
    Shape("GET", 200, &[("content-type", "text/html")], ""),
    Shape("GET", 200, &[("etag", "1")], ""),
    Shape("GET", 404, &[], "plain"),
    Shape("GET", 304, &[("etag", "1")], ""),
    Shape(
        "HEAD",
        200,
        &[
            ("content-type", "application/json"),
            ("content-length", "1234"),
        ],
        "",
    ),
    Shape("HEAD", 200, &[("content-length", "99999999")], ""),
    Shape("HEAD", 404, &[("x-ms-region", "East US")], ""),
    Shape("DELETE", 204, &[], ""),
    Shape("DELETE", 204, &[("content-type", "application/json")], ""),
    Shape(
        "DELETE",
        200,
        &[("content-type", "application/json")],
        r#"{"deleted":true}"#,
    ),
];

/// The client's view of an answer, without the backend's name, the number of attempts and the time.
fn lines(answer: &Response) -> Vec<String> {
    let other = ["x-aoai-backend", "x-aoai-attempts", "date"];
    let headers = answer.headers.0.iter();
    let headers = headers.filter(|(name, _)| !other.contains(&name.as_str()));
    let mut lines: Vec<_> = headers
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.push(format!("{} {:?}", answer.status, answer.text()));
    lines
}

/// The answer to a request whose last attempt was on east.
fn ask_east(gateway: &Gateway, azure: &Simulator, method: &str) -> Response {
    azure.backend("east").clear_requests();
    loop {
        let answer = gateway.client().send(method, PATH, &[], b"").unwrap();
        if azure.backend("east").count() > 0 {
            return answer;
        }
    }
}

cases! {
    fn an_answer_to_a_later_attempt_is_as_the_backend_sent_it(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        let bodiless = Behaviour::exact(503, &[], "");
        for Shape(method, status, headers, body) in SHAPES {
            let wanted = Behaviour::exact(status, headers, body);
            azure.backend("west").set(wanted.clone());
            let mut answers = Vec::new();
            for first in [wanted, Behaviour::status(503), bodiless.clone(), Behaviour::reset()] {
                // A documented limit of the filter engine.
                let has_type = headers.iter().any(|(name, _)| *name == "content-type");
                if first == bodiless && !body.is_empty() && !has_type {
                    continue;
                }
                azure.backend("east").set(first);
                answers.push(ask_east(&gateway, &azure, method));
            }
            for later in &answers[1..] {
                assert_eq!(later.header("x-aoai-attempts"), Some("2"));
                assert_eq!(lines(later), lines(&answers[0]), "{method} {status}");
            }
        }
    }

    fn a_kept_answer_is_as_the_backend_sent_it(engine) {
        let azure = simulate(&["east", "west"]);
        let started = |count: usize| {
            Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .plugin(move |p| {
                    p["cooldown"] = json!(null);
                    p["backends"].as_array_mut().unwrap().truncate(count);
                })
                .start()
        };
        let (alone, gateway) = (started(1), started(2));
        azure.backend("west").stop();
        for Shape(method, _, headers, body) in SHAPES {
            azure.backend("east").set(Behaviour::exact(429, headers, body));
            let first = ask_east(&alone, &azure, method);
            // One turn is east's, and the other west's.
            for _ in 0..2 {
                let later = ask_east(&gateway, &azure, method);
                assert_eq!(later.header("x-aoai-attempts"), Some("2"));
                assert_eq!(lines(&later), lines(&first), "{method} {headers:?}");
            }
        }
    }
}
