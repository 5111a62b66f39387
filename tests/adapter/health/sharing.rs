//! Findings that workers, configurations and reloads share.

use serde_json::{json, Value};

use super::*;

cases! {
    fn one_workers_finding_does_not_overwrite_anothers(engine) {
        let first = engine.fleet(3, json!({}));
        let second = engine.beside(&first, 3, json!({}));
        let under_way = first.get();
        assert_eq!(under_way.attempt().cluster(), EAST);
        let request = second.get();
        assert_eq!(request.attempt().cluster(), WEST);
        throttle(&request.attempt(), "30");
        answer(&request.attempt(), 200, "fine");
        // The first worker writes a finding itself before it has read the other's.
        throttle(&under_way.attempt(), "30");
        answer(&under_way.attempt(), 200, "fine");
        assert_eq!(first.served_by(3), [NORTH; 3]);
    }

    fn other_workers_learn_with_their_next_request(engine) {
        let first = engine.fleet(2, json!({}));
        let others: Vec<Gateway> = (0..3)
            .map(|_| engine.beside(&first, 2, json!({})))
            .collect();
        for other in &others {
            assert_eq!(other.served_by(2), [EAST, WEST]);
        }
        first.throttle_east("7");
        for other in &others {
            assert_eq!(other.served_by(2), [WEST, WEST]);
        }
        first.host.advance(seconds(7));
        let workers = || others.iter().chain([&first]);
        let requests: Vec<_> = workers().chain(workers()).map(Gateway::get).collect();
        let to_east = requests
            .iter()
            .filter(|request| request.attempt().cluster() == EAST);
        assert_eq!(to_east.count(), 1, "one for all of them");
        for request in &requests {
            answer(&request.attempt(), 200, "fine");
        }
        for worker in workers() {
            let served = worker.served_by(2);
            assert_eq!(served.iter().filter(|cluster| *cluster == EAST).count(), 1);
        }
        drop(requests);
        assert_eq!(first.counted("aoai.backend.east.probes"), 4);
    }

    fn cooldowns_stay_with_their_cluster_and_host(engine) {
        let gateway = engine.fleet(2, json!({}));
        gateway.throttle_east("60");
        let backend = |name, cluster, host| json!({"name": name, "cluster": cluster, "host": host, "weight": 3});
        let start = |backends: Value| engine.beside(&gateway, 2, json!({"backends": backends}));
        let same = start(json!([
            backend("renamed", EAST, "east.openai.azure.com"),
            backend("other", "aoai_other", "other.openai.azure.com"),
        ]));
        assert_eq!(same.served_by(3), ["aoai_other"; 3]);
        let moved = start(json!([backend("east", EAST, "east2.openai.azure.com")]));
        assert_eq!(moved.served_by(1), [EAST]);
    }

    fn another_configuration_learns_within_a_tick(engine) {
        let gateway = engine.fleet(3, json!({}));
        let other = engine.beside(&gateway, 2, json!({}));
        other.served_by(2);
        gateway.throttle_east("60");
        gateway.host.advance(seconds(1));
        assert_eq!(other.served_by(3), [WEST; 3]);
    }
}
