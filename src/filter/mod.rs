//! The adapter between Envoy's proxy-wasm interface and the [core](crate::core): bytes in, effects out.
//!
//! It decides nothing. `host` is the only file that names host calls, `envoy` is Envoy as the core sees it. `root` reads the
//! configuration. A `worker` is what all streams of one configuration on one thread share; `tokens` fetches its access tokens and
//! `gauges` shows the backends' health. A request's state machine is the core's [`Exchange`](crate::core::exchange::Exchange), which
//! the driver of one of two retry engines feeds: with `reissue` the filter sends a request again itself, with `reroute` Envoy's router
//! does. `driver` is what the two share.

mod driver;
mod envoy;
mod gate;
mod gauges;
mod host;
mod reissue;
mod reroute;
mod root;
mod shown;
mod tokens;
mod worker;

use std::cell::RefCell;

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

use self::host::HostError;

/// Registers the filter with the SDK; the module's `_initialize` calls it once per VM.
pub fn start() {
    // Envoy filters by its own log level; what it would drop must not be formatted either, so `info` is the finest we offer.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| -> Box<dyn RootContext> {
        Box::new(root::Root::new(context_id))
    });
}

/// What can still answer its client when a host call was refused.
trait Recover {
    /// Answers the client, unless it has its answer.
    fn recover(&mut self) -> Result<(), HostError>;
}

/// Runs one callback of a stream, or its end: that is when the SDK drops its context, in Envoy's last callback, in which the stream
/// can still be asked everything. The callbacks before that one would cost every request something, so the module does not export
/// them.
///
/// An error is logged and answered: a stream never hangs because a host call was refused, and a request that could not be edited
/// never leaves. `otherwise` is what the callback then returns. Those of an answer let it pass: if the client has it already it
/// goes on, and if it was replied to instead, Envoy stops it whatever is returned.
fn run<S: Recover, T>(
    stream: &RefCell<S>,
    otherwise: T,
    act: impl FnOnce(&mut S) -> Result<T, HostError>,
) -> T {
    let Ok(mut stream) = stream.try_borrow_mut() else {
        log::error!("a callback came while another one of the same stream was running");
        return otherwise;
    };
    act(&mut stream).unwrap_or_else(|error| {
        log::error!("{error}");
        if let Err(error) = stream.recover() {
            log::error!("{error}");
        }
        otherwise
    })
}
