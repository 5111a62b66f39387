//! Errors whose body stalls, breaks off, or has no end.

use std::io;
use std::time::{Duration, Instant};

use e2e::{
    cases, chat_request, east_and_west, parallel, simulate, Ending, Engine, Gateway, Response,
};
use serde_json::json;
use simulator::{Behaviour, Break, Failure, Simulator, SlowBody};

const SECOND: Duration = Duration::from_secs(1);
/// The filter awaits an error's body for two seconds. Then the next backend answers, or the client gets the error. The
/// rest is time for a busy machine.
const DECIDED: Duration = Duration::from_millis(3900);

/// Statuses, and whether the status alone sends a request to another backend.
const STATUSES: [(u16, bool); 7] = [
    (401, true),
    (403, false),
    (404, false),
    (408, true),
    (429, true),
    (500, true),
    (503, true),
];

/// The faults of an error's body.
const BODIES: [&str; 9] = [
    "nothing",
    "stalled",
    "stalled-chunked",
    "almost",
    "reset",
    "closed",
    "slow",
    "endless",
    "large-endless",
];

fn pace(body: &str) -> SlowBody {
    let fast = SlowBody {
        interval_ms: 0,
        ..SlowBody::default()
    };
    let breaking = |after, how| SlowBody {
        break_after: Some(after),
        how,
        ..fast.clone()
    };
    match body {
        "nothing" => breaking(0, Break::Silence),
        "stalled" => breaking(9, Break::Silence),
        "stalled-chunked" => SlowBody {
            chunked: true,
            ..breaking(9, Break::Silence)
        },
        "almost" => breaking(99, Break::Silence),
        "reset" => breaking(50, Break::Reset),
        "closed" => breaking(50, Break::Close),
        "slow" => SlowBody {
            piece: 1,
            interval_ms: 100,
            ..fast
        },
        "endless" => SlowBody {
            piece: 1,
            interval_ms: 20,
            endless: true,
            ..fast
        },
        _ => SlowBody {
            piece: 100,
            interval_ms: 1,
            endless: true,
            ..fast
        },
    }
}

/// `east`, which is preferred and answers as a request's path says, and `west`, which serves.
fn stalling() -> Simulator {
    let azure = simulate(&["east", "west"]);
    let mut behaviours = Vec::new();
    for (status, _) in STATUSES {
        for body in BODIES {
            let behaviour = Behaviour::error(Failure::paced(status, pace(body)));
            let path = format!("/{status}-{body}/");
            behaviours.push(behaviour.on_path(&path).times(1_000_000));
        }
    }
    azure.backend("east").queue(behaviours);
    azure
}

fn gateway(azure: &Simulator, engine: Engine, http2: bool) -> Gateway {
    let mut gateway = Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .log_level("info")
        .first_backend_first();
    if http2 {
        gateway = gateway.http2_to_backends();
    }
    let gateway = gateway.start();
    // Envoy has shown a held answer's body to this worker, so the worker knows that it does.
    assert_eq!(
        ask(&gateway, 404, "slow").map(|answer| answer.status).ok(),
        Some(404)
    );
    gateway
}

fn ask(gateway: &Gateway, status: u16, body: &str) -> io::Result<Response> {
    let chat = chat_request().deployment(&format!("{status}-{body}"));
    let client = gateway.client().give_up_after(8 * SECOND);
    let mut stream = client.stream("POST", &chat.path, &[], &chat.bytes())?;
    // An answer that is longer than errors are passes while it arrives, and its client waits for its end.
    let parts = if body == "large-endless" {
        50
    } else {
        usize::MAX
    };
    let mut bytes = Vec::new();
    for part in stream.by_ref().take(parts) {
        bytes.extend(part.bytes);
    }
    Ok(Response {
        status: stream.status,
        headers: stream.headers.clone(),
        body: bytes,
        trailers: stream.trailers(),
        ending: stream.ending().cloned().unwrap_or(Ending::Complete),
        elapsed: stream.started.elapsed(),
    })
}

