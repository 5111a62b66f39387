//! The router engine's findings, and the way it leads the router past unavailable backends.

mod findings;
mod foreseen;
mod recovery;

use super::*;

/// The cluster to which the router would go if the current attempt got no answer.
pub(super) fn foreseen(request: &Request) -> String {
    let next = String::from_utf8(request.property("aoai_next").unwrap()).unwrap();
    next.split(' ').next().unwrap().to_owned()
}
