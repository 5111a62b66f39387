//! An Envoy HTTP filter that balances Azure OpenAI resources. It distributes requests by exact round robin over backends.
//! It replaces the client's credentials with a managed identity's token, and retries a failed request on the next backend.
//!
//! [`core`] decides and knows no host. [`filter`] is the thin adapter between the core and Envoy's proxy-wasm
//! interface. See `docs/architecture.md`.
//!
//! Functions off the request path are `#[inline(never)]` where inlining would merge several into a large one. Envoy
//! compiles the whole module when it starts, the largest functions first, and never returns the memory that this takes.
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

#[cfg(any(target_arch = "wasm32", test))]
mod comparison;
pub mod filter;
// The allocator assumes one thread.
#[cfg(any(all(target_arch = "wasm32", not(target_feature = "atomics")), test))]
mod memory;

#[allow(missing_docs)] // The SDK's macro defines a public function without documentation.
mod entry {
    proxy_wasm::main! {{
        crate::filter::start();
    }}
}
