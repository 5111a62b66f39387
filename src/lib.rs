//! An Envoy HTTP filter that balances Azure OpenAI resources: exact round robin over backends, a managed-identity token in
//! place of the client's credentials, and a failed request tried again on the next backend.
//!
//! [`core`] decides and knows no host; [`filter`] is the thin adapter between it and Envoy's proxy-wasm interface. See
//! `docs/architecture.md`.
//!
//! Functions that no request calls are marked `#[inline(never)]` where the compiler would make a large one of several: Envoy
//! compiles the whole module when it starts, the largest functions first, and never gives back the memory that took.
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

pub use balancer_core as core;

pub mod filter;
// With threads there would be more than one to take from it.
#[cfg(any(all(target_arch = "wasm32", not(target_feature = "atomics")), test))]
mod memory;

#[allow(missing_docs)] // The SDK's macro makes a public function.
mod entry {
    proxy_wasm::main! {{
        crate::filter::start();
    }}
}
