//! Limits of clients in a rate limit service, for several Envoys.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use e2e::{cases, chat_request, parallel, simulate, Chat, Engine, Gateway, Redis, Response};
use ratelimit::{Clock, Limits, Server, Settings, Store};
use render::{ClientLimits, Clients, Key, LimitService, OnFailure, SharedLimits};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator, Stream};
use tempfile::TempDir;

use crate::sdk::python;

const LIMIT: Duration = Duration::from_secs(10);

/// A time 15 seconds after the start of a minute.
const NOW: u64 = 1_900_000_035;

/// The clients' names and keys.
const CLIENTS: [(&str, &str); 3] = [
    ("team-a", "CLIENT-SECRET"),
    ("team-b", "CLIENT-KEY-TWO"),
    ("batch", "CLIENT-KEY-THREE"),
];

/// The prefix of the limits' statistics.
const STATS: &str = "cluster.client_limits.ratelimit";

/// Limits in the service at this address. `team-b` has a limit of its own, and `batch` has none.
fn limits(service: SocketAddr, default: ClientLimits) -> SharedLimits {
    let own = ClientLimits {
        tokens_per_minute: Some(1_000_000),
        ..default
    };
    SharedLimits {
        service: LimitService {
            address: service.ip().to_string(),
            port: service.port(),
            tls: None,
        },
        // A busy machine must not look like a failed service.
        timeout: LIMIT,
        on_failure: OnFailure::Pass,
        default,
        clients: [
            ("team-b".to_owned(), own),
            ("batch".to_owned(), ClientLimits::default()),
        ]
        .into(),
    }
}

fn tokens_per_minute(tokens: u32) -> ClientLimits {
    ClientLimits {
        tokens_per_minute: Some(tokens),
        ..ClientLimits::default()
    }
}

/// A service with these limits, and its clock.
fn service(default: ClientLimits, store: Store) -> (Server, Arc<AtomicU64>) {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let file = render::limits_file(&limits(nowhere, default));
    let (clock, time) = Clock::manual(NOW);
    let settings = Settings {
        store,
        clock,
        ..Settings::new(Limits::parse(&file).expect("the rendered limits"))
    };
    (Server::start(settings).expect("the service"), time)
}

/// The file of clients' keys, and its folder.
fn keys() -> (TempDir, Clients) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    let keys = CLIENTS.map(|(client, key)| Key {
        client: client.into(),
        key: key.into(),
    });
    std::fs::write(&file, render::keys_file("x-aoai-client", &keys)).expect("write the keys");
    (folder, Clients::Keys { file })
}

fn gateway(azure: &Simulator, engine: Engine, clients: Clients, limits: SharedLimits) -> Gateway {
    Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .fleet(move |fleet| {
            fleet.clients = clients;
            fleet.limits = Some(limits);
        })
        .start()
}

/// Two backends whose answers take a few tokens.
fn azure() -> Simulator {
    let azure = simulate(&["east", "west"]);
    for backend in azure.backends() {
        backend.set(Behaviour::stream(Stream {
            events: 4,
            interval_ms: 1,
            ..Stream::default()
        }));
    }
    azure
}

fn send(gateway: &Gateway, key: &str, chat: &Chat) -> Response {
    let headers = [("content-type", "application/json"), ("api-key", key)];
    let answer = gateway
        .client()
        .send("POST", &chat.path, &headers, &chat.bytes());
    answer.expect("an answer")
}

/// The tokens that an answer reports.
fn tokens(answer: &Response) -> u64 {
    let text = answer.text();
    let documents = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let mut usages = documents
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|document| document["usage"]["total_tokens"].as_u64());
    usages
        .next_back()
        .unwrap_or_else(|| panic!("no usage in {text}"))
}

fn streaming() -> Chat {
    let mut chat = chat_request().streaming();
    chat.body["stream_options"] = json!({"include_usage": true});
    chat
}

