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

use mock_host::{Host, Router, Setup};
use serde_json::{json, Value};

use super::engines::*;

/// The configuration of three backends with these fields of `retry`.
fn routing(retry: Value) -> Value {
    serde_json::from_str(&Engine::Router.config(3, json!({"retry": retry}))).unwrap()
}

/// A worker with this configuration and a token.
fn ready(config: &Value) -> Gateway {
    Engine::Router.ready(Setup::new(config.to_string()))
}

/// A client's chat request, complete.
fn send_through(router: &Router) -> Request {
    let request = router.request(chat_of(BODY.len()), false);
    request.body(BODY, true);
    Request::Router(request)
}
