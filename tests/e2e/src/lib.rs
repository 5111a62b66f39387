//! A harness for end-to-end tests: a real Envoy with the built module, in front of simulated Azure OpenAI resources.
//!
//! Everything is synchronous, so a test is a plain `#[test]` that reads from top to bottom. Tests can run at once: each
//! [`Gateway`] has its own ports and files, and ends with the test.
//!
//! ```no_run
//! use e2e::{chat_request, simulate, Gateway};
//! use simulator::Behaviour;
//!
//! let azure = simulate(&["eastus", "westus"]);
//! let gateway = Gateway::builder()
//!     .simulator(&azure)
//!     .plugin(|p| p["retry"] = serde_json::json!({"max_attempts": 2}))
//!     .start();
//! azure.backend("eastus").set(Behaviour::throttled(7));
//! let answer = gateway.chat(&chat_request());
//! assert_eq!(answer.status, 200);
//! assert_eq!(answer.header("x-aoai-backend"), Some("westus"));
//! ```
//!
//! `cargo xtask test` sets the environment variables that the tests need. `AOAI_WASM` names the built module, and
//! `AOAI_ENVOY_1_40_0` and the like name the Envoy binaries. A test without its variable fails; none is skipped.

mod admin;
mod browser;
mod builder;
mod calls;
mod chat;
mod client;
mod engine;
mod form;
mod gateway;
mod load;
mod redis;
mod uneven;
mod version;
mod wire;

pub use crate::browser::Browser;
pub use crate::builder::{
    east_and_west, simulate, simulate_tls, simulate_with, GatewayBuilder, StartError, Upstream,
};
pub use crate::chat::{chat_request, Chat};
pub use crate::client::{Client, Connection, Stream, Upload};
pub use crate::form::Form;
pub use crate::gateway::{Gateway, Update};
pub use crate::load::{load, parallel, LoadResult, SetOnDrop};
pub use crate::redis::Redis;
pub use crate::uneven::uneven;
pub use crate::version::{module, EnvoyVersion};
pub use render::Engine;

pub use crate::wire::{Chunk, Ending, Headers, Response};
