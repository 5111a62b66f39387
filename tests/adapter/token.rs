//! Requests and the first token, the next one, and none.

use mock_host::{Fault, Host, LogLevel, Setup};

use super::support::*;

#[test]
fn a_request_before_the_first_token_waits_and_goes_on_when_it_comes() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = get(&vm);
    host.advance(millis(100));
    assert_eq!(stream.forwarded(), None);
    give_token(&vm, TOKEN);
    let forwarded = stream.forwarded().expect("it goes on at once");
    assert_eq!(
        forwarded.headers.get("authorization"),
        Some("Bearer TOKEN-ONE")
    );
    assert!(forwarded.complete);
    assert_quiet(&host);
}

#[test]
fn the_first_tick_asks_the_token_service() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    assert_eq!(vm.calls(), []);
    host.advance(millis(1));
    let fetch = vm.call();
    assert_eq!(fetch.cluster, "imds");
    assert_eq!(fetch.headers.get("metadata"), Some("true"));
    assert_eq!(fetch.headers.get(":authority"), Some("169.254.169.254"));
    assert_eq!(fetch.timeout, seconds(5));
    host.advance(seconds(4));
    assert_eq!(vm.calls().len(), 1, "and no one asks while it is asked");
}

#[test]
fn a_wait_for_the_token_ends_with_503() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = get(&vm);
    host.advance(millis(4900));
    assert_eq!(stream.answered(), None);
    host.advance(millis(200));
    let answer = stream.answer();
    assert_eq!(answer.status, 503);
    assert_eq!(code(answer.text()), "identity_unavailable");
    assert_eq!(answer.details, "identity_unavailable");
    assert!(answer.headers.get("retry-after").is_some());
    assert!(answer.headers.get("retry-after-ms").is_some());
    assert_eq!(stream.forwarded(), None);
    assert_eq!(counted(&host, "aoai.identity.unavailable"), 1);
}

#[test]
fn a_clock_that_is_set_back_neither_holds_a_request_nor_keeps_the_token_away() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = get(&vm);
    host.advance(millis(100));
    fetch(&vm);
    host.set_clock_back(seconds(3600));
    host.advance(millis(100));
    assert_eq!(stream.answer().status, 503);
    let [_lost, fetch] = &fetches(&vm)[..] else {
        panic!("the service is asked again");
    };
    let token = token_answer(&host, TOKEN, seconds(3600));
    vm.answer(fetch, 200, [], token);
    assert!(get(&vm).forwarded().is_some());
    host.set_clock_back(seconds(3600));
    host.advance(seconds(2));
    assert_eq!(counted(&host, "aoai.requests"), 2, "and is handed over");
}

#[test]
fn a_request_is_answered_at_once_when_waiting_is_hopeless() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    host.advance(millis(1));
    let refusal = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    vm.answer(&fetch(&vm), 400, [], refusal);
    let stream = get(&vm);
    let answer = stream.answer();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers.get("retry-after"), Some("60"));
    let errors = host.logged(LogLevel::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("Identity not found"), "{errors:?}");
}

#[test]
fn after_a_transient_failure_the_service_is_asked_again_and_waiters_are_served() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = get(&vm);
    host.advance(millis(1));
    vm.answer(&fetch(&vm), 500, [], "");
    host.advance(millis(900));
    assert_eq!(fetches(&vm), []);
    host.advance(millis(200));
    give_token(&vm, TOKEN);
    assert!(stream.forwarded().is_some());
    assert_eq!(counted(&host, "aoai.identity.fetches"), 2);
    assert_eq!(counted(&host, "aoai.identity.failures"), 1);
}

#[test]
fn a_token_service_without_any_answer_counts_as_a_transient_failure() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    host.advance(millis(1));
    vm.fail(&fetch(&vm));
    host.advance(millis(1100));
    give_token(&vm, TOKEN);
    assert!(get(&vm).forwarded().is_some());
}

#[test]
fn the_old_token_serves_while_the_next_one_is_fetched() {
    let (host, vm) = ready();
    host.advance(seconds(3301));
    let refresh = fetch(&vm);
    let stream = get(&vm);
    let forwarded = stream.forwarded().expect("no one waits");
    assert_eq!(
        forwarded.headers.get("authorization"),
        Some("Bearer TOKEN-ONE")
    );
    let body = token_answer(&host, SECOND_TOKEN, seconds(3600));
    vm.answer(&refresh, 200, [], body);
    let forwarded = get(&vm).forwarded().unwrap();
    assert_eq!(
        forwarded.headers.get("authorization"),
        Some("Bearer TOKEN-TWO")
    );
}

