//! All are out: the client is told, or its request waits.

use serde_json::json;

use super::*;

#[test]
fn when_all_are_out_nothing_reaches_the_router() {
    let gateway = fleet(2, json!({}));
    let request = gateway.send();
    throttle(&request.attempt(), "20");
    throttle(&request.attempt(), "30");
    let last = request.answer();
    assert_eq!(last.headers.get("retry-after"), Some("20"), "of both");
    let request = gateway.send();
    let answer = request.answer();
    assert_eq!(
        (answer.status, code(answer.text()).as_str()),
        (429, "all_backends_throttled")
    );
    assert_eq!(answer.headers.get("retry-after-ms"), Some("20000"));
    assert!(request.forwarded().is_none());
    drop(request);
    assert_eq!(gateway.counted("aoai.refused.throttled"), 1);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
}

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    let gateway = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&gateway.send().attempt(), "2");
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

    throttle(&gateway.send().attempt(), "2");
    gateway.send().disconnect();
    assert_eq!(gateway.counted("aoai.client_gone"), 1);
    throttle(&gateway.send().attempt(), "6");
    assert_eq!(gateway.send().answer().status, 429, "too long to wait");
}
