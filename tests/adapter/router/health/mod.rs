//! What the router engine learns from attempts, and how it leads the router past those who are out.

mod findings;
mod foreseen;
mod recovery;

use super::*;

/// Where the router would go if the current attempt got no answer.
pub(super) fn foreseen(request: &Request) -> String {
    let next = String::from_utf8(request.property("aoai_next").unwrap()).unwrap();
    next.split(' ').next().unwrap().to_owned()
}
