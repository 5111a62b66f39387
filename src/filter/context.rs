//! A stream's context as the SDK sees it.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::host::HostError;
use super::worker;
use crate::core::balancer::WaitResult;

type Result<T> = std::result::Result<T, HostError>;

/// A driver's handlers for a stream's callbacks.
pub(super) trait Callbacks: 'static {
    /// The request's headers arrived.
    fn request_headers(&mut self, end: bool) -> Result<Action>;

    /// The buffer has `size` bytes of the request's body.
    fn request_body(&mut self, size: usize, end: bool) -> Result<Action>;

    /// The request's trailers arrived.
    fn request_trailers(&mut self) -> Result<Action>;

    /// The answer's headers arrived.
    fn response_headers(&mut self, end: bool) -> Result<Action>;

    /// The buffer has `size` bytes of the answer's body.
    fn response_body(&mut self, size: usize, end: bool) -> Result<Action>;

    /// The answer's trailers arrived.
    fn response_trailers(&mut self) -> Result<Action>;

    /// The stream's wait is over: what it waited for is there, or will not come.
    fn wait_ended(&mut self, result: WaitResult) -> Result<()>;

    /// A call was answered.
    fn call_answered(&mut self, _call: u32) -> Result<()> {
        Ok(())
    }

    /// The stream has ended, normally or not.
    fn ended(&mut self) -> Result<()>;

    /// Envoy refused a host call: answers the client, unless it has its answer.
    fn recover(&mut self) -> Result<()>;
}

/// A stream's context.
pub(super) struct Handle<S: Callbacks>(Rc<RefCell<S>>);

impl<S: Callbacks> Handle<S> {
    /// Creates the stream's context. `make` gets a weak reference to the new stream.
    pub(super) fn new(make: impl FnOnce(Weak<dyn worker::Stream>) -> S) -> Self {
        Self(Rc::new_cyclic(|me: &Weak<RefCell<S>>| {
            RefCell::new(make(Weak::clone(me) as Weak<dyn worker::Stream>))
        }))
    }
}

/// Runs one callback of a stream, or its end. The SDK drops the context in Envoy's last callback, in which the stream's
/// properties are still readable. The module does not export the callbacks before it, since each would cost every
/// request a call.
///
/// An error is logged and answered. So a stream never hangs because Envoy refused a host call, and a request that could
/// not be edited is never sent. On an error the callback returns `otherwise`. Callbacks of an answer then continue: an
/// answer that the client already has goes on. An answer that a local reply replaced is stopped by Envoy in any case.
#[inline(always)]
fn run<S: Callbacks, T>(
    stream: &RefCell<S>,
    otherwise: T,
    act: impl FnOnce(&mut S) -> Result<T>,
) -> T {
    let Ok(mut stream) = stream.try_borrow_mut() else {
        log::error!(
            "a callback of a stream ran inside another callback of the same stream; it was ignored"
        );
        return otherwise;
    };
    act(&mut stream).unwrap_or_else(|error| {
        recover(&mut *stream, error);
        otherwise
    })
}

#[inline(never)]
fn recover(stream: &mut dyn Callbacks, error: HostError) {
    log::error!("{error}");
    if let Err(error) = stream.recover() {
        log::error!("{error}");
    }
}

impl<S: Callbacks> worker::Stream for RefCell<S> {
    fn wait_ended(&self, result: WaitResult) {
        run(self, (), |stream| stream.wait_ended(result));
    }

    fn call_answered(&self, call: u32) {
        run(self, (), |stream| stream.call_answered(call));
    }
}

impl<S: Callbacks> Context for Handle<S> {
    fn on_http_call_response(&mut self, call: u32, _: usize, _: usize, _: usize) {
        worker::Stream::call_answered(&*self.0, call);
    }
}

impl<S: Callbacks> HttpContext for Handle<S> {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        run(&self.0, Action::Pause, |s| s.request_headers(end))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        run(&self.0, Action::Pause, |s| s.request_body(size, end))
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Pause, S::request_trailers)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        run(&self.0, Action::Continue, |s| s.response_headers(end))
    }

    #[inline]
    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        run(&self.0, Action::Continue, |s| s.response_body(size, end))
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Continue, S::response_trailers)
    }
}

impl<S: Callbacks> Drop for Handle<S> {
    fn drop(&mut self) {
        run(&self.0, (), S::ended);
    }
}
