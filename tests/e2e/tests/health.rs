//! Health of backends: shares, cooldowns, recovery, and clients' answers while no backend is available.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e2e::{
    cases, chat_request, east_and_west, load, parallel, simulate, Gateway, GatewayBuilder,
    Response, Update,
};
use serde_json::{json, Value};
use simulator::{Behaviour, Failure, Simulator, Stream};

const SECOND: Duration = Duration::from_secs(1);

/// A placeholder for a date that is known when the test runs.
const IN_A_MINUTE: &str = "in a minute";

fn count(azure: &Simulator, backend: &str) -> u64 {
    azure.backend(backend).count()
}

fn chats(gateway: &Gateway, number: usize) -> Vec<Response> {
    (0..number).map(|_| gateway.chat(&chat_request())).collect()
}

/// The backends that answered, in order.
fn order(answers: &[Response]) -> Vec<&str> {
    let names = answers.iter().map(|answer| answer.header("x-sim-backend"));
    names.map(|name| name.unwrap_or("none")).collect()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.header(name).unwrap_or("missing")
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

fn millis(answer: &Response) -> u64 {
    let text = header(answer, "retry-after-ms");
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// The value of a statistic below `wasmcustom.aoai.`.
fn stat(gateway: &Gateway, name: &str) -> i64 {
    gateway
        .stat(&format!("wasmcustom.aoai.{name}"))
        .unwrap_or(0)
}

fn wait_for_stat(gateway: &Gateway, name: &str, value: i64) {
    gateway.wait_for(
        |g| stat(g, name) == value,
        5 * SECOND,
        &format!("{name} {value}"),
    );
}

/// Waits until this backend answers a request. Returns the time that it took.
fn wait_for_backend(gateway: &Gateway, name: &str, limit: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let answer = gateway.chat(&chat_request());
        if answer.header("x-sim-backend") == Some(name) {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < limit,
            "nothing from {name} within {limit:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a backend serves as many requests as it did before its cooldown.
fn wait_for_recovery(gateway: &Gateway, name: &str) {
    // After a 429 the log names the deployment.
    let says = [
        format!("backend {name}: serves again"),
        format!("backend {name}: serves deployment \"gpt-4o\" again"),
    ];
    let recovers = |gateway: &Gateway| {
        load(gateway, 1, 4, &chat_request());
        says.iter().any(|line| lines(gateway, line) > 0)
    };
    gateway.wait_for(recovers, 15 * SECOND, &says[0]);
}

fn weigh(gateway: GatewayBuilder, field: &'static str, values: &'static [u8]) -> GatewayBuilder {
    gateway.plugin(move |p| {
        for (backend, value) in p["backends"].as_array_mut().unwrap().iter_mut().zip(values) {
            backend[field] = json!(value);
        }
    })
}

fn cooldown(gateway: GatewayBuilder, rules: Value) -> GatewayBuilder {
    gateway.plugin(move |p| p["cooldown"] = rules)
}

fn lines(gateway: &Gateway, text: &str) -> usize {
    gateway
        .log()
        .lines()
        .filter(|line| line.contains(text))
        .count()
}

cases! {
    fn case_01_weights_are_exact_and_interleaved(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = weigh(Gateway::builder().simulator(&azure), "weight", &[3, 2, 1])
                .engine(engine)
                .workers(workers)
                .start();
            let client = gateway.client();
            let chat = chat_request();
            let answers: Vec<_> = (0..600)
                .map(|_| client.send("POST", &chat.path, &[], &chat.bytes()).unwrap())
                .collect();
            let order = order(&answers);
            for (name, share) in [("east", 300), ("west", 200), ("north", 100)] {
                assert_eq!(count(&azure, name), share, "{workers} workers, {name}");
            }
            for three in order.windows(3) {
                assert!(three[0] != three[1] || three[1] != three[2], "{order:?}");
            }
        }
    }

    fn case_02_weights_are_exact_for_sixteen_clients_too(engine) {
        for workers in [2, 4] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = weigh(Gateway::builder().simulator(&azure), "weight", &[3, 2, 1])
                .engine(engine)
                .workers(workers)
                .start();
            let result = load(&gateway, 16, 600, &chat_request());
            assert_eq!(result.status(200), 600, "{result:?}");
            for (name, share) in [("east", 300), ("west", 200), ("north", 100)] {
                assert_eq!(count(&azure, name), share, "{workers} workers, {name}");
            }
        }
    }

    fn case_03_a_lower_priority_serves_if_the_higher_is_unavailable(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["ptu-a", "ptu-b", "paygo"]);
            let gateway = weigh(Gateway::builder().simulator(&azure), "priority", &[0, 0, 1])
                .engine(engine)
                .workers(workers)
                .start();
            assert_eq!(load(&gateway, 4, 40, &chat_request()).status(200), 40);
            assert_eq!((count(&azure, "ptu-a"), count(&azure, "paygo")), (20, 0));
            azure.backend("ptu-a").set(Behaviour::throttled(2));
            assert_eq!(load(&gateway, 4, 40, &chat_request()).status(200), 40);
            assert_eq!(count(&azure, "paygo"), 0, "the other one of priority 0 is there");
            azure.backend("ptu-b").set(Behaviour::throttled(2));
            assert_eq!(load(&gateway, 4, 40, &chat_request()).status(200), 40, "the lower priority serves");
            assert!(count(&azure, "paygo") >= 36, "{}", count(&azure, "paygo"));
            azure.backend("ptu-a").clear();
            azure.backend("ptu-b").clear();
            wait_for_recovery(&gateway, "ptu-a");
            wait_for_recovery(&gateway, "ptu-b");
            let before = count(&azure, "paygo");
            load(&gateway, 4, 40, &chat_request());
            assert_eq!(count(&azure, "paygo"), before, "and stops");
        }
    }

    fn case_04_a_throttled_backend_is_in_cooldown_as_it_asks(engine) {
        for (workers, seconds) in [(1, 7), (2, 3), (4, 3)] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("west").set(Behaviour::throttled(seconds));
            let mut first_refusal = None;
            while first_refusal.is_none() {
                let answer = gateway.chat(&chat_request());
                assert_eq!(answer.status, 200);
                if count(&azure, "west") > 0 {
                    assert_eq!(header(&answer, "x-aoai-attempts"), "2");
                    first_refusal = Some(Instant::now());
                }
            }
            azure.backend("west").clear();
            let start = first_refusal.unwrap();
            while count(&azure, "west") == 1 {
                let result = load(&gateway, 4, 20, &chat_request());
                assert_eq!(result.status(200), 20, "{result:?}");
                assert!(start.elapsed() < Duration::from_secs(seconds + 8), "traffic comes again");
            }
            let asked: Vec<_> = azure.backend("west").requests().iter().map(|request| request.received_at).collect();
            let rest = asked[1] - asked[0];
            let wait = 1000.0 * seconds as f64;
            assert!((wait - 250.0..wait + 3000.0).contains(&rest), "{rest} ms");
            wait_for_recovery(&gateway, "west");
            let before = count(&azure, "west");
            load(&gateway, 4, 30, &chat_request());
            assert_eq!(count(&azure, "west") - before, 10, "it has its share again");
            wait_for_stat(&gateway, "backend.west.cooldowns.throttled", 1);
            wait_for_stat(&gateway, "backend.west.state", 0);
            let probes = gateway.settled_stat(&azure, "backend.west.probes");
            assert!((4..=15).contains(&probes), "1, 2, 4 and 8 at a time: {probes}");
            assert_eq!(lines(&gateway, "backend west: deployment \"gpt-4o\" is throttled (429); no requests for"), 1);
            assert_eq!(lines(&gateway, "backend west: serves deployment \"gpt-4o\" again"), 1);
        }
    }

    fn case_05_every_spelling_of_the_wait_is_understood_and_clamped(engine) {
        for (headers, wait) in [
            (vec![("retry-after-ms", "4500"), ("retry-after", "20")], 4_500),
            (vec![("x-ms-retry-after-ms", "3500")], 3_500),
            (vec![("retry-after", "20")], 20_000),
            (vec![("retry-after", IN_A_MINUTE)], 60_000),
            (vec![("x-ratelimit-reset-requests", "0"), ("x-ratelimit-reset-tokens", "8")], 8_000),
            (vec![("x-ratelimit-reset-tokens", "1m30s")], 90_000),
            (vec![("x-rate-limit-reset-tokens", "6.5")], 6_500),
            (vec![("retry-after", "86400")], 300_000),
            (vec![("retry-after", "0")], 2_000),
            (vec![("retry-after", "-1")], 10_000),
            (vec![("retry-after", "-1"), ("x-ratelimit-reset-tokens", "5s")], 5_000),
            (vec![("retry-after", "soon")], 10_000),
            (vec![], 10_000),
        ] {
            let azure = simulate(&["east"]);
            let gateway = Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .plugin(|p| p["cooldown"] = json!({"shortest": "2s"}))
                .start();
            let date = httpdate::fmt_http_date(SystemTime::now() + 60 * SECOND);
            let headers: Vec<_> = headers
                .into_iter()
                .map(|(name, value)| (name, if value == IN_A_MINUTE { date.as_str() } else { value }))
                .collect();
            azure.backend("east").set(Behaviour::throttled_with(&headers));
            // The second request makes a trial, and its 429 begins the wait again.
            for _ in 0..2 {
                let asked = gateway.chat(&chat_request());
                assert_eq!((asked.status, header(&asked, "x-aoai-attempts")), (429, "1"));
            }
            let refused = gateway.chat(&chat_request());
            assert_eq!((refused.status, header(&refused, "x-aoai-attempts")), (429, "0"), "{headers:?}");
            let left = millis(&refused);
            // A date has whole seconds.
            let tolerance = if wait == 60_000 { 3_000 } else { 900 };
            assert!((wait - tolerance..=wait).contains(&left), "{headers:?}: {left}");
        }
    }

    fn case_06_headers_of_a_success_start_no_cooldown(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::normal_with(&[
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("retry-after", "60"),
            ("retry-after-ms", "60000"),
        ]));
        assert_eq!(load(&gateway, 2, 40, &chat_request()).status(200), 40);
        assert_eq!((count(&azure, "east"), count(&azure, "west")), (20, 20));
        assert_eq!(gateway.settled_stat(&azure, "backend.east.cooldowns.throttled"), 0);
    }

    fn case_07_all_throttled_is_a_429_with_the_shortest_wait(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("east").set(Behaviour::throttled(60));
            azure.backend("west").set(Behaviour::throttled_with(&[("retry-after-ms", "30500")]));
            azure.backend("north").set(Behaviour::throttled(90));
            let first = gateway.chat(&chat_request());
            assert_eq!((first.status, header(&first, "x-aoai-attempts")), (429, "3"));
            assert_eq!(code(&first), "429", "the last real answer");
            assert!(millis(&first) <= 30_500, "but the smallest of all waits");
            // The 429s count in full against one backend. Each other backend gets another request.
            let binding = |gateway: &Gateway| {
                assert_eq!(gateway.chat(&chat_request()).status, 429);
                ["east", "west", "north"].iter().all(|name| stat(gateway, &format!("backend.{name}.state")) == 1)
            };
            gateway.wait_for(binding, 10 * SECOND, "all to be throttled");
            let (start, calls) = (Instant::now(), azure.upstream_calls());
            let result = load(&gateway, 8, 100, &chat_request());
            assert_eq!(result.status(429), 100, "{result:?}");
            assert!(result.within(0.9) < SECOND / 2, "{:?}", result.within(0.9));
            let answer = loop {
                let answer = gateway.chat(&chat_request());
                assert_eq!(answer.status, 429);
                if header(&answer, "x-aoai-attempts") == "0" {
                    break answer;
                }
            };
            let (trials, most) = (azure.upstream_calls() - calls, 3 * (1 + start.elapsed().as_secs()));
            assert!(trials <= most, "{trials} requests left, {most} may");
            let left = millis(&answer);
            assert!((20_000..=30_500).contains(&left), "{left}");
            assert_eq!(header(&answer, "retry-after"), left.div_ceil(1000).to_string());
            assert_eq!(answer.header("x-aoai-backend"), None);
            assert_eq!(header(&answer, "content-type"), "application/json");
            assert_eq!(code(&answer), "all_backends_throttled");
            assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
            let refused = 100 - i64::try_from(most).unwrap();
            gateway.wait_for(|g| stat(g, "refused.throttled") >= refused, 5 * SECOND, "the refusals to be counted");
        }
    }

    fn case_07_the_smallest_wait_ends_first(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("east").set(Behaviour::throttled(60));
            azure.backend("west").set(Behaviour::throttled(3));
            let throttled = |gateway: &Gateway| {
                assert_eq!(gateway.chat(&chat_request()).status, 429);
                ["east", "west"].iter().all(|name| stat(gateway, &format!("backend.{name}.state")) == 1)
            };
            gateway.wait_for(throttled, 10 * SECOND, "both to be throttled");
            azure.backend("west").clear();
            // By a trial, or because its wait is over.
            wait_for_backend(&gateway, "west", 5 * SECOND);
            for answer in chats(&gateway, 20) {
                assert_eq!((answer.status, header(&answer, "x-aoai-backend")), (200, "west"));
            }
        }
    }

    fn case_07_when_all_are_failing_clients_get_a_real_answer(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"consecutive_failures": 1, "failing": "20s"}))
            .engine(engine)
            .start();
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        for answer in chats(&gateway, 20) {
            assert_eq!((answer.status, code(&answer).as_str()), (500, "InternalServerError"));
        }
        assert_eq!(azure.upstream_calls(), 40, "each is asked once");
        wait_for_stat(&gateway, "backend.east.state", 2);
        assert!(stat(&gateway, "backend.east.cooldown_seconds") > 10);
        assert_eq!(gateway.settled_stat(&azure, "refused.unavailable"), 0);
        let panic = stat(&gateway, "backend.east.panic") + stat(&gateway, "backend.west.panic");
        assert!(panic >= 36, "{panic} of 40 attempts on open breakers");
        // The fault is over, and no request waits for the cooldowns.
        azure.backends().iter().for_each(|backend| backend.clear());
        for answer in chats(&gateway, 20) {
            assert_eq!((answer.status, header(&answer, "x-aoai-attempts")), (200, "1"));
        }
    }

    fn case_10_a_missing_deployment_is_not_requested_again(engine) {
        for workers in [1, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("east").set(Behaviour::deployment_not_found().on_path("/gpt-4o/"));
            for _ in 0..10 {
                assert_eq!(gateway.chat(&chat_request()).status, 200);
            }
            assert_eq!((count(&azure, "east"), count(&azure, "west")), (1, 10), "asked once");
            for _ in 0..10 {
                assert_eq!(gateway.chat(&chat_request().deployment("other")).status, 200);
            }
            assert_eq!((count(&azure, "east"), count(&azure, "west")), (6, 15), "any other is");
            wait_for_stat(&gateway, "backend.east.missing_deployments", 1);
            assert_eq!(lines(&gateway, r#"backend east: has no deployment "gpt-4o""#), 1);
            // The only backend that has the deployment is throttled. The client gets that 429, not the other one's 404.
            azure.backend("west").set(Behaviour::throttled(30));
            for expected in ["429", "429", "all_backends_throttled"] {
                let answer = gateway.chat(&chat_request());
                assert_eq!((answer.status, code(&answer).as_str()), (429, expected));
            }
            assert_eq!(gateway.chat(&chat_request().deployment("other")).status, 200);
        }
    }

    fn case_10_a_deployment_of_no_backend_is_always_a_404(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::deployment_not_found());
        }
        for _ in 0..3 {
            let answer = gateway.chat(&chat_request());
            assert_eq!((answer.status, code(&answer).as_str()), (404, "DeploymentNotFound"));
        }
        let hostile = chat_request().deployment("x%0d%0aforged%22");
        assert_eq!(gateway.chat(&hostile).status, 404);
        assert_eq!(lines(&gateway, "backend east: has no deployment"), 2);
    }

    fn case_11_a_backend_that_refuses_the_identity_is_flagged(engine) {
        let firewall = Failure::coded(403, "403", "Access denied due to Virtual Network/Firewall rules.");
        for (workers, refusal) in [(1, Behaviour::permission_denied()), (4, Behaviour::error(firewall))] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("east").set(refusal);
            let result = load(&gateway, 1, 20, &chat_request());
            assert_eq!(result.status(200), 20, "{result:?}");
            assert_eq!((count(&azure, "east"), count(&azure, "west")), (1, 20));
            assert_eq!(azure.imds().count(), 1, "the token stays");
            wait_for_stat(&gateway, "backend.east.state", 3);
            wait_for_stat(&gateway, "backend.east.cooldowns.misconfigured", 1);
            assert_eq!(lines(&gateway, "backend east: denies access to this identity or key"), 1);
        }
    }

    fn case_11_no_client_can_take_a_backend_from_the_others(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        assert_eq!(load(&gateway, 4, 20, &chat_request()).status(200), 20);
        for backend in azure.backends() {
            backend.set(Behaviour::permission_denied().on_path("/fine_tuning/"));
        }
        // The role lets the identity chat, and no more.
        for _ in 0..4 {
            let path = "/openai/fine_tuning/jobs?api-version=2024-10-21";
            let answer = gateway.client().send("GET", path, &[], b"").unwrap();
            assert_eq!((answer.status, code(&answer).as_str()), (401, "PermissionDenied"));
        }
        assert_eq!(load(&gateway, 4, 20, &chat_request()).status(200), 20);
        assert_eq!(gateway.settled_stat(&azure, "backend.east.cooldowns.misconfigured"), 0);
    }

    fn a_403_that_is_about_the_request_closes_no_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::error(Failure::coded(403, "unsupported_region", "Not for you.")));
        let statuses: Vec<u16> = chats(&gateway, 10).iter().map(|answer| answer.status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 5, "{statuses:?}");
    }

    fn five_failures_in_a_row_open_the_breaker_and_one_more_again(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"failing": "1s"}))
                .engine(engine)
                .workers(workers)
                .start();
            azure.backend("east").set(Behaviour::internal_error());
            assert_eq!(load(&gateway, 1, 40, &chat_request()).status(200), 40);
            assert_eq!(count(&azure, "east"), 5, "{workers} workers");
            // The failure is slow, so that requests in between must not be sent there.
            azure.backend("east").set(Behaviour::internal_error().after_ms(700));
            let statuses = parallel(8, |_| {
                let start = Instant::now();
                let mut statuses = Vec::new();
                while start.elapsed() < 2 * SECOND {
                    statuses.push(gateway.chat(&chat_request()).status);
                }
                statuses
            });
            assert!(statuses.iter().flatten().all(|status| *status == 200));
            assert_eq!(count(&azure, "east"), 6, "one at a time, {workers} workers");
            azure.backend("east").clear();
            let rest = wait_for_backend(&gateway, "east", 5 * SECOND);
            assert!(rest > SECOND / 2, "twice as long the second time: {rest:?}");
            wait_for_recovery(&gateway, "east");
            wait_for_stat(&gateway, "backend.east.cooldowns.failing", 2);
            wait_for_stat(&gateway, "backend.east.state", 0);
            let before = count(&azure, "east");
            load(&gateway, 4, 20, &chat_request());
            assert_eq!(count(&azure, "east") - before, 10);
        }
    }

    fn a_success_in_between_ends_the_row_of_failures(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        for _ in 0..3 {
            azure.backend("east").set(Behaviour::internal_error().times(4));
            assert_eq!(load(&gateway, 1, 10, &chat_request()).status(200), 10);
        }
        assert_eq!(count(&azure, "east"), 15);
        assert_eq!(gateway.settled_stat(&azure, "backend.east.cooldowns.failing"), 0);
    }

    fn a_dead_backend_and_a_slow_one_go_into_cooldown(engine) {
        let azure = simulate(&["dead", "slow", "fine"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| {
                p["cooldown"] = json!({"consecutive_failures": 2, "failing": "60s"});
                p["retry"]["per_try_timeout"] = json!("300ms");
            })
            .engine(engine)
            .start();
        azure.backend("dead").stop();
        azure.backend("slow").set(Behaviour::hang());
        assert_eq!(load(&gateway, 1, 12, &chat_request()).status(200), 12);
        // Two requests have failed nowhere else before; others may have. The same holds for the dead backend.
        assert!((2..=4).contains(&count(&azure, "slow")), "{}", count(&azure, "slow"));
        let start = Instant::now();
        for answer in chats(&gateway, 20) {
            assert_eq!((answer.status, header(&answer, "x-aoai-attempts")), (200, "1"));
        }
        assert!(start.elapsed() < 2 * SECOND);
        let failed = |g: &Gateway| stat(g, "backend.dead.outcome.unavailable");
        gateway.wait_for(|g| (2..=4).contains(&failed(g)), 5 * SECOND, "two to four failures of the dead backend");
    }

    fn a_probe_of_a_client_that_leaves_frees_its_place(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"consecutive_failures": 1, "failing": "500ms"}))
            .engine(engine)
            .start();
        azure.backend("east").set(Behaviour::internal_error());
        assert_eq!(load(&gateway, 1, 2, &chat_request()).status(200), 2);
        assert_eq!(count(&azure, "east"), 1);
        azure.backend("east").set(Behaviour::hang());
        let hurried = gateway.client().give_up_after(Duration::from_millis(300));
        let chat = chat_request();
        let deadline = Instant::now() + 5 * SECOND;
        while count(&azure, "east") < 2 {
            assert!(Instant::now() < deadline, "it does not recover");
            let _ = hurried.send("POST", &chat.path, &[], &chat.bytes());
        }
        azure.backend("east").clear();
        // Without word of the disconnection, the next request would be admitted in ten seconds.
        wait_for_backend(&gateway, "east", 3 * SECOND);
    }

    fn a_recovering_backend_that_answers_400_is_healthy(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"consecutive_failures": 1, "failing": "300ms"}))
            .engine(engine)
            .start();
        azure.backend("east").set(Behaviour::internal_error());
        assert_eq!(load(&gateway, 1, 2, &chat_request()).status(200), 2);
        azure.backend("east").set(Behaviour::content_filter());
        wait_for_recovery(&gateway, "east");
        wait_for_stat(&gateway, "backend.east.state", 0);
    }

    fn case_24_cooldowns_survive_a_reload_for_backends_that_stay(engine) {
        for workers in [1, 4] {
            let azure = simulate(&["east", "west", "north"]);
            let mut gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("east").set(Behaviour::throttled(60));
            assert_eq!(load(&gateway, 1, 9, &chat_request()).status(200), 9);
            assert_eq!(count(&azure, "east"), 1);
            let mut changed = gateway.plugin();
            changed["backends"][0]["name"] = json!("eastus");
            changed["backends"][1]["weight"] = json!(2);
            changed["backends"].as_array_mut().unwrap().truncate(2);
            assert_eq!(gateway.update(changed), Update::Accepted);
            let north = count(&azure, "north");
            let result = load(&gateway, 1, 30, &chat_request());
            assert_eq!(result.status(200), 30);
            assert_eq!((count(&azure, "east"), count(&azure, "north")), (1, north), "{result:?}");
        }
    }

    fn case_30_a_storm_stays_within_the_retry_budget(engine) {
        for (workers, forgetful) in [(1, false), (2, true), (4, true)] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = Gateway::builder()
                .simulator(&azure)
                .plugin(move |p| {
                    if forgetful {
                        p["cooldown"] = Value::Null;
                    }
                })
                .engine(engine)
                .workers(workers)
                .start();
            for backend in azure.backends() {
                backend.set(Behaviour::internal_error());
            }
            const THREADS: usize = 16;
            const REQUESTS: u64 = 1500;
            let start = Instant::now();
            parallel(THREADS, |thread| {
                let client = gateway.client();
                let chat = chat_request();
                // 500 in a second, each at its time.
                for turn in (thread as u64..REQUESTS).step_by(THREADS) {
                    let due = start + Duration::from_millis(2 * turn);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let answer = client.send("POST", &chat.path, &[], &chat.bytes()).unwrap();
                    assert!(answer.status >= 500, "{}", answer.status);
                }
            });
            // Breakers may be open, too: when all are, they are ignored.
            let calls = azure.upstream_calls();
            let budget = 100 + REQUESTS / 5 + 10 * (start.elapsed().as_secs() + 1);
            assert!(calls <= REQUESTS + budget, "{calls} calls, budget {budget}");
            assert!(calls >= REQUESTS + budget / 2, "and uses it: {calls} calls");
            gateway.wait_for(|g| stat(g, "no_retry.budget_spent") > 0, 3 * SECOND, "the count");
        }
    }

    fn half_the_backends_throttled_cost_a_handful_of_429s(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["a", "b", "c", "d"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            azure.backend("a").set(Behaviour::throttled(2));
            azure.backend("c").set(Behaviour::throttled(2));
            const CLIENTS: usize = 8;
            let start = Instant::now();
            let served: usize = parallel(CLIENTS, |_| {
                let mut served = 0;
                while start.elapsed() < 7 * SECOND {
                    let answer = gateway.chat(&chat_request());
                    assert_eq!(answer.status, 200, "no client sees a 429");
                    served += 1;
                }
                served
            })
            .into_iter()
            .sum();
            for name in ["a", "c"] {
                // The requests in progress at the beginning, and then a probe every two seconds.
                let refusals = count(&azure, name);
                assert!((2..=CLIENTS as u64 + 3).contains(&refusals), "{refusals} 429s for {served} requests");
            }
            let (b, d) = (count(&azure, "b") as i64, count(&azure, "d") as i64);
            assert!((b - d).abs() <= 1 + served as i64 / 20, "{b} {d}");
        }
    }

    fn a_request_waits_if_wait_timeout_is_long_enough(engine) {
        for workers in [1, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"wait_timeout": "4s"}))
                .engine(engine)
                .workers(workers)
                .start();
            azure.backend("east").set(Behaviour::throttled(2).times(2));
            azure.backend("west").set(Behaviour::throttled(20));
            let chat = chat_request().padded(100_000);
            // A trial on each backend confirms the wait.
            while azure.upstream_calls() < 5 {
                assert_eq!(gateway.chat(&chat).status, 429);
            }
            let answers = parallel(4, |_| gateway.chat(&chat));
            for answer in &answers {
                assert_eq!((answer.status, header(answer, "x-aoai-backend")), (200, "east"));
                assert!(answer.elapsed > SECOND, "{:?}", answer.elapsed);
                assert!(answer.elapsed < 4 * SECOND, "{:?}", answer.elapsed);
            }
            let received = azure.requests();
            let last = received.last().unwrap();
            assert_eq!(last.body, chat.bytes(), "not a byte is lost");
            azure.backend("east").set(Behaviour::throttled(20));
            assert_eq!(gateway.chat(&chat).status, 429);
            let answer = gateway.chat(&chat);
            assert_eq!(answer.status, 429);
            assert!(answer.elapsed < SECOND, "too long to wait for: {:?}", answer.elapsed);
        }
    }

    fn requests_that_wait_go_on_once_a_trial_is_served(engine) {
        for workers in [1, 4] {
            let azure = simulate(&["east"]);
            let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"wait_timeout": "60s"}))
                .engine(engine)
                .workers(workers)
                .start();
            azure.backend("east").set(Behaviour::throttled(30).times(2));
            for answer in chats(&gateway, 2) {
                assert_eq!((answer.status, header(&answer, "x-aoai-attempts")), (429, "1"));
            }
            let answers = parallel(4, |index| {
                if index == 3 {
                    // The next trial is due by then.
                    thread::sleep(Duration::from_millis(1600));
                }
                gateway.chat(&chat_request())
            });
            for answer in &answers {
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(answer.elapsed < 10 * SECOND, "{:?}", answer.elapsed);
            }
            assert_eq!(count(&azure, "east"), 6);
        }
    }

    fn a_client_that_leaves_while_it_waits_is_forgotten(engine) {
        let azure = simulate(&["east"]);
        let gateway = cooldown(Gateway::builder().simulator(&azure), json!({"wait_timeout": "10s"}))
            .engine(engine)
            .start();
        azure.backend("east").set(Behaviour::throttled(2).times(2));
        for answer in chats(&gateway, 2) {
            assert_eq!((answer.status, header(&answer, "x-aoai-attempts")), (429, "1"));
        }
        let chat = chat_request();
        let hurried = gateway.client().give_up_after(Duration::from_millis(300));
        assert!(hurried.send("POST", &chat.path, &[], &chat.bytes()).is_err());
        wait_for_stat(&gateway, "client_gone", 1);
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        assert_eq!(count(&azure, "east"), 3);
    }

    fn backends_may_have_less_time_for_their_first_byte(engine) {
        let azure = simulate(&["slow", "fast"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| {
                for backend in p["backends"].as_array_mut().unwrap() {
                    backend["first_byte_timeout"] = json!("1s");
                }
            })
            .engine(engine)
            .start();
        azure.backend("slow").set(Behaviour::hang());
        azure.backend("fast").set(Behaviour::normal().after_ms(300));
        for answer in chats(&gateway, 4) {
            assert_eq!((answer.status, header(&answer, "x-aoai-backend")), (200, "fast"));
            assert!(answer.elapsed < 3 * SECOND, "{:?}", answer.elapsed);
        }
        assert_eq!(count(&azure, "slow"), 2);
        wait_for_stat(&gateway, "backend.slow.outcome.unavailable", 2);
        assert_eq!(gateway.settled_stat(&azure, "backend.fast.outcome.unavailable"), 0);
    }

    fn an_answer_that_begins_in_time_may_last_long(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| {
                for backend in p["backends"].as_array_mut().unwrap() {
                    backend["first_byte_timeout"] = json!("500ms");
                }
            })
            .engine(engine)
            .start();
        for backend in azure.backends() {
            backend.set(Behaviour::stream(Stream { events: 15, interval_ms: 100, ..Stream::default() }));
        }
        let answer = gateway.chat(&chat_request().streaming());
        assert_eq!((answer.status, header(&answer, "x-aoai-attempts")), (200, "1"));
        assert!(answer.text().trim_end().ends_with("[DONE]"));
        assert!(answer.elapsed > SECOND);
    }

    fn the_backend_with_more_quota_left_gets_more(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| p["policy"] = json!("least_throttled"))
            .engine(engine)
            .start();
        let left = |tokens| Behaviour::normal_with(&[("x-ratelimit-remaining-tokens", tokens)]);
        azure.backend("east").set(left("90000"));
        azure.backend("west").set(left("10000"));
        azure.backend("north").set(left("-1"));
        load(&gateway, 1, 30, &chat_request());
        for backend in azure.backends() {
            backend.clear_requests();
        }
        assert_eq!(load(&gateway, 4, 300, &chat_request()).status(200), 300);
        // Shares of 9 to 1. The backend with unknown tokens counts as their average.
        for (name, share) in [("east", 180), ("west", 20), ("north", 100)] {
            let served = count(&azure, name);
            assert!(served.abs_diff(share) <= 12, "{name} {served}");
        }
    }
}