cases! {
    fn case_49_two_envoys_and_one_redis_share_a_limit(engine) {
        let redis = Redis::start();
        let default = tokens_per_minute(200);
        let services = [0, 1].map(|_| service(default, Store::Redis(redis.url())));
        let (_folder, clients) = keys();
        let azure = azure();
        let gateways = services
            .each_ref()
            .map(|(service, _)| gateway(&azure, engine, clients.clone(), limits(service.address(), default)));
        let charged = || redis.sum("azure_openai_tokens_per_minute_team-a_");

        let mut taken = 0;
        let mut turn = 0;
        while taken <= 200 {
            let chat = if turn % 3 == 0 { streaming() } else { chat_request().padded(turn) };
            let answer = send(&gateways[turn % 2], CLIENTS[0].1, &chat);
            assert_eq!(answer.status, 200, "after {taken} tokens: {}", answer.text());
            taken += tokens(&answer);
            turn += 1;
            // The tokens are charged when the answer is over.
            gateways[0].wait_for(|_| charged() == taken, LIMIT, &format!("{taken} tokens to be charged"));
        }
        assert!(turn > 3, "{turn} requests");

        for gateway in &gateways {
            for chat in [chat_request(), streaming()] {
                let answer = send(gateway, CLIENTS[0].1, &chat);
                assert_eq!(answer.status, 429, "{}", answer.text());
                assert_eq!(answer.header("retry-after"), Some("45"));
                assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("0"));
                assert_eq!(answer.header("x-ratelimit-reset-tokens"), Some("45s"));
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let error = &answer.json()["error"];
                assert_eq!((&error["code"], &error["type"]), (&json!("rate_limit_exceeded"), &json!("rate_limit_error")));
                let message = error["message"].as_str().expect("a message");
                assert!(message.contains("limit of tokens") && message.contains(" 45 seconds"), "{message}");
            }
            assert_eq!(gateway.stat(&format!("{STATS}.tokens.over_limit")), Some(2));
            assert_eq!(gateway.stat(&format!("{STATS}.tokens.error")).unwrap_or(0), 0);
            gateway.assert_unharmed();
        }
        assert_eq!(charged(), taken, "a refused request costs nothing");
        let asked: usize = azure.backends().iter().map(|backend| backend.requests().len()).sum();
        assert_eq!(asked, turn, "a refused request reaches no backend");

        // Other clients have their own limits.
        for (client, key) in &CLIENTS[1..] {
            let answer = send(&gateways[0], key, &chat_request());
            assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        }
        for (_, time) in &services {
            time.store(NOW + 45, Ordering::Relaxed);
        }
        assert_eq!(send(&gateways[1], CLIENTS[0].1, &chat_request()).status, 200, "in the next minute");
    }

    fn case_49_parallel_requests_overshoot_by_answers_in_flight(engine) {
        const PARALLEL: usize = 8;
        let default = tokens_per_minute(300);
        let (server, _time) = service(default, Store::Memory);
        let (_folder, clients) = keys();
        let azure = azure();
        let gateway = gateway(&azure, engine, clients, limits(server.address(), default));
        let served = parallel(PARALLEL, |_| {
            let mut served = Vec::new();
            for _ in 0..200 {
                let answer = send(&gateway, CLIENTS[0].1, &streaming());
                match answer.status {
                    200 => served.push(tokens(&answer)),
                    status => return (served, status),
                }
            }
            panic!("never over the limit: {served:?}");
        });
        assert!(served.iter().all(|(_, status)| *status == 429), "{served:?}");
        let answers: Vec<u64> = served.iter().flat_map(|(served, _)| served.clone()).collect();
        let (sum, largest) = (answers.iter().sum::<u64>(), answers.iter().max().copied().unwrap_or(0));
        assert!(sum > 300, "{sum} tokens");
        // Each client may have one answer in progress, and one whose tokens the service has not yet counted.
        let most = 300 + 2 * PARALLEL as u64 * largest;
        assert!(sum <= most, "{sum} tokens of answers of at most {largest}");
    }

    fn case_49_a_service_that_is_down_limits_nothing_or_everything(engine) {
        let (_folder, clients) = keys();
        let azure = azure();
        // Nothing listens at this address any more.
        let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let down = limits(nobody, tokens_per_minute(100));
        let passing = gateway(&azure, engine, clients.clone(), down.clone());
        for _ in 0..3 {
            let answer = send(&passing, CLIENTS[0].1, &chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert_eq!(passing.stat(&format!("{STATS}.tokens.failure_mode_allowed")), Some(3));
        let prometheus = passing.admin("/stats/prometheus");
        let line = "envoy_cluster_ratelimit_tokens_error{envoy_cluster_name=\"client_limits\"} 3";
        assert!(prometheus.lines().any(|found| found == line), "{prometheus}");
        passing.assert_unharmed();

        let refusing = gateway(&azure, engine, clients, SharedLimits { on_failure: OnFailure::Refuse, ..down });
        let answer = send(&refusing, CLIENTS[0].1, &chat_request());
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "limits_unavailable");
        assert_eq!(refusing.stat(&format!("{STATS}.tokens.error")), Some(1));
        refusing.assert_unharmed();
    }

    fn case_49_a_service_without_its_redis_is_down(engine) {
        let redis = Redis::start();
        let default = tokens_per_minute(100);
        let (server, _time) = service(default, Store::Redis(redis.url()));
        let (_folder, clients) = keys();
        let azure = azure();
        let refusing = SharedLimits { on_failure: OnFailure::Refuse, ..limits(server.address(), default) };
        let gateway = gateway(&azure, engine, clients, refusing);
        assert_eq!(send(&gateway, CLIENTS[0].1, &chat_request()).status, 200);
        drop(redis);
        assert_eq!(send(&gateway, CLIENTS[0].1, &chat_request()).status, 503);
    }

    fn requests_and_tokens_have_separate_limits(engine) {
        let default = ClientLimits { requests_per_minute: Some(3), ..tokens_per_minute(1_000_000) };
        let (server, _time) = service(default, Store::Memory);
        let (_folder, clients) = keys();
        let azure = azure();
        let gateway = gateway(&azure, engine, clients, limits(server.address(), default));
        // A retry does not count as a request of the client.
        azure.backend("east").queue(vec![Behaviour::throttled(1)]);
        for _ in 0..3 {
            assert_eq!(send(&gateway, CLIENTS[0].1, &chat_request()).status, 200);
        }
        let answer = send(&gateway, CLIENTS[0].1, &chat_request());
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
        assert_eq!(answer.header("x-ratelimit-remaining-tokens"), None);
        assert!(answer.text().contains("limit of requests"), "{}", answer.text());
        assert_eq!(gateway.stat(&format!("{STATS}.requests.over_limit")), Some(1));
    }

    fn clients_without_a_name_share_the_default_limit(engine) {
        let default = tokens_per_minute(20);
        let (server, _time) = service(default, Store::Memory);
        let azure = azure();
        let gateway = gateway(&azure, engine, Clients::Open, limits(server.address(), default));
        gateway.wait_for(|gateway| gateway.chat(&chat_request()).status == 429, LIMIT, "the limit");
    }

    fn the_sdks_do_not_wait_for_a_limit_of_a_day(engine) {
        let default = ClientLimits { tokens_per_day: Some(20), ..ClientLimits::default() };
        let (server, _time) = service(default, Store::Memory);
        let (_folder, clients) = keys();
        let azure = azure();
        let gateway = gateway(&azure, engine, clients, limits(server.address(), default));
        gateway.wait_for(|gateway| send(gateway, CLIENTS[0].1, &chat_request()).status == 429, LIMIT, "the limit");
        let answer = send(&gateway, CLIENTS[0].1, &chat_request());
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("retry-after"), Some(&*(86_400 - NOW % 86_400).to_string()));
    }

    fn the_sdks_see_a_rate_limit_error(engine) {
        let default = tokens_per_minute(20);
        let (server, _time) = service(default, Store::Memory);
        let (_folder, clients) = keys();
        let azure = azure();
        let gateway = gateway(&azure, engine, clients, limits(server.address(), default));
        gateway.wait_for(|gateway| send(gateway, CLIENTS[0].1, &chat_request()).status == 429, LIMIT, "the limit");
        let printed = python(&gateway, r#"
import anthropic, openai

hello = [{"role": "user", "content": "hi"}]
try:
    client.chat.completions.create(model="gpt-4o", messages=hello)
except openai.RateLimitError as error:
    print(error.code, error.response.headers["retry-after"])
claude = anthropic.Anthropic(base_url=f"{gateway}/anthropic", api_key="CLIENT-SECRET", max_retries=0)
try:
    claude.messages.create(model="claude-sonnet", max_tokens=1, messages=hello)
except anthropic.RateLimitError as error:
    print(error.body["error"]["type"], error.response.headers["retry-after"])
"#);
        assert_eq!(printed, "rate_limit_exceeded 45\nrate_limit_error 45\n");
    }
}
