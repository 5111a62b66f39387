//! Limits per client.

use std::time::{Duration, Instant};

use e2e::{
    cases, chat_request, east_and_west, parallel, simulate, Chat, Engine, Gateway, Response,
};
use render::{Clients, Key};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator, Stream};

use crate::sdk::python;

/// The longest wait for the module's report, which comes once a second.
const LIMIT: Duration = Duration::from_secs(5);

/// A gateway with these limits. The test sets the clients' names, as an earlier filter would.
fn limited(azure: &Simulator, engine: Engine, workers: u32, limits: Value) -> Gateway {
    let gateway = Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .workers(workers);
    let patch = |plugin: &mut Value| {
        plugin["headers"]["client"] = json!("x-client");
        plugin["limits"] = limits;
    };
    gateway.plugin(patch).start()
}

fn ask(gateway: &Gateway, chat: &Chat, headers: &[(&str, &str)]) -> Response {
    let client = gateway.client();
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let answer = client.send("POST", &chat.path, &headers, &chat.bytes());
    answer.expect("an answer")
}

fn ask_as(gateway: &Gateway, chat: &Chat, client: &str) -> Response {
    ask(gateway, chat, &[("x-client", client)])
}

/// A chat whose JSON answer, or stream of 20 events, reports the tokens.
fn chat(stream: bool) -> Chat {
    match stream {
        false => chat_request(),
        true => {
            let mut chat = chat_request().streaming();
            chat.body["stream_options"] = json!({"include_usage": true});
            chat
        }
    }
}

/// The tokens that all backends have reported.
fn reported(azure: &Simulator) -> u64 {
    let accounts = azure.backends().iter().map(|backend| backend.account());
    accounts
        .map(|account| account.prompt + account.completion)
        .sum()
}

fn asked(azure: &Simulator) -> u64 {
    azure.backends().iter().map(|backend| backend.count()).sum()
}

/// Lets the backends stream 20 pieces of text at once, and counts the tokens that they report.
fn count_tokens(azure: &Simulator) {
    for backend in azure.backends() {
        backend.open_accounts();
        backend.set(Behaviour::stream(Stream {
            events: 20,
            ..Stream::default()
        }));
    }
}

fn number(answer: &Response, header: &str) -> u64 {
    let value = answer
        .header(header)
        .unwrap_or_else(|| panic!("{header} in {:?}", answer.headers));
    value.parse().expect("a number")
}

