//! What the router engine learns from attempts, and how it leads the router past those who are out.

mod findings;
mod foreseen;
mod recovery;

use super::*;

/// A worker with `count` backends, a token, and this in its configuration.
pub(super) fn fleet(count: usize, more: Value) -> Gateway {
    let mut config = routing(json!({"per_try_timeout": "10s"}));
    config["backends"].as_array_mut().unwrap().truncate(count);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::ready(Setup::new(config.to_string()))
}

pub(super) fn throttle(attempt: &Attempt, retry_after: &str) {
    attempt.respond(429, [("retry-after", retry_after)], true);
}

/// Where the router would go if the current attempt got no answer.
pub(super) fn foreseen(request: &Routed) -> String {
    let next = String::from_utf8(request.property("aoai_next").unwrap()).unwrap();
    next.split(' ').next().unwrap().to_owned()
}

/// Where the next requests go, each answered.
pub(super) fn served_by(gateway: &Gateway, requests: usize) -> Vec<String> {
    let served = (0..requests).map(|_| {
        let request = gateway.send();
        answer(&request.attempt(), 200, "fine");
        request.clusters().pop().unwrap()
    });
    served.collect()
}
