//! Tests of the adapter between Envoy and the core, natively through the proxy-wasm ABI. A mock host plays Envoy, and
//! the test plays client, backends, token service and clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod adapter {
    mod engines;
    mod support;

    mod affinity;
    mod attempts;
    mod bodies;
    mod budget;
    mod clients;
    mod configuration;
    mod credentials;
    mod encodings;
    mod endings;
    mod errors;
    mod filter;
    mod health;
    mod held_bodies;
    mod keys;
    mod limits;
    mod messages;
    mod no_answer;
    mod objects;
    mod other_filters;
    mod refusals;
    mod router;
    mod spellings;
    mod statistics;
    mod stream_start;
    mod surface;
    mod token;
    mod unauthorized;
    mod usage;
    mod usage_option;
    mod why;
    mod workers;
}
