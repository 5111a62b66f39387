//! The harness of the end-to-end tests: a real Envoy with the built module in front of simulated Azure OpenAI resources.
//!
//! Everything is synchronous, so a test is a plain `#[test]` that reads from top to bottom, and any number run at once:
//! every [`Gateway`] has ports and files of its own and ends with the test.
//!
//! ```no_run
//! # fn upstream(name: &str) -> e2e::Upstream { unimplemented!() }
//! use e2e::{chat_request, Gateway};
//!
//! let gateway = Gateway::builder()
//!     .upstream(upstream("eastus"))
//!     .upstream(upstream("westus"))
//!     .plugin(|p| p["retry"] = serde_json::json!({"max_attempts": 2}))
//!     .start();
//! let answer = gateway.chat(&chat_request());
//! assert_eq!(answer.status, 200);
//! assert_eq!(answer.header("x-aoai-attempts"), Some("1"));
//! ```
//!
//! What has to be there is told by the environment, as `cargo xtask test` sets it: `AOAI_WASM` names the built module,
//! `AOAI_ENVOY_1_40_0` and its like the Envoy binaries. A test that misses one fails; none is skipped.

mod admin;
mod builder;
mod chat;
mod client;
mod gateway;
mod load;
mod version;
mod wire;

pub use crate::builder::{GatewayBuilder, StartError, Upstream};
pub use crate::chat::{chat_request, Chat};
pub use crate::client::{Client, Connection, Stream, Upload};
pub use crate::gateway::{Gateway, Update};
pub use crate::load::{load, parallel, LoadResult};
pub use crate::version::EnvoyVersion;
pub use crate::wire::{Chunk, Ending, Headers, Response};
