//! The harness of the end-to-end tests: a real Envoy with the built module in front of simulated Azure OpenAI resources.
//!
//! Everything is synchronous, so a test is a plain `#[test]` that reads from top to bottom, and any number run at once:
//! every [`Gateway`] has ports and files of its own and ends with the test.
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
//! What has to be there is told by the environment, as `cargo xtask test` sets it: `AOAI_WASM` names the built module,
//! `AOAI_ENVOY_1_40_0` and its like the Envoy binaries. A test that misses one fails; none is skipped.

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
