//! A stream's context as the SDK sees it.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::host::HostError;
use super::worker;
use crate::core::balancer::Granted;

type Result<T> = std::result::Result<T, HostError>;

/// What a driver does in a stream's callbacks.
pub(super) trait Callbacks: 'static {
    /// The request's headers have come.
    fn request_headers(&mut self, end: bool) -> Result<Action>;

    /// So many bytes of the request's body are shown.
    fn request_body(&mut self, size: usize, end: bool) -> Result<Action>;

    /// The request's trailers have come.
    fn request_trailers(&mut self) -> Result<Action>;

    /// The answer's headers have come.
    fn response_headers(&mut self, end: bool) -> Result<Action>;

    /// So many bytes of the answer's body are shown.
    fn response_body(&mut self, size: usize, end: bool) -> Result<Action>;

    /// The answer's trailers have come.
    fn response_trailers(&mut self) -> Result<Action>;

    /// What the stream waited for is there, or will not come.
    fn granted(&mut self, granted: Granted) -> Result<()>;

    /// A call was answered.
    fn call_answered(&mut self, _call: u32) -> Result<()> {
        Ok(())
    }

    /// The stream has ended, well or not.
    fn ended(&mut self) -> Result<()>;

    /// A host call was refused: answers the client, unless it has its answer.
    fn recover(&mut self) -> Result<()>;
}

/// A stream's context.
pub(super) struct Handle<S: Callbacks>(Rc<RefCell<S>>);

impl<S: Callbacks> Handle<S> {
    /// The context of the stream that `make` makes, which gets a way back to itself.
    pub(super) fn new(make: impl FnOnce(Weak<dyn worker::Stream>) -> S) -> Self {
        Self(Rc::new_cyclic(|me: &Weak<RefCell<S>>| {
            RefCell::new(make(Weak::clone(me) as Weak<dyn worker::Stream>))
        }))
    }
}

/// Runs one callback of a stream, or its end: that is when the SDK drops its context, in Envoy's last callback, in which the stream
/// can still be asked everything. The callbacks before that one would cost every request something, so the module does not export
/// them.
///
/// An error is logged and answered: a stream never hangs because a host call was refused, and a request that could not be edited
/// never leaves. `otherwise` is what the callback then returns. Those of an answer let it pass: if the client has it already it
/// goes on, and if it was replied to instead, Envoy stops it whatever is returned.
#[inline(always)]
fn run<S: Callbacks, T>(
    stream: &RefCell<S>,
    otherwise: T,
    act: impl FnOnce(&mut S) -> Result<T>,
) -> T {
    let Ok(mut stream) = stream.try_borrow_mut() else {
        log::error!("a callback came while another one of the same stream was running");
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
    fn granted(&self, granted: Granted) {
        run(self, (), |stream| stream.granted(granted));
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
