//! The router engine on a backend that recovers from a cooldown.

use serde_json::json;

use super::*;

/// A gateway whose first of two backends recovers from a failure.
fn recovering() -> Gateway {
    let gateway = Engine::Router.fleet(
        2,
        json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}}),
    );
    let request = gateway.send();
    assert_eq!(request.attempt().cluster(), "aoai_east");
    answer(&request.attempt(), 500, "x");
    answer(&request.attempt(), 200, "fine");
    gateway.host.advance(seconds(3));
    gateway
}

/// Those of so many requests at once that go to the first backend. The second one has the others, and answers them.
fn to_east(gateway: &Gateway, requests: usize) -> Vec<Request> {
    let requests: Vec<_> = (0..requests).map(|_| gateway.send()).collect();
    let (east, west): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .partition(|request| request.attempt().cluster() == "aoai_east");
    for request in west {
        answer(&request.attempt(), 200, "fine");
    }
    east
}

/// How many more attempts the first backend admits now. They end without an outcome.
fn admits(gateway: &Gateway) -> usize {
    let requests = to_east(gateway, 20);
    let count = requests.len();
    requests.into_iter().for_each(Request::disconnect);
    count
}

#[test]
fn a_place_is_given_back_when_the_router_makes_no_attempt() {
    let gateway = recovering();
    let router = gateway.router().without_heed();
    let request = loop {
        let request = send_through(&router);
        if request.attempt().cluster() == "aoai_west" {
            break request;
        }
        request.disconnect();
    };
    // Not a failure, so the second backend is free for the others.
    answer(&request.attempt(), 401, &error("PermissionDenied"));
    assert_eq!(
        outcome(&request).0,
        401,
        "the router does not heed the mark"
    );
    drop(request);
    assert_eq!(admits(&gateway), 1);
}

#[test]
fn a_recovering_backend_without_a_host_has_failed_again() {
    let gateway = recovering();
    let router = gateway.router().without_hosts("aoai_east");
    let request = loop {
        let request = send_through(&router);
        if request.attempts().is_empty() {
            break request;
        }
        answer(&request.attempt(), 200, "fine");
    };
    assert_eq!(outcome(&request).0, 503);
    drop(request);
    assert_eq!(gateway.counted("aoai.backend.east.cooldowns.failing"), 2);
    assert_eq!(gateway.served_by(4), ["aoai_west"; 4]);
}
