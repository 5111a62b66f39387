//! Where the router goes on from attempts that get no answer: written down before, looked at again once a second.

use mock_host::Stream;
use serde_json::json;

use super::*;

#[test]
fn the_router_is_led_past_those_who_are_out() {
    let gateway = Engine::Router.fleet(3, json!({}));
    let slow = gateway.send();
    assert_eq!(foreseen(&slow), "aoai_west");
    let other = gateway.send();
    assert_eq!(other.attempt().cluster(), "aoai_west");
    throttle(&other.attempt(), "30");
    answer(&other.attempt(), 200, "fine");
    // What follows an answer is chosen with the answer; what follows none is looked at again every second.
    gateway.host.advance(seconds(2));
    assert_eq!(foreseen(&slow), "aoai_north");
    slow.attempt().fail();
    assert_eq!(slow.attempt().cluster(), "aoai_north");
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "north", "2", "fine"));
    assert_quiet(&gateway.host);
}

#[test]
fn an_attempt_that_finds_its_backend_out_is_made_all_the_same() {
    let gateway = Engine::Router.fleet(3, json!({}));
    let slow = gateway.send();
    let other = gateway.send();
    throttle(&other.attempt(), "30");
    answer(&other.attempt(), 200, "fine");
    slow.attempt().fail();
    assert_eq!(
        slow.attempt().cluster(),
        "aoai_west",
        "there is no going back"
    );
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "west", "2", "fine"));
    let served: Vec<_> = (0..4)
        .map(|_| {
            let request = gateway.send();
            answer(&request.attempt(), 200, "fine");
            request.clusters().concat()
        })
        .collect();
    assert!(
        !served.contains(&"aoai_west".to_owned()),
        "nor did it decide anything: {served:?}"
    );
}

#[test]
fn with_no_one_foreseen_one_that_becomes_well_is_found() {
    let gateway = Engine::Router.fleet(2, json!({}));
    let slow = gateway.send();
    let other = gateway.send();
    throttle(&other.attempt(), "5");
    answer(&other.attempt(), 200, "fine");
    gateway.host.advance(seconds(2));
    slow.attempt().fail();
    assert_eq!(outcome(&slow).0, 503);
    drop(slow);
    assert_eq!(gateway.counted("aoai.no_retry.backends_cooling_down"), 1);

    let slow = gateway.send();
    assert_eq!(slow.attempt().cluster(), "aoai_east");
    gateway.host.advance(seconds(5));
    assert_eq!(foreseen(&slow), "aoai_west");
    slow.attempt().time_out();
    assert_eq!(slow.attempt().cluster(), "aoai_west");
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "west", "2", "fine"));
    drop(slow);
    assert_eq!(gateway.counted("aoai.backend.west.probes"), 1);
}

#[test]
fn looking_ahead_leaves_the_filter_engines_requests_alone() {
    let gateway = Engine::Router.fleet(2, json!({}));
    let other = gateway.vm.plugin(Setup::new(CONFIG)).unwrap();
    gateway.host.advance(millis(50));
    let stream: Stream = send(&other);
    gateway.host.advance(seconds(5));
    assert_eq!(stream.property("aoai_next"), None);
    respond(&stream, 200, "fine");
    assert_quiet(&gateway.host);
}