/// Whether the client got the right answer: the next backend's, or the error as far as it was received.
fn is_right(engine: Engine, case: &Case, answer: &Response) -> bool {
    let is_broken = matches!(case.body, "reset" | "closed");
    let is_right = match answer.status {
        // When the connection breaks, Envoy replaces an answer that the listener's filter holds by its own, which no
        // filter sees.
        502 | 503 if engine == Engine::Filter && is_broken => true,
        200 => case.is_retried || is_broken,
        status => status == case.status && !case.is_retried,
    };
    is_right && answer.ending == Ending::Complete && answer.elapsed < DECIDED
}

struct Case {
    status: u16,
    is_retried: bool,
    body: &'static str,
}

fn all_cases(http2: bool) -> Vec<Case> {
    // Over HTTP/2 a reset would end the connection of all other requests.
    let bodies = || BODIES.into_iter().filter(|body| !http2 || *body != "reset");
    let cases = STATUSES.into_iter().flat_map(|(status, is_retried)| {
        bodies().map(move |body| Case {
            status,
            is_retried,
            body,
        })
    });
    cases.collect()
}

fn decides(engine: Engine, http2: bool) {
    let azure = stalling();
    let gateway = gateway(&azure, engine, http2);
    let all = all_cases(http2);
    // A worker's first stall is treated like later ones.
    for round in 0..2 {
        let wrong = parallel(all.len(), |n| {
            let case = &all[n];
            let what = match ask(&gateway, case.status, case.body) {
                Ok(answer) if is_right(engine, case, &answer) => return None,
                Ok(answer) => format!(
                    "{}, {:?} after {:?}: {}",
                    answer.status,
                    answer.ending,
                    answer.elapsed,
                    answer.text()
                ),
                Err(error) => error.to_string(),
            };
            Some(format!("{} {}: {what}", case.status, case.body))
        });
        let wrong: Vec<_> = wrong.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "round {round}: {wrong:#?}");
    }
    gateway.assert_unharmed();
    gateway.assert_quiet_within(5 * SECOND);
}

cases! {
    fn case_37_an_error_that_stalls_is_decided_over_http_1(engine) {
        decides(engine, false);
    }

    fn case_37_an_error_that_stalls_is_decided_over_http_2(engine) {
        decides(engine, true);
    }

    fn case_37_the_wait_of_a_stalled_429_counts(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        azure.backend("east").set(Behaviour::stalled(429).with_header("retry-after", "4"));
        let east = azure.backend("east");
        let before = east.count();
        while east.count() == before {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        let stalled = Instant::now();
        east.clear();
        while stalled.elapsed() < 2 * SECOND {
            let answer = gateway.chat(&chat_request());
            assert_eq!((answer.status, answer.header("x-sim-backend")), (200, Some("west")));
        }
        gateway.wait_for(
            |g| g.chat(&chat_request()).header("x-sim-backend") == Some("east"),
            4 * SECOND,
            "the wait to end",
        );
    }

    fn stalled_headers_end_with_the_per_try_timeout(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| {
                p["cooldown"] = json!(null);
                p["backends"][1]["priority"] = json!(1);
                p["retry"]["per_try_timeout"] = json!("1s");
            })
            .start();
        for (how, longest) in [(Break::Silence, 2 * SECOND), (Break::Reset, SECOND), (Break::Close, SECOND)] {
            azure.backend("east").set(Behaviour::half_head(500, how));
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{how:?}: {}", answer.text());
            assert!(answer.elapsed < longest, "{how:?}: {:?}", answer.elapsed);
        }
        gateway.assert_unharmed();
    }

    fn case_37_if_all_stall_the_client_gets_the_last_error(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["retry"]["per_try_timeout"] = json!("3s")).start();
        for status in [429, 500] {
            for backend in azure.backends() {
                backend.set(Behaviour::stalled(status).with_header("retry-after", "1"));
            }
            let answer = gateway.chat(&chat_request());
            assert_eq!((answer.status, &answer.ending), (status, &Ending::Complete));
            // The filter engine's second attempt is a call, which ends with its time limit.
            assert!(answer.elapsed < 7 * SECOND, "{:?}", answer.elapsed);
        }
    }

    fn the_first_error_of_a_worker_stalls_before_its_body(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::error(Failure::paced(404, pace("nothing"))));
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, &answer.ending), (404, &Ending::Complete));
        assert!(answer.elapsed < DECIDED, "{:?}", answer.elapsed);
    }
}
