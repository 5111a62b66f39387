//! What a worker remembers of its backends, and what it does with that. With the filter engine; most of it is common to both.

mod failing;
mod findings;
mod junk;
mod quotas;
mod recovery;
mod refused;
mod retrying;
mod sharing;
mod waiting;

use mock_host::{Host, Setup, Stream, Vm};
use serde_json::Value;

use super::support::*;

pub(super) const EAST: &str = "aoai_east";
const WEST: &str = "aoai_west";
const NORTH: &str = "aoai_north";

/// A worker with a token, `count` backends, and this in its configuration.
pub(super) fn fleet(count: usize, more: Value) -> (Host, Vm) {
    ready_with(Setup::new(fleet_config(count, more)))
}

pub(super) fn fleet_config(count: usize, more: Value) -> String {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(count);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string()
}

pub(super) fn throttle(stream: &Stream, retry_after: &str) {
    stream.respond(429, [("retry-after", retry_after)], true);
}

/// Where the next requests go, each answered.
pub(super) fn served_by(vm: &Vm, requests: usize) -> Vec<String> {
    let served = (0..requests).map(|_| {
        let stream = get(vm);
        let cluster = routed_to(&stream);
        respond(&stream, 200, "fine");
        cluster
    });
    served.collect()
}

/// The first backend answers 429 to a request that another one then serves.
pub(super) fn throttle_east(vm: &Vm, retry_after: &str) {
    let stream = get(vm);
    assert_eq!(routed_to(&stream), EAST);
    throttle(&stream, retry_after);
    vm.answer(&vm.call(), 200, [], "from another");
    assert_eq!(stream.answer().status, 200);
}

fn refused(stream: &Stream) -> (u16, String, String) {
    let answer = stream.answer();
    let header = |name| answer.headers.get(name).unwrap_or("none").to_owned();
    assert_eq!(header("x-aoai-attempts"), "0");
    (answer.status, header("retry-after-ms"), code(answer.text()))
}

/// The shared key that begins with this.
fn host_key(host: &Host, prefix: &str) -> String {
    let keys = host.shared_keys();
    let mut keys = keys.into_iter().filter(|key| key.starts_with(prefix));
    keys.next().expect("there is one")
}
