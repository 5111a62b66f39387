//! Statistics: counted in memory, handed over once a second.

use std::time::Duration;

use mock_host::Host;

use super::support::*;

#[test]
fn counts_are_handed_over_on_a_tick_only() {
    let (host, vm) = ready();
    host.advance(seconds(1));
    host.clear_counts();
    for _ in 0..5 {
        respond(&send(&vm), 200, "ok");
    }
    assert_eq!(host.statistic("aoai.requests"), 0);
    assert!(!host.counts().contains_key("proxy_increment_metric"));
    host.advance(seconds(1));
    assert_eq!(host.statistic("aoai.requests"), 5);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 2);
    assert_eq!(host.statistic("aoai.backend.east.outcome.success"), 2);
    assert_eq!(host.statistic("aoai.backend.north.attempts"), 1);
    host.advance(seconds(5));
    assert_eq!(host.statistic("aoai.requests"), 5, "once");
}

#[test]
fn what_was_not_handed_over_yet_is_when_the_worker_ends() {
    let (host, vm) = ready();
    drop(send(&vm));
    drop(vm);
    assert_eq!(host.statistic("aoai.requests"), 1);
}

#[test]
fn the_gauge_shows_how_long_the_token_lasts() {
    let (host, _vm) = ready();
    host.advance(seconds(100));
    let left = host.statistic("aoai.identity.seconds_to_expiry");
    assert!((3498..=3500).contains(&left), "{left}");
}

#[test]
fn an_idle_worker_ticks_once_a_second_and_hands_over_nothing() {
    let (host, vm) = ready();
    host.advance(seconds(2));
    host.clear_counts();
    host.advance(seconds(10));
    let counts = host.counts();
    assert_eq!(counts["proxy_on_tick"].calls, 10);
    assert!(!counts.contains_key("proxy_increment_metric"));
    assert!(!counts.contains_key("proxy_log"));
    assert_eq!(vm.tick_period(), Some(Duration::from_secs(1)));
}

#[test]
fn a_worker_in_a_hurry_hands_over_once_a_second_all_the_same() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    host.advance(millis(1));
    host.clear_counts();
    let stream = get(&vm);
    host.advance(seconds(4));
    assert_eq!(stream.answered(), None, "it waits");
    let counts = host.counts();
    assert!(counts["proxy_on_tick"].calls > 100);
    assert!((3..=5).contains(&counts["proxy_record_metric"].calls));
}
