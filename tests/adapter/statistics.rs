//! Statistics: counted in memory, and reported once a second.

use serde_json::json;

use super::engines::*;

cases! {
    fn counts_are_reported_on_a_tick_only(engine) {
        let gateway = engine.gateway();
        gateway.host.advance(seconds(1));
        gateway.host.clear_counts();
        for _ in 0..5 {
            answer(&gateway.send().attempt(), 200, "ok");
        }
        assert_eq!(gateway.host.statistic("aoai.requests"), 0);
        assert!(!gateway.host.counts().contains_key("proxy_increment_metric"));
        gateway.host.advance(seconds(1));
        assert_eq!(gateway.host.statistic("aoai.requests"), 5);
        assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 2);
        assert_eq!(
            gateway.host.statistic("aoai.backend.east.outcome.success"),
            2
        );
        assert_eq!(gateway.host.statistic("aoai.backend.north.attempts"), 1);
        gateway.host.advance(seconds(5));
        assert_eq!(gateway.host.statistic("aoai.requests"), 5, "once");
    }

    fn pending_counts_are_reported_when_the_worker_ends(engine) {
        let gateway = engine.gateway();
        let host = gateway.host.clone();
        drop(gateway.send());
        drop(gateway);
        assert_eq!(host.statistic("aoai.requests"), 1);
    }

    fn the_gauge_shows_how_long_the_token_lasts(engine) {
        let gateway = engine.gateway();
        gateway.host.advance(seconds(100));
        let left = gateway.host.statistic("aoai.identity.seconds_to_expiry");
        assert!((3498..=3500).contains(&left), "{left}");
        let own = gateway.host.statistic("aoai.identity._default.seconds_left");
        assert_eq!(own, left);
    }

    fn an_idle_worker_ticks_once_a_second_and_reports_nothing(engine) {
        let gateway = engine.gateway();
        gateway.host.advance(seconds(2));
        gateway.host.clear_counts();
        gateway.host.advance(seconds(10));
        let counts = gateway.host.counts();
        assert_eq!(counts["proxy_on_tick"].calls, 10);
        assert!(!counts.contains_key("proxy_increment_metric"));
        assert!(!counts.contains_key("proxy_log"));
        assert_eq!(gateway.vm.tick_period(), Some(seconds(1)));
    }

    fn a_worker_with_fast_ticks_reports_once_a_second(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.host.advance(millis(1));
        gateway.host.clear_counts();
        let request = gateway.get();
        gateway.host.advance(seconds(4));
        assert_eq!(request.answered(), None, "it waits");
        let counts = gateway.host.counts();
        assert!(counts["proxy_on_tick"].calls > 100);
        // Among the calls are two gauges of the token.
        assert!((6..=10).contains(&counts["proxy_record_metric"].calls));
    }
}
