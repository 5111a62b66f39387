//! Requests whose attempts are expected behind the router.

use crate::adapter::endings::assert_forgotten;
use crate::adapter::engines::*;

#[test]
fn a_request_in_flight_is_known_and_a_finished_one_is_not() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let id = request.id();
    answer(&request.attempt(), 200, "hello");
    drop(request);
    assert_forgotten(&gateway, id, 0);
    let request = gateway.send();
    assert!(gateway.knows(request.id()));
}

#[test]
fn attempts_that_failed_while_held_leave_nothing_behind() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let id = request.id();
    let first = request.attempt();
    first.respond(404, [], false);
    first.fail();
    answer(&request.attempt(), 401, &error("401"));
    request.attempt().fail();
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "north", "3", "hello"));
    drop(request);
    assert_forgotten(&gateway, id, 0);
}
