//! The adapter between Envoy's proxy-wasm interface and the [core](crate::core): bytes in, effects out.
//!
//! The adapter decides nothing.
//!
//! - `host` is the only file that names host calls. `envoy` implements the core's host with them.
//! - `root` reads the configuration.
//! - `worker` has the state that all streams of one configuration on one thread share.
//! - `reissue` and `reroute` are the drivers of the two retry engines. A driver feeds the core's
//!   [`Exchange`](crate::core::exchange::Exchange), the state machine of a request. With `reissue` the filter sends a
//!   request again itself, with `reroute` Envoy's router does.
//! - Both drivers share `listener`, the listener's side of a request; `place`, one of its contexts; and `driver`, which
//!   makes host calls of the machine's results.
//! - `context` implements the SDK's traits.

mod buffered_body;
mod context;
mod driver;
mod envoy;
mod host;
mod listener;
mod place;
mod reissue;
mod reroute;
mod root;
mod worker;

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

/// Registers the filter with the SDK. The module's `_initialize` calls it once per VM.
pub fn start() {
    // Envoy filters by its own log level, but formatting a dropped line costs time. So the module's finest level is
    // `info`.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| -> Box<dyn RootContext> {
        Box::new(root::Root::new(context_id))
    });
}
