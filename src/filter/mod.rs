//! The adapter between Envoy's proxy-wasm interface and the [core](crate::core): bytes in, effects out.
//!
//! It keeps no decision. `host` is the only file that names host calls; `worker` is the root context, one for each worker
//! thread; `tokens` fetches and keeps the access token; `stream` walks one request through its plan.

mod header_map;
mod host;
mod stream;
mod tokens;
mod worker;

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

/// Registers the filter with the SDK; the module's `_initialize` calls it once per VM.
pub fn start() {
    // Envoy filters by its own log level; what it would drop must not be formatted either, so `info` is the finest we offer.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| -> Box<dyn RootContext> {
        Box::new(worker::Root::new(context_id))
    });
}
