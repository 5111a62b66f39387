//! Shared data that is junk, or that the host refuses to give.

use mock_host::{status, Fault};
use serde_json::json;

use super::*;

/// A backend throttles, and the other one serves.
fn throttle_next(gateway: &Gateway) {
    let request = gateway.get();
    throttle(&request.attempt(), "1");
    answer(&request.attempt(), 200, "from another");
    assert_eq!(request.answer().status, 200);
}

cases! {
    fn junk_in_shared_data_is_overwritten(engine) {
        let gateway = engine.fleet(2, json!({}));
        // The last one reads as a cooldown until the year 2 million.
        for junk in [&b""[..], b"\x01", b"\x02\x07\x07", &[0xff; 80], &[1; 43]] {
            for key in gateway.host.shared_keys() {
                if !key.contains(".token.") {
                    gateway.host.set_shared(&key, junk);
                }
            }
            gateway.host.advance(seconds(400));
            assert_eq!(gateway.served_by(4).len(), 4);
            throttle_next(&gateway);
            assert_eq!(gateway.served_by(4).len(), 4);
        }
    }

    fn without_shared_data_requests_are_still_served(engine) {
        let gateway = engine.fleet(2, json!({}));
        gateway.throttle_east("1");
        gateway.host.advance(seconds(1));
        gateway
            .host
            .inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
        gateway.host.inject(Fault::of("proxy_get_shared_data"));
        for _ in 0..4 {
            let request = gateway.get();
            answer(&request.attempt(), 500, "x");
            answer(&request.attempt(), 200, "fine");
            assert_eq!(request.answer().status, 200);
        }
    }
}
