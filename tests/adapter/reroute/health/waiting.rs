//! All are out: the client is told, or its request waits.

use serde_json::json;

use super::*;

#[test]
fn when_all_are_throttled_a_trial_a_second_reaches_the_router() {
    let gateway = fleet(2, json!({}));
    let request = gateway.send();
    throttle(&request.attempt(), "20");
    throttle(&request.attempt(), "30");
    let last = request.answer();
    assert_eq!(last.headers.get("retry-after"), Some("20"), "of both");
    gateway.host.advance(millis(10));
    // The second backend's was advice, until a request of its own is refused there.
    let request = gateway.send();
    assert_eq!(request.attempt().cluster(), "aoai_west");
    throttle(&request.attempt(), "30");
    assert_eq!(request.attempt().cluster(), "aoai_east", "a trial");
    throttle(&request.attempt(), "20");
    assert_eq!(request.answer().headers.get("retry-after"), Some("20"));
    let _trial = gateway.send();
    for _ in 0..3 {
        let request = gateway.send();
        let answer = request.answer();
        assert_eq!(
            (answer.status, code(answer.text()).as_str()),
            (429, "all_backends_throttled")
        );
        assert_eq!(answer.headers.get("retry-after-ms"), Some("19990"));
        assert!(request.forwarded().is_none());
    }
    assert_eq!(gateway.counted("aoai.refused.throttled"), 3);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
    let trials = ["east", "west"].map(|name| {
        let counter = format!("aoai.backend.{name}.trials");
        gateway.host.statistic(&counter)
    });
    assert_eq!(trials, [1, 1]);
}

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    let gateway = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&gateway.send().attempt(), "2");
    let trial = gateway.send();
    let request = gateway.router.request(chat_of(BODY.len()), false);
    let (begin, end) = BODY.split_at(9);
    request.body(begin, false);
    gateway.host.advance(millis(1900));
    assert!(request.forwarded().is_none() && request.answered().is_none());
    gateway.host.advance(millis(200));
    request.body(end, true);
    assert_eq!(request.forwarded().unwrap().body, BODY.as_bytes());
    answer(&request.attempt(), 200, "fine");
    assert_eq!(outcome(&request), is(200, "east", "1", "fine"));

    trial.disconnect();
    let other = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&other.send().attempt(), "2");
    let trial = other.send();
    other.send().disconnect();
    assert_eq!(other.counted("aoai.client_gone"), 1);
    throttle(&trial.attempt(), "6");
    let _trial = other.send();
    assert_eq!(other.send().answer().status, 429, "too long to wait");
}

#[test]
fn a_served_trial_resumes_those_that_wait() {
    let gateway = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&gateway.send().attempt(), "2");
    gateway.host.advance(millis(10));
    let trial = gateway.send();
    let waiting = gateway.send();
    gateway.host.advance(millis(30));
    assert!(waiting.forwarded().is_none());
    answer(&trial.attempt(), 200, "fine");
    gateway.host.advance(millis(20));
    answer(&waiting.attempt(), 200, "fine");
    assert_eq!(outcome(&waiting), is(200, "east", "1", "fine"));
}
