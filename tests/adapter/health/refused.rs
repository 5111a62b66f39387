//! When every backend is out, the client is told, and no one is asked.

use serde_json::json;

use super::*;

#[test]
fn when_all_are_out_no_one_is_asked_and_the_smallest_wait_is_said() {
    let (host, vm) = fleet(3, json!({}));
    let stream = get(&vm);
    throttle(&stream, "60");
    vm.answer(&vm.call(), 429, [("retry-after", "20")], "");
    vm.answer(&vm.call(), 429, [("retry-after-ms", "90500")], "");
    let answer = stream.answer();
    assert_eq!(
        answer.headers.get("retry-after"),
        Some("20"),
        "of all three"
    );
    assert_eq!(answer.headers.get("retry-after-ms"), Some("20000"));
    host.advance(millis(1500));
    let stream = get(&vm);
    assert_eq!(
        refused(&stream),
        (429, "18500".into(), "all_backends_throttled".into())
    );
    assert_eq!(stream.answer().headers.get("retry-after"), Some("19"));
    assert!(vm.calls().is_empty());
    drop(stream);
    assert_eq!(counted(&host, "aoai.refused.throttled"), 1);
    assert_eq!(host.statistic("aoai.client_gone"), 0);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
    assert_eq!(host.statistic("aoai.requests"), 2);
}

#[test]
fn when_all_are_broken_it_is_503() {
    let (host, vm) = fleet(
        1,
        json!({"cooldown": {"consecutive_failures": 2, "failing": "8s"}}),
    );
    for _ in 0..2 {
        respond(&get(&vm), 500, &error("InternalServerError"));
    }
    let (status, wait, code) = refused(&get(&vm));
    assert_eq!((status, code.as_str()), (503, "all_backends_unavailable"));
    assert!((8000..=10_000).contains(&wait.parse().unwrap()), "{wait}");
    assert_eq!(counted(&host, "aoai.refused.unavailable"), 1);
    assert_eq!(host.statistic("aoai.backend.east.state"), 2);
    assert!(host.statistic("aoai.backend.east.cooldown_seconds") > 4);
    host.advance(seconds(10));
    assert_eq!(served_by(&vm, 1), [EAST]);
    assert_eq!(counted(&host, "aoai.backend.east.state"), 0);
    assert_eq!(host.statistic("aoai.backend.east.cooldown_seconds"), 0);
}