mod filter_engine_alone {
    use super::*;

    e2e::cases! { filter:
    fn each_backend_has_its_own_time_for_the_first_byte(engine) {
        let azure = simulate(&["slow", "fast"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .plugin(|p| p["backends"][0]["first_byte_timeout"] = json!("300ms"))
            .engine(engine)
            .start();
        azure.backend("slow").set(Behaviour::normal().after_ms(3000));
        azure.backend("fast").set(Behaviour::normal().after_ms(800));
        for answer in chats(&gateway, 4) {
            assert_eq!((answer.status, header(&answer, "x-aoai-backend")), (200, "fast"));
            assert!(answer.elapsed < 2 * SECOND, "{:?}", answer.elapsed);
        }
        assert_eq!(count(&azure, "slow"), 2);
    }
    }
}

mod router_engine_alone {
    use super::*;

    e2e::cases! { router:
    fn no_backend_is_cut_short_for_anothers_first_byte_timeout(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["first_byte_timeout"] = json!("200ms")).start();
        azure.backend("east").set(Behaviour::internal_error());
        azure.backend("west").set(Behaviour::normal().after_ms(700));
        for answer in chats(&gateway, 2) {
            assert_eq!((answer.status, header(&answer, "x-aoai-backend")), (200, "west"));
        }
    }

    fn the_backend_after_a_hanging_attempt_is_chosen_again(engine) {
        let azure = simulate(&["hangs", "next", "last"]);
        let gateway = weigh(Gateway::builder().simulator(&azure), "priority", &[0, 1, 2])
            .plugin(|p| p["retry"]["per_try_timeout"] = json!("3s"))
            .engine(engine)
            .start();
        azure.backend("hangs").set(Behaviour::hang());
        let answers = parallel(2, |thread| {
            if thread == 1 {
                // While the first request's attempt hangs, the foreseen backend is throttled.
                thread::sleep(SECOND / 2);
                azure.backend("hangs").set(Behaviour::throttled(1));
                azure.backend("next").set(Behaviour::throttled(30));
            }
            gateway.chat(&chat_request())
        });
        for answer in &answers {
            assert_eq!((answer.status, header(answer, "x-aoai-backend")), (200, "last"));
        }
        assert_eq!(header(&answers[0], "x-aoai-attempts"), "2");
        assert_eq!(header(&answers[1], "x-aoai-attempts"), "3");
        assert_eq!(count(&azure, "next"), 1, "only the second one asked it");
        assert_eq!(gateway.settled_stat(&azure, "no_retry.router_declined"), 0);
    }
    }
}
