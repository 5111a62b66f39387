//! The adapter between Envoy's proxy-wasm interface and the [core](crate::core): bytes in, effects out.
//!
//! It decides nothing. `host` is the only file that names host calls, `envoy` is Envoy as the core sees it. `root` reads the
//! configuration. A `worker` is what all streams of one configuration on one thread share. A request's state machine is the core's
//! [`Exchange`](crate::core::exchange::Exchange), which the driver of one of two retry engines feeds: with `reissue` the filter sends a
//! request again itself, with `reroute` Envoy's router does. Both share `listener`, the listener's side of a request, `place`, a context
//! of it, and `driver`, the host calls that the machine's answers become. `context` is what the SDK calls.

mod context;
mod driver;
mod envoy;
mod host;
mod listener;
mod place;
mod reissue;
mod reroute;
mod root;
mod shown;
mod worker;

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

/// Registers the filter with the SDK; the module's `_initialize` calls it once per VM.
pub fn start() {
    // Envoy filters by its own log level; what it would drop must not be formatted either, so `info` is the finest we offer.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| -> Box<dyn RootContext> {
        Box::new(root::Root::new(context_id))
    });
}
