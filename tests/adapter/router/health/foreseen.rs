//! The cluster to which the router goes after an attempt without an answer: written down before, and checked once a
//! second.

use mock_host::Stream;
use serde_json::json;

use super::*;

#[test]
fn the_router_is_led_past_unavailable_backends() {
    let gateway = Engine::Router.fleet(3, json!({}));
    let slow = gateway.send();
    assert_eq!(foreseen(&slow), "aoai_west");
    let other = gateway.send();
    assert_eq!(other.attempt().cluster(), "aoai_west");
    throttle(&other.attempt(), "30");
    answer(&other.attempt(), 200, "fine");
    // The backend after an answer is chosen with the answer. The backend after no answer is checked every second.
    gateway.host.advance(seconds(2));
    assert_eq!(foreseen(&slow), "aoai_north");
    slow.attempt().fail();
    assert_eq!(slow.attempt().cluster(), "aoai_north");
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "north", "2", "fine"));
    assert_quiet(&gateway.host);
}

#[test]
fn an_attempt_on_an_unavailable_backend_is_still_made() {
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
fn a_backend_that_recovers_becomes_the_foreseen_one() {
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
fn foreseeing_does_not_change_the_filter_engines_requests() {
    let gateway = Engine::Router.fleet(2, json!({}));
    let other = gateway.vm.plugin(Setup::new(CONFIG)).unwrap();
    gateway.host.advance(millis(50));
    let stream: Stream = send(&other);
    gateway.host.advance(seconds(5));
    assert_eq!(stream.property("aoai_next"), None);
    respond(&stream, 200, "fine");
    assert_quiet(&gateway.host);
}
