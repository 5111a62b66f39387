//! Several workers of one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use mock_host::{Fault, Host, Vm};

use super::support::*;

#[test]
fn workers_on_several_threads_have_exact_shares() {
    const WORKERS: usize = 4;
    const REQUESTS: usize = 1000;
    let (host, _first) = ready();
    let start = Arc::new(Barrier::new(WORKERS));
    let threads: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (host, start) = (host.clone(), Arc::clone(&start));
            thread::spawn(move || {
                let vm = host.vm(CONFIG);
                let mut shares = BTreeMap::<String, usize>::new();
                start.wait();
                for _ in 0..REQUESTS {
                    *shares.entry(routed_to(&get(&vm))).or_default() += 1;
                }
                shares
            })
        })
        .collect();
    let mut shares = BTreeMap::<String, usize>::new();
    for thread in threads {
        for (cluster, share) in thread.join().unwrap() {
            *shares.entry(cluster).or_default() += share;
        }
    }
    let mut counts: Vec<_> = shares.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1333, 1333, 1334]);
    assert_eq!(host.statistic("aoai.requests"), (WORKERS * REQUESTS) as u64);
    assert_quiet(&host);
}

#[test]
fn workers_that_start_at_once_ask_for_one_token() {
    const WORKERS: usize = 4;
    for _ in 0..20 {
        let host = Host::new();
        let start = Arc::new(Barrier::new(WORKERS));
        let threads: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (host, start) = (host.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    let vm = host.vm(CONFIG);
                    start.wait();
                    vm.tick();
                    vm.calls().len()
                })
            })
            .collect();
        let fetches: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(fetches, 1);
    }
}

fn four_workers(host: &Host) -> Vec<Vm> {
    (0..4).map(|_| host.vm(CONFIG)).collect()
}

/// The worker whose call to the token service is in progress.
fn asking(workers: &[Vm]) -> usize {
    let asking: Vec<_> = (0..workers.len())
        .filter(|index| !fetches(&workers[*index]).is_empty())
        .collect();
    assert_eq!(asking.len(), 1, "workers that ask: {asking:?}");
    asking[0]
}

#[test]
fn one_fetch_serves_all_workers() {
    let host = Host::new();
    let workers = four_workers(&host);
    let streams: Vec<_> = workers.iter().map(get).collect();
    host.advance(millis(50));
    give_token(&workers[asking(&workers)], TOKEN);
    host.advance(millis(25));
    for stream in &streams {
        assert!(stream.forwarded().is_some(), "within a tick");
    }
    host.advance(seconds(10));
    assert_eq!(host.statistic("aoai.identity.fetches"), 1);
    assert_quiet(&host);
}

#[test]
fn a_token_that_arrives_between_two_reads_ends_the_wait() {
    let host = Host::new();
    let workers = four_workers(&host);
    host.advance(millis(50));
    let asking = asking(&workers);
    give_token(&workers[asking], TOKEN);
    // The second read finds the token, as if it had come after the first.
    host.inject(Fault::of("proxy_get_shared_data").times(1));
    let stream = get(&workers[(asking + 1) % workers.len()]);
    assert_eq!(stream.answered(), None);
    host.advance(millis(25));
    assert!(stream.forwarded().is_some());
}

#[test]
fn another_worker_takes_over_the_fetch_of_one_that_ended() {
    let host = Host::new();
    let mut workers = four_workers(&host);
    host.advance(millis(50));
    let asked_at = host.now();
    workers.remove(asking(&workers)).crash();
    // 5 s for the fetch, and 2 s more until its lease ends.
    host.advance(millis(6900));
    assert!(workers.iter().all(|worker| fetches(worker).is_empty()));
    let stream = get(&workers[0]);
    host.advance(millis(200));
    assert!(host.now() - asked_at < seconds(8));
    give_token(&workers[asking(&workers)], TOKEN);
    host.advance(millis(25));
    assert!(stream.forwarded().is_some());
}

#[test]
fn the_token_is_refreshed_once_for_all_workers() {
    let host = Host::new();
    let workers = four_workers(&host);
    host.advance(millis(50));
    give_token(&workers[asking(&workers)], TOKEN);
    host.advance(seconds(3302));
    give_token(&workers[asking(&workers)], SECOND_TOKEN);
    host.advance(seconds(2));
    for worker in &workers {
        let forwarded = get(worker).forwarded().unwrap();
        assert_eq!(
            forwarded.headers.get("authorization"),
            Some("Bearer TOKEN-TWO")
        );
    }
    assert_eq!(counted(&host, "aoai.identity.fetches"), 2);
}

/// Of three requests in a row, no two went to the same cluster.
fn assert_dealt_in_turn(clusters: &[String]) {
    for three in clusters.windows(3) {
        assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2]);
    }
}

#[test]
fn workers_take_turns_together() {
    let (host, _first) = ready();
    let workers = four_workers(&host);
    let clusters: Vec<_> = (0..8).map(|i| routed_to(&get(&workers[i % 4]))).collect();
    assert_dealt_in_turn(&clusters);
}

#[test]
fn a_worker_notices_that_others_draw_turns() {
    let (host, _first) = ready();
    let workers = four_workers(&host);
    let reads = |host: &Host| {
        let counts = host.counts();
        counts.get("proxy_get_shared_data").map_or(0, |c| c.calls)
    };
    // Workers, and the number of requests that each sends in a row.
    let bursts = [
        (0, 12),
        (1, 1),
        (0, 1),
        (1, 12),
        (2, 10),
        (1, 2),
        (0, 9),
        (3, 1),
    ];
    let mut clusters = Vec::new();
    for (worker, requests) in bursts {
        host.clear_counts();
        for _ in 0..requests {
            clusters.push(routed_to(&get(&workers[worker])));
        }
        assert_eq!(
            reads(&host) < requests,
            requests > 5,
            "{worker}: {requests}"
        );
    }
    assert_dealt_in_turn(&clusters);
}

#[test]
fn a_worker_that_skips_reads_still_learns_of_cooldowns() {
    let (host, _first) = ready();
    let workers = four_workers(&host);
    for _ in 0..9 {
        respond(&get(&workers[0]), 200, "warm");
    }
    let throttled = get(&workers[1]);
    let cluster = routed_to(&throttled);
    throttled.respond(429, [("retry-after", "60")], true);
    for _ in 0..6 {
        assert_ne!(routed_to(&get(&workers[0])), cluster);
    }
}
