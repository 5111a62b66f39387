//! The router engine on a backend that recovers from a cooldown.

use serde_json::json;

use super::*;
use crate::adapter::health::recovery::{admits, recovering};

#[test]
fn a_place_is_given_back_when_the_router_makes_no_attempt() {
    let gateway = recovering(Engine::Router, json!({}));
    let router = gateway.router().without_heed();
    let request = loop {
        let request = send_through(&router);
        if request.attempt().cluster() == "aoai_west" {
            break request;
        }
        request.disconnect();
    };
    // The answer is not a failure, so the second backend stays free for the others.
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
    let gateway = recovering(Engine::Router, json!({}));
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
