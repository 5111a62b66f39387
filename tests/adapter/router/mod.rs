//! The router engine: the module before and behind Envoy's router, which makes the attempts.

mod answers;
mod attempts;
mod endings;
mod errors;
mod health;
mod held_bodies;
mod left_to_envoy;
mod no_answer;
mod surface;
mod surroundings;
mod token;
mod unauthorized;

use mock_host::{Attempt, Host, Routed, Router, Setup, Vm};
use serde_json::{json, Value};

use super::engines::{is, CLUSTERS, UPSTREAM};
use super::support::*;

/// One worker of a gateway that uses the router engine.
struct Gateway {
    host: Host,
    vm: Vm,
    upstream: Vm,
    router: Router,
}

/// The configuration with `retry.engine: router` and more of `retry`.
fn routing(retry: Value) -> Value {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["retry"] = retry;
    config["retry"]["engine"] = json!("router");
    config
}

/// The same with the first `count` backends only.
fn routing_to(count: usize, retry: Value) -> Setup {
    let mut config = routing(retry);
    config["backends"].as_array_mut().unwrap().truncate(count);
    Setup::new(config.to_string())
}

impl Gateway {
    /// A worker without a token yet.
    fn start(setup: Setup, upstream: Setup) -> Self {
        let host = Host::new();
        let vm = host.start(setup).unwrap();
        let upstream = vm.plugin(upstream).unwrap();
        let router = Router::new(&vm, &upstream, &CLUSTERS);
        Self {
            host,
            vm,
            upstream,
            router,
        }
    }

    /// A worker that has a token.
    fn ready(setup: Setup) -> Self {
        let gateway = Self::start(setup, Setup::new(UPSTREAM));
        gateway.host.advance(millis(1));
        give_token(&gateway.vm, TOKEN);
        gateway
    }

    /// A client's chat request, complete.
    fn send(&self) -> Routed {
        send_through(&self.router)
    }

    fn counted(&self, name: &str) -> u64 {
        counted(&self.host, name)
    }
}

/// A worker with three backends and a token.
fn gateway() -> Gateway {
    Gateway::ready(routing_to(3, json!({})))
}

/// A client's chat request, complete.
fn send_through(router: &Router) -> Routed {
    let request = router.request(chat_of(BODY.len()), false);
    request.body(BODY, true);
    request
}

/// The backend's whole answer.
fn answer(attempt: &Attempt, status: u16, body: &str) {
    let headers = [("content-type", "application/json")];
    attempt.respond(status, headers, body.is_empty());
    if !body.is_empty() {
        attempt.response_body(body, true);
    }
}

/// The header `name` of what reached the backend.
fn sent(attempt: &Attempt, name: &str) -> Option<String> {
    let sent = attempt.sent().expect("it left");
    sent.headers.get(name).map(str::to_owned)
}

/// The client's answer: status, backend, attempts, body.
fn outcome(request: &Routed) -> (u16, String, String, String) {
    let answer = request.answer();
    assert_eq!(answer.headers.get("x-aoai-retry"), None, "{answer:?}");
    let header = |name| answer.headers.get(name).unwrap_or_default().to_owned();
    (
        answer.status,
        header("x-aoai-backend"),
        header("x-aoai-attempts"),
        answer.text().to_owned(),
    )
}
