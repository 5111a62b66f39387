//! Shared data that is junk, or that the host does not give.

use mock_host::{status, Fault};
use serde_json::json;

use super::*;

#[test]
fn junk_in_shared_data_is_overwritten() {
    let (host, vm) = fleet(2, json!({}));
    // The last one is a cooldown until the year 2 million.
    for junk in [&b""[..], b"\x01", b"\x02\x07\x07", &[0xff; 80], &[1; 43]] {
        for key in host.shared_keys() {
            if !key.contains(".token.") {
                host.set_shared(&key, junk);
            }
        }
        host.advance(seconds(400));
        assert_eq!(served_by(&vm, 4).len(), 4);
        throttle_next(&vm);
        assert_eq!(served_by(&vm, 4).len(), 4);
    }
}

/// A backend throttles, and the other one serves.
fn throttle_next(vm: &Vm) {
    let stream = get(vm);
    throttle(&stream, "1");
    vm.answer(&vm.call(), 200, [], "from another");
    assert_eq!(stream.answer().status, 200);
}

#[test]
fn without_shared_data_requests_are_served_all_the_same() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "1");
    host.advance(seconds(1));
    host.inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
    host.inject(Fault::of("proxy_get_shared_data"));
    for _ in 0..4 {
        let stream = get(&vm);
        respond(&stream, 500, "x");
        vm.answer(&vm.call(), 200, [], "fine");
        assert_eq!(stream.answer().status, 200);
    }
}