#[test]
fn an_expired_token_is_never_sent() {
    let (host, vm) = ready();
    while host.now().as_secs() < 1_700_000_000 + 3601 {
        for fetch in fetches(&vm) {
            vm.answer(&fetch, 503, [], "");
        }
        host.advance(seconds(1));
    }
    let stream = get(&vm);
    assert_eq!(stream.forwarded(), None);
}

#[test]
fn the_app_service_form_takes_endpoint_and_secret_from_the_environment() {
    let config = config_with(
        "identity",
        serde_json::json!({"source": "app_service", "cluster": "imds"}),
    );
    let host = Host::new();
    let setup = Setup::new(config)
        .env("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token")
        .env("IDENTITY_HEADER", "S3CRET-HEADER");
    let vm = host.start(setup).unwrap();
    host.advance(millis(1));
    let fetch = fetch(&vm);
    assert_eq!(
        fetch.headers.get("x-identity-header"),
        Some("S3CRET-HEADER")
    );
    assert_eq!(fetch.headers.get(":authority"), Some("localhost:42356"));
    give_token(&vm, TOKEN);
    assert!(get(&vm).forwarded().is_some());
    let logs = format!("{:?}", host.logs());
    assert!(!logs.contains("S3CRET"), "{logs}");
}

#[test]
fn no_secret_is_in_any_log_line() {
    // A life with everything in it that makes the module talk.
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    for (status, body) in [
        (500, r#"{"error":"overloaded"}"#),
        (410, ""),
        (403, r#"{"error":"x","access_token":"TOKEN-ODD"}"#),
        (200, r#"{"access_token":"TOKEN-ODD"}"#),
        (200, r#"{"access_token":"TOKEN ODD","expires_in":60}"#),
    ] {
        while fetches(&vm).is_empty() {
            host.advance(seconds(1));
        }
        vm.answer(&fetch(&vm), status, [], body);
        for call in vm.calls() {
            vm.answer_locally(&call, 503);
        }
    }
    stream.end();
    while fetches(&vm).is_empty() {
        host.advance(seconds(1));
    }
    give_token(&vm, SECOND_TOKEN);
    host.inject(Fault::of("proxy_replace_header_map_value").on("authorization"));
    drop(send(&vm));
    host.advance(seconds(4000));
    drop(vm);
    let logs = host.logs();
    assert!(logs.len() >= 7, "{logs:#?}");
    for log in logs {
        let text = log.text.to_uppercase();
        for secret in [TOKEN, SECOND_TOKEN, CLIENT_KEY, "TOKEN-ODD", "BEARER"] {
            assert!(!text.contains(secret), "{secret}: {log:?}");
        }
    }
}

#[test]
fn the_same_failure_is_logged_once_until_there_was_a_token() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let fail_five_times = || {
        for _ in 0..5 {
            while fetches(&vm).is_empty() {
                host.advance(millis(500));
            }
            vm.answer(&fetch(&vm), 500, [], "");
        }
    };
    fail_five_times();
    assert_eq!(host.logged(LogLevel::Warn).len(), 1);
    while fetches(&vm).is_empty() {
        host.advance(millis(500));
    }
    give_token(&vm, TOKEN);
    host.advance(seconds(3302));
    fail_five_times();
    assert_eq!(host.logged(LogLevel::Warn).len(), 2);
}

#[test]
fn so_many_requests_wait_and_no_more() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let waiting: Vec<_> = (0..10_000).map(|_| get(&vm)).collect();
    assert_eq!(get(&vm).answer().status, 503);
    host.advance(millis(1));
    give_token(&vm, TOKEN);
    assert!(waiting.iter().all(|stream| stream.forwarded().is_some()));
}

#[test]
fn a_token_that_expires_while_the_body_is_awaited_costs_no_backend_its_turn() {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(1);
    let host = Host::new();
    let vm = host.vm(&config.to_string());
    host.advance(millis(1));
    give_token_for(&vm, TOKEN, seconds(60));
    host.advance(millis(58_500));
    for fetch in fetches(&vm) {
        vm.answer(&fetch, 500, [], "");
    }
    // The body of the first request does not come in time, so it is sent on without.
    let stream = vm.request(chat_of(BODY.len()), false);
    host.advance(millis(2100));
    while fetches(&vm).is_empty() {
        host.advance(millis(500));
    }
    give_token(&vm, SECOND_TOKEN);
    stream.body(BODY, true);
    assert_eq!(stream.answered(), None);
    assert_eq!(routed_to(&stream), "aoai_east");
}
