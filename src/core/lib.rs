//! The core makes all decisions, without side effects.
//!
//! It has no host, clock, environment, randomness or global state. Time is an argument, and actions are return values.
//! So all of it runs natively in milliseconds under a virtual clock. The filter turns Envoy's callbacks into calls of
//! the core, and results into host calls.
//!
//! A request becomes a [`Plan`](plan::Plan), which orders the backends to try. An [`Exchange`](exchange::Exchange)
//! follows it. Every attempt ends with an [`Outcome`](outcome::Outcome), which decides whether the next backend is
//! tried.

#![no_std]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

/// The items of the standard library's prelude that `core`'s lacks.
mod prelude {
    pub(crate) use alloc::borrow::ToOwned;
    pub(crate) use alloc::boxed::Box;
    pub(crate) use alloc::format;
    pub(crate) use alloc::string::{String, ToString};
    pub(crate) use alloc::vec;
    pub(crate) use alloc::vec::Vec;
}

pub mod affinity;
pub mod api;
pub mod attempt;
pub mod attempts;
pub mod balancer;
pub mod budget;
pub mod clean_path;
pub mod client_credentials;
pub mod clients;
pub mod codec;
pub mod config;
pub mod demand;
pub mod edits;
pub mod exchange;
pub mod fleet;
pub mod gate;
pub mod hash;
pub mod header_map;
pub mod health;
pub mod host;
pub mod identity;
pub mod inflate;
pub mod inspection;
pub mod json;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod multipart;
pub mod no_retry;
pub mod operation;
pub mod outcome;
pub mod pace;
pub mod path;
pub mod plan;
pub mod prices;
pub mod replay;
pub mod reply;
pub mod request;
pub mod retry_after;
pub mod schedule;
pub mod splices;
pub mod sse;
pub mod state;
pub mod statistics;
pub mod stream_end;
pub mod stream_start;
pub mod stripper;
mod subprotocols;
pub mod surface;
pub mod swap;
pub mod text;
pub mod time;
pub mod turns;
pub mod usage;
pub mod usage_refusals;
pub mod why;
