//! Protection without outages: the cost of throttling, failures and some clients' bad requests to other clients.

use std::thread;
use std::time::{Duration, Instant};

use e2e::{
    cases, chat_request, east_and_west, load, parallel, simulate, Chat, Gateway, GatewayBuilder,
    Response,
};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator};

const SECOND: Duration = Duration::from_secs(1);

/// More requests than any test sends.
const FOR_GOOD: u32 = 1_000_000;

const THREE: [&str; 3] = ["east", "west", "north"];

/// The time after the start at which a request was sent, and its answer.
type Answered = (Duration, Response);

/// Sends this many requests a second for this long, each at its time, without waiting for the others.
fn at_pace(gateway: &Gateway, per_second: u32, span: Duration, chat: &Chat) -> Vec<Answered> {
    paced(per_second, span, || gateway.chat(chat))
}

fn paced(per_second: u32, span: Duration, send: impl Fn() -> Response + Sync) -> Vec<Answered> {
    let start = Instant::now();
    let requests = (span.as_secs_f64() * f64::from(per_second)) as usize;
    parallel(requests, |turn| {
        let due = SECOND * turn as u32 / per_second;
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        (due, send())
    })
}

/// The answers other than 200, with the time at which their requests were sent.
fn lost(answers: &[Answered]) -> Vec<(Duration, u16, String)> {
    let lost = answers.iter().filter(|(_, answer)| answer.status != 200);
    lost.map(|(due, answer)| (*due, answer.status, answer.text()))
        .collect()
}

/// A chat to the same deployment that backends can distinguish by the mark.
fn marked(mark: &str) -> Chat {
    let mut chat = chat_request();
    chat.path.push_str(&format!("&{mark}=1"));
    chat
}

fn set_all(azure: &Simulator, behaviour: &Behaviour) {
    for backend in azure.backends() {
        backend.set(behaviour.clone());
    }
}

fn clear_all(azure: &Simulator) {
    for backend in azure.backends() {
        backend.clear();
    }
}

fn attempts(answer: &Response) -> &str {
    answer.header("x-aoai-attempts").unwrap_or("none")
}

fn code(answer: &Response) -> String {
    let code = answer.json()["error"]["code"].as_str().map(str::to_owned);
    code.unwrap_or_default()
}

/// The number of requests with this text in their paths that reached a backend.
fn reached(azure: &Simulator, backend: &str, path: &str) -> usize {
    let requests = azure.backend(backend).requests();
    let meant = requests
        .iter()
        .filter(|request| request.path.contains(path));
    meant.count()
}

/// The value of a statistic below `wasmcustom.aoai.`.
fn stat(gateway: &Gateway, name: &str) -> i64 {
    let name = format!("wasmcustom.aoai.{name}");
    gateway.stat(&name).unwrap_or(0)
}

fn cooldown(gateway: GatewayBuilder, rules: Value) -> GatewayBuilder {
    gateway.plugin(move |p| p["cooldown"] = rules)
}

/// A path for embeddings, and chats, with the deployment in the path or in the body.
fn forms() -> [(&'static str, Chat); 2] {
    let dated = "/openai/deployments/embed/embeddings?api-version=2024-10-21";
    [
        (dated, chat_request()),
        ("/openai/v1/embeddings", chat_request().v1()),
    ]
}

fn embed(gateway: &Gateway, path: &str) -> Response {
    gateway.call(
        "POST",
        path,
        &json!({"model": "embed", "input": "some text"}),
    )
}

/// All backends answer 503 for two seconds. Before and after that, answers take `take`. Requests sent before the blip,
/// or more than a second after it, must be served.
fn blip(engine: e2e::Engine, per_second: u32, take: Duration) {
    let azure = simulate(&THREE);
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .workers(2)
        .start();
    let usual = Behaviour::normal().after_ms(take.as_millis() as u64);
    set_all(&azure, &usual);
    let answers = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(SECOND);
            set_all(&azure, &Behaviour::status(503));
            thread::sleep(2 * SECOND);
            set_all(&azure, &usual);
        });
        at_pace(&gateway, per_second, 7 * SECOND, &chat_request())
    });
    let lost = lost(&answers);
    assert!(!lost.is_empty(), "there was a blip");
    for (due, status, text) in &lost {
        let during = Duration::from_millis(900)..4 * SECOND;
        assert!(during.contains(due), "{due:?}: {status} {text}");
    }
    assert_eq!(stat(&gateway, "refused.throttled"), 0);
    assert_eq!(stat(&gateway, "refused.unavailable"), 0);
}

