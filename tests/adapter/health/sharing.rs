//! What workers, configurations and reloads know of each other's findings.

use serde_json::{json, Value};

use super::*;

#[test]
fn what_one_worker_finds_hides_nothing_that_another_found() {
    let (host, first) = fleet(3, json!({}));
    let second = host.vm(&fleet_config(3, json!({})));
    host.advance(millis(50));
    let under_way = get(&first);
    assert_eq!(routed_to(&under_way), EAST);
    let stream = get(&second);
    assert_eq!(routed_to(&stream), WEST);
    throttle(&stream, "30");
    second.answer(&second.call(), 200, [], "fine");
    // The first worker writes something itself before it has looked.
    throttle(&under_way, "30");
    first.answer(&first.call(), 200, [], "fine");
    assert_eq!(served_by(&first, 3), [NORTH; 3]);
}

#[test]
fn other_workers_know_with_their_next_request() {
    let (host, first) = fleet(2, json!({}));
    let others: Vec<Vm> = (0..3)
        .map(|_| host.vm(&fleet_config(2, json!({}))))
        .collect();
    host.advance(millis(50));
    for other in &others {
        assert_eq!(served_by(other, 2), [EAST, WEST]);
    }
    throttle_east(&first, "7");
    for other in &others {
        assert_eq!(served_by(other, 2), [WEST, WEST]);
    }
    host.advance(seconds(7));
    let workers = || others.iter().chain([&first]);
    let streams: Vec<_> = workers().chain(workers()).map(get).collect();
    let to_east = streams.iter().filter(|stream| routed_to(stream) == EAST);
    assert_eq!(to_east.count(), 1, "one for all of them");
    for stream in &streams {
        respond(stream, 200, "fine");
    }
    for worker in workers() {
        let served = served_by(worker, 2);
        assert_eq!(served.iter().filter(|cluster| *cluster == EAST).count(), 1);
    }
    drop(streams);
    assert_eq!(counted(&host, "aoai.backend.east.probes"), 4);
}

#[test]
fn cooldowns_stay_with_their_cluster_and_host() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "60");
    let backend =
        |name, cluster, host| json!({"name": name, "cluster": cluster, "host": host, "weight": 3});
    let start = |backends: Value| {
        let vm = host.vm(&fleet_config(2, json!({"backends": backends})));
        host.advance(millis(50));
        vm
    };
    let same = start(json!([
        backend("renamed", EAST, "east.openai.azure.com"),
        backend("other", "aoai_other", "other.openai.azure.com"),
    ]));
    assert_eq!(served_by(&same, 3), ["aoai_other"; 3]);
    let moved = start(json!([backend("east", EAST, "east2.openai.azure.com")]));
    assert_eq!(served_by(&moved, 1), [EAST]);
}

#[test]
fn another_configuration_that_shares_a_backend_knows_within_a_tick() {
    let (host, vm) = fleet(3, json!({}));
    let other = host.vm(&fleet_config(2, json!({})));
    host.advance(millis(50));
    served_by(&other, 2);
    throttle_east(&vm, "60");
    host.advance(seconds(1));
    assert_eq!(served_by(&other, 3), [WEST; 3]);
}
