//! What the filter engine alone does: further attempts are calls, and the client gets what Envoy or the module makes of them.

mod bodies;
mod held_bodies;
mod refusals;
mod replaced;
mod retries;
mod surface;

use super::support::*;