/// Every backend answers one client's requests like this. All requests of another client must be served.
fn poison(engine: e2e::Engine, refusal: Behaviour) {
    for names in [&THREE[..2], &THREE[..]] {
        let azure = simulate(names);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .start();
        gateway.warm_up(&azure);
        set_all(&azure, &refusal.clone().on_path("poison"));
        let answers = parallel(2, |client| match client {
            0 => at_pace(&gateway, 4, 6 * SECOND, &marked("poison")),
            _ => at_pace(&gateway, 3, 6 * SECOND, &chat_request()),
        });
        assert_eq!(lost(&answers[0]).len(), 24);
        assert_eq!(lost(&answers[1]), [], "of {} backends", names.len());
    }
}

/// A single backend answers one client's requests with 429, and the filter knows the clients' names.
fn known_poison(engine: e2e::Engine) {
    let azure = simulate(&["east"]);
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .workers(2)
        .plugin(|p| p["headers"] = json!({"client": "x-aoai-client"}))
        .start();
    gateway.warm_up(&azure);
    set_all(&azure, &Behaviour::throttled(10).on_path("poison"));
    let send = |per_second, name, chat: &Chat| {
        paced(per_second, 5 * SECOND, || {
            let headers = [
                ("content-type", "application/json"),
                ("x-aoai-client", name),
            ];
            let client = gateway.client();
            let answer = client.send("POST", &chat.path, &headers, &chat.bytes());
            answer.expect("an answer")
        })
    };
    let answers = parallel(2, |client| match client {
        0 => send(4, "app-1", &marked("poison")),
        _ => send(3, "app-2", &chat_request()),
    });
    assert_eq!(lost(&answers[0]).len(), 20);
    assert_eq!(lost(&answers[1]), []);
}

/// A backend's answers to many requests: of a hundred, 30 are throttled and 7 fail.
fn at_random(seed: u64) -> Vec<Behaviour> {
    let mut state = seed;
    let next = |state: &mut u64| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % 100
    };
    let behaviours = (0..2_000).map(|_| match next(&mut state) {
        0..30 => Behaviour::throttled(1),
        30..37 => Behaviour::internal_error(),
        _ => Behaviour::normal(),
    });
    behaviours.collect()
}

/// The cooldowns that the module has logged after failures of a backend, in milliseconds.
fn waits(gateway: &Gateway, backend: &str) -> Vec<u64> {
    let log = gateway.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(&format!("backend {backend}: too many failures")));
    let waits = lines.map(|line| {
        let wait = line.rsplit("no requests for ").next().unwrap();
        let seconds: f64 = wait
            .trim_end()
            .trim_end_matches('s')
            .parse()
            .unwrap_or_else(|_| panic!("{line}"));
        (seconds * 1000.0).round() as u64
    });
    waits.collect()
}

