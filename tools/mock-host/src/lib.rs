//! A native stand-in for Envoy's proxy-wasm host. A module built on the Rust SDK runs in the test's own process, and
//! the test plays client, router, token service and clock.
//!
//! The SDK imports `proxy_*` functions and exports `proxy_on_*` ones. Natively both are ordinary C symbols, so this crate
//! defines the imports, calls the exports, and nothing of the module is changed or mocked:
//!
//! ```no_run
//! # use std::time::Duration;
//! use mock_host::{Action, Host};
//!
//! let host = Host::new();
//! let vm = host.vm(r#"{"backends": []}"#);
//! let stream = vm.request([(":method", "GET"), (":path", "/"), (":authority", "gateway")], true);
//! assert_eq!(stream.action(), Action::Pause);
//! assert!(stream.forwarded().is_none());
//! host.advance(Duration::from_millis(20));
//! ```
//!
//! A [`Host`] is an Envoy process: its clock, shared data, statistics and log. A [`Vm`] is the module on one of its workers, a
//! [`Stream`] one request there. Several workers may live on one thread, where everything is deterministic, or each on a thread
//! of its own, where they race as they do in Envoy. The SDK's dispatcher tells them apart by context ids and call numbers, which
//! are never given twice.
//!
//! # What is modelled
//! As read in Envoy's `source/extensions/common/wasm/context.cc` and `source/common/http/filter_manager.cc`, and in
//! proxy-wasm-cpp-host's `src/exports.cc`:
//!
//! - A host call acts on the effective context, or else on the one whose callback runs; the effective context ends with the
//!   callback.
//! - Every call out belongs to the *root* context, whoever made it, and so does its answer: it can be read from any context of
//!   that root while the answer's callback runs. It is not cancelled when a stream ends.
//! - Header maps can be changed until their callback has returned `Continue`, or the request was resumed.
//! - A paused body is cumulative, see [`Stream::body`]; a paused headers callback stops bodies too unless the plugin allows
//!   otherwise, see [`Setup::allow_on_headers_stop_iteration`].
//! - A local reply and a resume take effect after the callback, before its own result does. A local reply runs through the
//!   module's response callbacks if no response has begun, replaces one that is held, and resets the stream after that.
//! - Plugins may share a VM ([`Vm::plugin`]): its contexts know each other, and each root context has a timer of its own.
//! - A [`Router`] stands for Envoy's where the module is also among the filters of the clusters, and so sees every attempt.
//! - A frame after an asynchronous resume may be lost, see [`Setup::loses_frames`].

mod abi;
mod calls;
mod counts;
mod fault;
mod half;
mod headers;
mod host;
mod imports;
mod router;
mod shared_data;
mod statistics;
mod stream;
mod vm;

pub use abi::{status, Action};
pub use counts::Count;
pub use fault::Fault;
pub use half::Message;
pub use headers::Headers;
pub use host::{Host, Log, LogLevel};
pub use imports::{host_call, HostCall, Memory};
pub use router::{Attempt, Routed, Router};
pub use stream::{Answer, Stream};
pub use vm::{Call, Refused, Setup, Vm};
