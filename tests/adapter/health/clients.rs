//! The effect of one client's 429s on other clients, if their names are known.

use serde_json::{json, Value};

use super::*;

fn config() -> Value {
    json!({"headers": {"client": "x-aoai-client"}, "retry": {"max_attempts": 1}})
}

fn ask_as(gateway: &Gateway, client: &str) -> Request {
    gateway.request(listing().with("x-aoai-client", client), true)
}

/// A client's request is sent on, and refused for a minute.
fn refuse(gateway: &Gateway, client: &str) {
    throttle(&ask_as(gateway, client).attempt(), "60");
    // An attempt that begins in the same millisecond may have begun before the 429.
    gateway.host.advance(millis(10));
}

/// Whether a client's request is answered without an attempt.
fn is_stopped(gateway: &Gateway, client: &str) -> bool {
    let request = ask_as(gateway, client);
    let is_stopped = request.forwarded().is_none();
    if is_stopped {
        assert_eq!(refused(&request).2, "all_backends_throttled");
    }
    is_stopped
}

cases! {
    fn a_clients_429s_stop_no_other_on_any_worker(engine) {
        let gateway = engine.fleet(1, config());
        let other = engine.beside(&gateway, 1, config());
        refuse(&gateway, "app-1");
        // One trial confirms a wait.
        refuse(&gateway, "app-1");
        for worker in [&gateway, &other] {
            assert!(is_stopped(worker, "app-1"));
            // The trial may come from any client.
            let request = ask_as(worker, "app-2");
            assert_eq!(request.attempt().cluster(), EAST);
        }
        assert_eq!(gateway.counted("aoai.backend.east.soft"), 2);
        assert_eq!(gateway.host.statistic("aoai.backend.east.trials"), 1);
        // The success shows that the wait was wrong.
        answer(&ask_as(&other, "app-2").attempt(), 200, "fine");
        for worker in [&gateway, &other] {
            answer(&ask_as(worker, "app-1").attempt(), 200, "fine");
        }
    }

    fn a_wait_of_three_clients_binds_all(engine) {
        let gateway = engine.fleet(1, config());
        let other = engine.beside(&gateway, 1, config());
        for client in ["app-1", "app-2", "app-3"] {
            refuse(&gateway, client);
        }
        for worker in [&gateway, &other] {
            assert!(["app-1", "app-4"].iter().all(|client| is_stopped(worker, client)));
        }
        // A client without a name counts as another client.
        assert!(gateway.get().forwarded().is_none());
        assert_eq!(gateway.counted("aoai.refused.throttled"), 5);
        gateway.host.advance(seconds(60));
        assert!(!is_stopped(&gateway, "app-4"), "it is over");
    }

    fn a_client_without_a_name_counts_as_another(engine) {
        let gateway = engine.fleet(1, config());
        for _ in 0..2 {
            throttle(&gateway.get().attempt(), "60");
            gateway.host.advance(millis(10));
        }
        assert!(gateway.get().forwarded().is_none());
        assert!(!is_stopped(&gateway, "app-1"));
    }

    fn a_waiting_client_is_resumed_when_another_is_served(engine) {
        let mut config = config();
        config["cooldown"] = json!({"wait_timeout": "60s"});
        let gateway = engine.fleet(1, config);
        refuse(&gateway, "app-1");
        refuse(&gateway, "app-1");
        let waiting = ask_as(&gateway, "app-1");
        assert!(waiting.forwarded().is_none());
        answer(&ask_as(&gateway, "app-2").attempt(), 200, "fine");
        gateway.host.advance(millis(40));
        assert_eq!(waiting.attempt().cluster(), EAST);
    }
}