cases! {
    fn case_32_throttled_embeddings_stop_no_chat(engine) {
        for workers in [1, 2, 4] {
            for (path, chat) in forms() {
                let azure = simulate(&THREE);
                let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
                gateway.warm_up(&azure);
                set_all(&azure, &Behaviour::throttled(30).on_path("/embeddings"));
                for _ in 0..6 {
                    assert_eq!(embed(&gateway, path).status, 429);
                }
                let answers = parallel(4, |_| (0..15).map(|_| gateway.chat(&chat)).collect::<Vec<_>>());
                for answer in answers.iter().flatten() {
                    assert_eq!((answer.status, attempts(answer)), (200, "1"), "{}", answer.text());
                }
                for name in THREE {
                    let chats = reached(&azure, name, "/chat/");
                    assert!(chats >= 15, "{workers} workers, {path}: {name} got {chats}");
                }
                // A trial a second goes to each backend.
                gateway.wait_for(|gateway| attempts(&embed(gateway, path)) == "0", 10 * SECOND, "all to be throttled");
                let start = Instant::now();
                let asked = || THREE.map(|name| reached(&azure, name, "/embeddings")).iter().sum::<usize>();
                let before = asked();
                let refused: Vec<_> = (0..30).map(|_| embed(&gateway, path)).collect();
                assert!(refused.iter().all(|answer| answer.status == 429));
                let trials = asked() - before;
                let most = 3 * (1 + start.elapsed().as_secs() as usize);
                assert!(trials <= most, "{trials} embeddings reached backends, {most} may");
                let own = refused.iter().find(|answer| attempts(answer) == "0").unwrap();
                assert_eq!(code(own), "all_backends_throttled");
                let wait: u32 = own.header("retry-after").unwrap().parse().unwrap();
                assert!((25..=30).contains(&wait), "{wait}");
            }
        }
    }

    fn case_32_remaining_tokens_are_counted_by_deployment(engine) {
        for (path, chat) in forms() {
            let (azure, gateway) = east_and_west(engine);
            let gateway = gateway.plugin(|p| p["policy"] = json!("least_throttled")).start();
            let left = |tokens, path| {
                let behaviour = Behaviour::normal_with(&[("x-ratelimit-remaining-tokens", tokens)]);
                behaviour.on_path(path).times(FOR_GOOD)
            };
            azure.backend("east").queue(vec![left("9000", "/chat/"), left("1000", "/embeddings")]);
            azure.backend("west").queue(vec![left("1000", "/chat/"), left("9000", "/embeddings")]);
            let send = |requests| {
                for _ in 0..requests {
                    assert_eq!(gateway.chat(&chat).status, 200);
                    assert_eq!(embed(&gateway, path).status, 200);
                }
            };
            send(20);
            azure.backends().iter().for_each(|backend| backend.clear_requests());
            send(100);
            for (path, share) in [("/chat/", 90), ("/embeddings", 10)] {
                let served = reached(&azure, "east", path);
                assert!(served.abs_diff(share) <= 8, "{path}: {served} of 100 by east");
            }
        }
    }

    fn case_33_a_request_that_all_refuse_binds_others_for_a_second(engine) {
        for workers in [1, 2, 4] {
            for names in [&THREE[..1], &THREE[..]] {
                let azure = simulate(names);
                let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
                gateway.warm_up(&azure);
                set_all(&azure, &Behaviour::throttled(60).on_path("flex"));
                assert_eq!(gateway.chat(&marked("flex")).status, 429);
                let answers = at_pace(&gateway, 20, 2 * SECOND, &chat_request());
                for (due, status, text) in lost(&answers) {
                    let who = format!("{} backends, {workers} workers", names.len());
                    assert!(names.len() == 1 && due < SECOND, "{who}, {due:?}: {status} {text}");
                }
                // Another such request keeps nobody out.
                assert_eq!(gateway.chat(&marked("flex")).status, 429);
                let result = load(&gateway, 4, 40, &chat_request());
                assert_eq!(result.status(200), 40, "{result:?}");
            }
        }
    }

    fn case_33_a_request_too_large_for_any_quota_stops_no_small_one(engine) {
        let azure = simulate(&THREE);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        set_all(&azure, &Behaviour::throttled(60).on_path("large"));
        for _ in 0..6 {
            assert_eq!(gateway.chat(&marked("large").padded(200_000)).status, 429);
            let answers = parallel(4, |_| gateway.chat(&chat_request()));
            assert!(answers.iter().all(|answer| answer.status == 200));
        }
    }

    fn case_58_cooldowns_that_are_over_refuse_no_one(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&THREE);
            let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"failing": "1s"}))
                .engine(engine)
                .workers(workers)
                .start();
            for (behaviour, state) in [(Behaviour::throttled(3), 1), (Behaviour::status(503), 2)] {
                set_all(&azure, &behaviour);
                let down = |gateway: &Gateway| {
                    load(gateway, 4, 8, &chat_request());
                    THREE.iter().all(|name| stat(gateway, &format!("backend.{name}.state")) == state)
                };
                gateway.wait_for(down, 10 * SECOND, "every backend to be in cooldown");
                clear_all(&azure);
                // No client sends requests meanwhile.
                gateway.wait_for(
                    |g| THREE.iter().all(|name| stat(g, &format!("backend.{name}.cooldown_seconds")) == 0),
                    10 * SECOND,
                    "every cooldown to be over",
                );
                let answers = parallel(16, |_| gateway.chat(&chat_request()));
                for answer in &answers {
                    assert_eq!((answer.status, attempts(answer)), (200, "1"), "{}", answer.text());
                }
            }
        }
    }

    fn case_59_a_blip_costs_its_own_requests_where_answers_take_2s(engine) {
        blip(engine, 10, 2 * SECOND);
    }

    fn case_59_a_blip_costs_its_own_requests_where_answers_take_15s(engine) {
        blip(engine, 5, 15 * SECOND);
    }

    fn case_60_a_client_whose_requests_fail_costs_others_nothing(engine) {
        poison(engine, Behaviour::internal_error());
    }

    fn case_60_a_client_that_is_throttled_costs_others_nothing(engine) {
        poison(engine, Behaviour::throttled(10));
    }

    fn case_60_a_known_client_is_throttled_on_the_only_backend(engine) {
        known_poison(engine);
    }

    fn case_61_a_backend_that_refuses_every_token_is_misconfigured(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            gateway.warm_up(&azure);
            azure.backend("east").set(Behaviour::unauthorized_token());
            let result = load(&gateway, 1, 20, &chat_request());
            assert_eq!(result.status(200), 20, "{result:?}");
            // The first request carries both tokens, and the second one the new token.
            assert_eq!(azure.backend("east").count(), 3, "{workers} workers");
            for (name, value) in [("state", 3), ("cooldowns.misconfigured", 1)] {
                let name = format!("backend.east.{name}");
                gateway.wait_for(|g| stat(g, &name) == value, 5 * SECOND, &name);
            }
        }
    }

    fn case_62_refusals_at_random_cost_few_requests(engine) {
        let azure = simulate(&["east", "west", "north", "south"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| p["retry"]["max_attempts"] = json!(4))
            .engine(engine)
            .workers(2)
            .start();
        for (seed, backend) in azure.backends().iter().enumerate() {
            backend.queue(at_random(seed as u64 + 1));
        }
        let answers = at_pace(&gateway, 20, 10 * SECOND, &chat_request());
        let lost = lost(&answers);
        // Without any memory, two of a hundred requests meet four refusals.
        assert!(lost.len() <= 10, "{} of 200: {lost:?}", lost.len());
    }

    fn case_64_two_envoys_do_not_probe_at_the_same_time(engine) {
        let azure = simulate(&["bad", "good"]);
        azure.backend("bad").set(Behaviour::status(503));
        let rules = json!({"consecutive_failures": 1, "failing": "3s", "longest": "3s"});
        let gateways = [(), ()].map(|()| {
            cooldown(Gateway::builder().simulator(&azure), rules.clone()).engine(engine).start()
        });
        // Three cooldowns, each of the longest duration.
        let start = Instant::now();
        parallel(2, |which| {
            let gateway = &gateways[which];
            while waits(gateway, "bad").len() < 3 {
                assert!(start.elapsed() < 20 * SECOND, "no probe");
                assert_eq!(gateway.chat(&chat_request()).status, 200);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let waits = [0, 1].map(|which: usize| waits(&gateways[which], "bad"));
        for wait in waits.iter().flatten() {
            assert!((2_400..=3_000).contains(wait), "{wait}");
        }
        let apart = waits[0].iter().zip(&waits[1]).any(|(one, other)| one.abs_diff(*other) > 20);
        assert!(apart, "{waits:?}");
    }
}
