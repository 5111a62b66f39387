//! A worker's memory of its backends, and its decisions by that memory.

mod clients;
mod failing;
mod findings;
mod junk;
mod quotas;
pub(super) mod recovery;
mod refused;
mod retrying;
mod sharing;
mod waiting;

use mock_host::Host;
use serde_json::Value;

use super::engines::*;

fn refused(request: &Request) -> (u16, String, String) {
    let answer = request.answer();
    let header = |name| answer.headers.get(name).unwrap_or("none").to_owned();
    assert_eq!(header("x-aoai-attempts"), "0");
    (answer.status, header("retry-after-ms"), code(answer.text()))
}

/// The shared key that begins with `prefix`.
fn host_key(host: &Host, prefix: &str) -> String {
    let keys = host.shared_keys();
    let mut keys = keys.into_iter().filter(|key| key.starts_with(prefix));
    keys.next().expect("there is one")
}
