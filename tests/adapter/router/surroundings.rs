//! Faults of the configuration around the filter: each is logged once, and the client still gets an honest answer.

use mock_host::Headers;
use mock_host::LogLevel;
use serde_json::json;

use super::*;

fn times_logged(host: &Host, text: &str) -> usize {
    let logs = host.logs().into_iter();
    logs.filter(|log| log.level >= LogLevel::Warn && log.text.contains(text))
        .count()
}

#[test]
fn an_answer_that_the_router_does_not_follow_loses_its_mark() {
    let gateway = Engine::Router.gateway();
    let router = gateway.router().without_heed();
    for backend in ["east", "west"] {
        let request = send_through(&router);
        answer(&request.attempt(), 429, "busy");
        assert_eq!(outcome(&request), is(429, backend, "1", "busy"));
        assert_eq!(request.attempts().len(), 1);
    }
    assert_eq!(gateway.counted("aoai.no_retry.router_declined"), 2);
    assert_eq!(times_logged(&gateway.host, "x-aoai-retry"), 1);
}

#[test]
fn an_answer_before_the_request_is_complete_is_retried() {
    let gateway = Engine::Router.gateway();
    // The request has an unknown length, and is too long to be held until it is complete.
    let request = gateway.request(chat(), false);
    request.body(vec![b'x'; 600_000], false);
    answer(&request.attempt(), 429, "busy");
    let second = request.attempt();
    request.body(vec![b'y'; 400_000], true);
    assert_eq!(second.sent().unwrap().body.len(), 1_000_000);
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn a_missing_upstream_filter_is_logged_and_the_answer_passes() {
    let gateway = Engine::Router.gateway();
    let mut router = gateway.router();
    for cluster in CLUSTERS {
        router = router.without_upstream_filter(cluster);
    }
    for (status, backend) in [(200, "east"), (429, "west")] {
        let request = send_through(&router);
        assert_eq!(
            request.attempt().header("authorization").as_deref(),
            Some("Bearer TOKEN-ONE")
        );
        answer(&request.attempt(), status, "from it");
        assert_eq!(outcome(&request), is(status, backend, "1", "from it"));
    }
    assert_eq!(
        times_logged(&gateway.host, "without the upstream filter"),
        1
    );
}

#[test]
fn without_the_upstream_filter_no_attempt_is_misattributed() {
    let gateway = Engine::Router.gateway();
    let router = gateway.router();
    let request = send_through(&router.without_upstream_filter("aoai_east"));
    request.attempt().fail();
    for attempt in request.attempts() {
        let host = attempt.cluster().replace("aoai_", "") + ".openai.azure.com";
        assert_eq!(attempt.header(":authority"), Some(host));
    }
}

#[test]
fn a_later_clusters_missing_upstream_filter_is_logged_too() {
    let gateway = Engine::Router.gateway();
    let router = gateway.router();
    let request = send_through(&router.without_upstream_filter("aoai_west"));
    answer(&request.attempt(), 429, "busy");
    answer(&request.attempt(), 421, "misdirected");
    assert_eq!(request.answer().headers.get("x-aoai-retry"), None);
    assert_eq!(
        times_logged(&gateway.host, "without the upstream filter"),
        1
    );
}

#[test]
fn an_upstream_filter_in_another_vm_lets_nothing_pass() {
    let gateway = Engine::Router.gateway();
    let requests: Vec<_> = (0..3).map(|_| gateway.send()).collect();
    let ids: Vec<_> = requests.iter().map(Request::id).collect();
    let host = gateway.host.clone();
    // Each thread has its own module, as another VM has.
    let other = std::thread::spawn(move || {
        let vm = host.vm(UPSTREAM);
        for id in ids {
            let next = format!("aoai_east {id:08x}");
            let properties = [
                ("xds\0cluster_name", &b"aoai_east"[..]),
                ("aoai_next", next.as_bytes()),
            ];
            let stream = vm.request_with(&properties, chat(), true);
            assert_eq!(stream.forwarded(), None);
            assert_eq!(stream.answer().status, 500);
            assert_eq!(stream.answer().details, "aoai_no_request");
        }
    });
    other.join().unwrap();
    let wanted = "came through the upstream filter without its request";
    assert_eq!(times_logged(&gateway.host, wanted), 1);
}

#[test]
fn a_retry_to_another_cluster_than_planned_does_not_leave() {
    let gateway = Engine::Router.gateway();
    let router = gateway.router().without_refresh();
    for backend in ["east", "west"] {
        let request = send_through(&router);
        answer(&request.attempt(), 429, "busy");
        assert_eq!(request.clusters(), [format!("aoai_{backend}")]);
        let answer = request.answer();
        assert_eq!((answer.status, answer.text()), (429, "busy"));
        assert_eq!(answer.headers.get("x-aoai-backend"), Some(backend));
    }
    assert_eq!(
        times_logged(&gateway.host, "another cluster than planned"),
        1
    );
}

#[test]
fn a_cluster_that_envoy_does_not_have_is_named_once() {
    let gateway = Engine::Router.gateway();
    let router = Router::new(&gateway.vm, gateway.upstream(), &["aoai_west"]);
    for status in [503, 200, 503, 503] {
        let request = send_through(&router);
        if let [attempt] = &request.attempts()[..] {
            answer(attempt, 200, "hello");
        }
        assert_eq!(request.answer().status, status);
    }
    assert_eq!(times_logged(&gateway.host, r#"no cluster "aoai_east""#), 1);
    assert_eq!(times_logged(&gateway.host, r#"no cluster "aoai_north""#), 1);
    assert_eq!(gateway.counted("aoai.backend.east.outcome.unavailable"), 2);
}

/// The setup for an Envoy of this version, which Envoy reports in numbers of eight bytes.
fn on_envoy(setup: Setup, major: u64, minor: u64) -> Setup {
    let path = |name| format!("xds\0node\0user_agent_build_version\0version\0{name}");
    setup
        .property(&path("major_number"), major.to_le_bytes())
        .property(&path("minor_number"), minor.to_le_bytes())
}

#[test]
fn an_envoy_that_is_too_old_is_refused() {
    for (major, minor) in [(1, 36), (1, 38), (0, 99)] {
        let setup = on_envoy(
            Setup::new(Engine::Router.config(3, json!({}))),
            major,
            minor,
        );
        let refused = Host::new().start(setup).err().expect("it is refused");
        let errors: Vec<_> = refused
            .logs
            .iter()
            .filter(|log| log.level == LogLevel::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let wanted = format!(r#"retry.engine: "router" is not allowed with Envoy {major}.{minor}"#);
        assert!(errors[0].text.contains(&wanted), "{errors:?}");
    }
}

#[test]
fn a_new_enough_or_unknown_envoy_is_accepted() {
    for (major, minor) in [(1, 39), (1, 40), (2, 0)] {
        let setup = on_envoy(
            Setup::new(Engine::Router.config(3, json!({}))),
            major,
            minor,
        );
        assert!(Host::new().start(setup).is_ok(), "{major}.{minor}");
    }
    assert!(Host::new()
        .start(Setup::new(Engine::Router.config(3, json!({}))))
        .is_ok());
    let old = on_envoy(Setup::new(CONFIG), 1, 30);
    assert!(
        Host::new().start(old).is_ok(),
        "the filter engine runs on any"
    );
}

#[test]
fn a_client_cannot_see_or_forge_a_mark() {
    let gateway = Engine::Router.gateway();
    let request = gateway.request(chat().with("x-aoai-retry", "1"), true);
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "east", "1", "hello"));
}

#[test]
fn a_backends_own_mark_leads_to_the_next_backend() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let marked = [("x-aoai-retry", "1")];
    request.attempt().respond(200, marked, true);
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
    // No backend counts as failed.
    assert_eq!(gateway.counted("aoai.backend.east.outcome.success"), 1);
}

#[test]
fn a_backend_cannot_have_a_creation_repeated() {
    let gateway = Engine::Router.gateway();
    let batch = Headers::from([
        (":method", "POST"),
        (":path", "/openai/v1/batches"),
        (":authority", "gw"),
    ]);
    let request = gateway.request(batch, true);
    let marked = [("x-aoai-retry", "1")];
    request.attempt().respond(200, marked, true);
    assert_eq!(request.attempts().len(), 2);
    assert!(request.attempts()[1].sent().is_none());
    assert_eq!(request.answer().status, 503);
}

#[test]
fn an_earlier_filters_answer_is_passed_on() {
    let gateway = Engine::Router.gateway();
    // As failures, this many would put every backend into cooldown.
    for _ in 0..20 {
        let stream = gateway.vm.request(chat(), true);
        stream.respond_locally(429, "local_rate_limited");
        let answer = stream.answer();
        assert_eq!(
            (answer.status, &*answer.details),
            (429, "local_rate_limited")
        );
        assert_eq!(answer.headers.get("x-aoai-backend"), None);
    }
    gateway.host.advance(seconds(2));
    for backend in ["east", "west", "north"] {
        assert_eq!(gateway.counted(&format!("aoai.backend.{backend}.state")), 0);
    }
    assert_eq!(gateway.counted("aoai.no_retry.router_declined"), 0);
}

const LIMITED: [(&str, &str); 2] = [("x-envoy-ratelimited", "true"), ("x-ms-region", "east")];

#[test]
fn an_answer_that_envoy_would_not_retry_is_retried() {
    for status in [429, 503, 401] {
        let gateway = Engine::Router.gateway();
        let request = gateway.send();
        let first = request.attempt();
        first.respond(status, LIMITED, false);
        first.response_body(error("PermissionDenied"), true);
        answer(&request.attempt(), 200, "hello");
        assert_eq!(outcome(&request), is(200, "west", "2", "hello"), "{status}");
        assert_eq!(request.answer().headers.get("x-envoy-ratelimited"), None);
        assert_quiet_of_envoy(&gateway);
    }
}

#[test]
fn an_unretried_answer_passes_as_the_backend_sent_it() {
    // The cases: the last attempt's answer, an answer whose later attempts got none, and an answer that the router did
    // not retry.
    let last = Engine::Router.gateway();
    let request = last.send();
    for _ in 0..3 {
        request.attempt().respond(429, LIMITED, true);
    }
    let limited = |request: &Request| {
        let answer = request.answer();
        let header = answer.headers.get("x-envoy-ratelimited").map(str::to_owned);
        (answer.status, header)
    };
    let expected = (429, Some("true".to_owned()));
    assert_eq!(limited(&request), expected);

    let only = Engine::Router.gateway();
    let request = only.send();
    request.attempt().respond(429, LIMITED, true);
    request.attempt().fail();
    request.attempt().fail();
    assert_eq!(limited(&request), expected);

    let deaf = Engine::Router.gateway();
    let router = deaf.router().without_heed();
    let request = send_through(&router);
    request.attempt().respond(429, LIMITED, true);
    assert_eq!(limited(&request), expected);
}

fn assert_quiet_of_envoy(gateway: &Gateway) {
    let loud = loud(&gateway.host);
    let of_envoy = loud.iter().filter(|line| line.contains("router"));
    assert_eq!(of_envoy.count(), 0, "{loud:?}");
}
