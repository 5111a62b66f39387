//! Tests of the filter engine alone: further attempts are calls, and the client gets answers made by Envoy or the
//! module.

mod bodies;
mod held_bodies;
mod refusals;
mod replaced;
mod retries;
mod surface;

use super::support::*;