cases! {
    fn case_49_requests_are_limited_exactly_over_workers(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = limited(&azure, engine, workers, json!({"default": {"requests_per_minute": 60}}));
            gateway.warm_up(&azure);
            let before = asked(&azure);
            let began = Instant::now();
            let statuses = parallel(8, |_| (0..25).map(|_| ask_as(&gateway, &chat(false), "team-a").status).collect::<Vec<_>>());
            // One request comes back each second.
            let most = 60 + began.elapsed().as_secs() as usize + 1;
            let statuses = statuses.concat();
            let passed = statuses.iter().filter(|status| **status == 200).count();
            assert!((60..=most).contains(&passed), "{workers} workers: {passed}, not 60 to {most}");
            assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 200 - passed);
            assert_eq!(asked(&azure) - before, passed as u64);
            let refused = i64::try_from(200 - passed).expect("few");
            let stat = "wasmcustom.aoai.client.team-a.limited.requests_per_minute";
            gateway.wait_for(|g| g.stat(stat) == Some(refused), LIMIT, "the count of refusals");
            assert_eq!(gateway.stat("wasmcustom.aoai.refused.limited"), Some(refused));
            assert_eq!(ask_as(&gateway, &chat(false), "team-b").status, 200, "another client");
            let warnings = gateway.log().matches("client team-a: 60 requests per minute are used up").count();
            assert_eq!(warnings, 1, "once a minute, over {workers} workers");
        }
    }

    fn case_49_tokens_are_limited_by_what_answers_report(engine) {
        const KEYS: [(&str, &str); 2] = [("team-a", "CLIENT-KEY-ONE"), ("team-b", "CLIENT-KEY-TWO")];
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        let keys = KEYS.map(|(client, key)| Key { client: client.into(), key: key.into() });
        std::fs::write(&file, render::keys_file("x-aoai-client", &keys)).expect("write the keys");
        for stream in [false, true] {
            let azure = simulate(&["east", "west"]);
            count_tokens(&azure);
            let file = file.clone();
            let gateway = Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .workers(2)
                .fleet(move |fleet| fleet.clients = Clients::Keys { file })
                .plugin(|p| {
                    p["headers"]["client"] = json!("x-aoai-client");
                    p["limits"] = json!({
                        "default": {"tokens_per_minute": 6000, "requests_per_minute": 1000},
                        "clients": {"team-b": null},
                    });
                })
                .start();
            let ask = |who: usize| ask(&gateway, &chat(stream).padded(2000), &[("api-key", KEYS[who].1)]);
            let began = Instant::now();
            let mut last = ask(0);
            let mut one = reported(&azure);
            let mut served = 0;
            let mut refused_at = Instant::now();
            while last.status == 200 {
                served += 1;
                one = reported(&azure) / served;
                last = ask(0);
                refused_at = Instant::now();
            }
            // At most the limit and the tokens that have come back since, exceeded by one answer.
            let most = 6000 + 100 * (began.elapsed().as_secs() + 1) + one;
            assert!((6000..=most).contains(&reported(&azure)), "{} of {most}, {one} each", reported(&azure));
            assert_eq!(last.status, 429);
            assert_eq!(asked(&azure), served, "no backend was asked");
            let body = last.json();
            assert_eq!(body["error"]["code"], "rate_limit_exceeded", "{body}");
            let message = body["error"]["message"].as_str().expect("a message");
            assert!(message.starts_with("This gateway limits client team-a to 6000 tokens per minute"), "{message}");
            assert_eq!(number(&last, "x-ratelimit-limit-tokens"), 6000);
            assert_eq!(number(&last, "x-ratelimit-remaining-tokens"), 0);
            assert_eq!(number(&last, "x-ratelimit-limit-requests"), 1000);
            assert!(number(&last, "x-ratelimit-remaining-requests") >= 1000 - served);
            assert_eq!(number(&last, "retry-after"), number(&last, "retry-after-ms").div_ceil(1000));
            for _ in 0..20 {
                assert_eq!(ask(1).status, 200, "it has no limits");
            }
            // A client that waits for `retry-after` passes, and not before.
            let wait = Duration::from_millis(number(&last, "retry-after-ms"));
            assert!(wait < Duration::from_secs(30), "{wait:?}");
            gateway.wait_for(|_| ask(0).status == 200, Duration::from_secs(40), "the debt is paid back");
            let waited = refused_at.elapsed();
            assert!(waited + Duration::from_millis(100) >= wait, "{waited:?}, not {wait:?}");
            assert!(waited <= wait + Duration::from_secs(3), "{waited:?}, not {wait:?}");
            gateway.wait_for(|g| g.access_log().iter().any(|line| line["status"] == 429), LIMIT, "the access log");
            let log = gateway.access_log();
            let refusal = log.iter().find(|line| line["status"] == 429).expect("it was there");
            assert_eq!(refusal["details"], "client_over_tokens_per_minute");
            assert_eq!((&refusal["client"], &refusal["backend"]), (&json!("team-a"), &Value::Null));
        }
    }

    fn case_49_parallel_requests_exceed_a_limit_by_their_answers(engine) {
        let azure = simulate(&["east", "west"]);
        count_tokens(&azure);
        let gateway = limited(&azure, engine, 2, json!({"default": {"tokens_per_minute": 1000}}));
        gateway.warm_up(&azure);
        let before = reported(&azure);
        let one = {
            assert_eq!(ask_as(&gateway, &chat(true), "one").status, 200);
            reported(&azure) - before
        };
        let before = reported(&azure);
        let began = Instant::now();
        parallel(8, |_| {
            while ask_as(&gateway, &chat(true), "team-a").status == 200 {}
        });
        let used = reported(&azure) - before;
        let back = 1000 * (began.elapsed().as_secs() + 1) / 60;
        assert!((1000..=1000 + back + 8 * one).contains(&used), "{used}, {one} each");
    }

    fn case_49_sdks_see_a_rate_limit_and_wait_for_it(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| {
                p["headers"]["client"] = json!("x-client");
                // Claude's errors are the gateway's own, so any host will do.
                p["backends"][0]["apis"] = json!(["chat", "messages"]);
                p["limits"] = json!({
                    "default": {"requests_per_minute": 12},
                    "clients": {"team-day": {"tokens_per_day": 5}},
                });
            })
            .start();
        let printed = python(&gateway, include_str!("sdk/limited.py"));
        let limited = "RateLimitError rate_limit_exceeded rate_limit_error True\nTrue 12\n";
        let claude = "RateLimitError rate_limit_error True\n";
        assert_eq!(printed, format!("{limited}{limited}{claude}True\nTrue\nfalse True\n"));
    }
}
