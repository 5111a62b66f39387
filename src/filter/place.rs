//! A request and its contexts: one among the listener's filters, and one per attempt behind the router.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::{Rc, Weak};

use super::driver::{answer_body, details_if, headers_if, status};
use super::envoy::Envoy;
use super::host::{self, HostError, Map};
use super::worker::{Stream, Worker};
use crate::core::balancer::{Awaited, Balancer, WaitResult, Watchable};
use crate::core::exchange::{Exchange, Input, Next, Stalled, ERROR_BODY};
use crate::core::gate::Gate;
use crate::core::text::number;

type Result<T> = std::result::Result<T, HostError>;

/// A request. All of its contexts share it.
pub(super) struct Request {
    /// The id of the request's context among the listener's filters.
    pub(super) id: u32,
    pub(super) worker: Rc<Worker>,
    exchange: RefCell<Exchange>,
    /// The number of frames of the client's answer so far.
    frames: Cell<u32>,
}

impl Request {
    pub(super) fn new(id: u32, worker: Rc<Worker>) -> Rc<Self> {
        Rc::new(Self {
            id,
            exchange: RefCell::new(Exchange::new(&worker.balancer)),
            frames: Cell::default(),
            worker,
        })
    }

    pub(super) fn balancer(&self) -> &Balancer<Envoy> {
        &self.worker.balancer
    }

    pub(super) fn exchange(&self) -> Ref<'_, Exchange> {
        self.exchange.borrow()
    }

    pub(super) fn handle(&self, input: Input) -> Next {
        self.exchange.borrow_mut().handle(input, self.balancer())
    }

    /// Counts a frame of the client's answer.
    #[inline]
    pub(super) fn count_frame(&self) {
        self.frames.set(self.frames.get().wrapping_add(1));
    }

    /// The client's answer has been silent for longer than the limit.
    pub(super) fn silent(&self) -> Result<()> {
        match self.handle(Input::Silent) {
            Next::Reset => host::reset_stream(),
            _ => Ok(()),
        }
    }
}

impl Watchable for Request {
    fn frames(&self) -> u32 {
        self.frames.get()
    }
}

/// A context of a stream, and the request it belongs to.
pub(super) struct Place {
    id: u32,
    me: Weak<dyn Stream>,
    pub(super) request: Rc<Request>,
    waits: bool,
    is_watched: bool,
}

impl Place {
    pub(super) fn new(id: u32, me: Weak<dyn Stream>, request: Rc<Request>) -> Self {
        Self {
            id,
            me,
            request,
            waits: false,
            is_watched: false,
        }
    }

    pub(super) fn balancer(&self) -> &Balancer<Envoy> {
        self.request.balancer()
    }

    #[inline]
    pub(super) fn exchange(&self) -> Ref<'_, Exchange> {
        self.request.exchange.borrow()
    }

    #[inline]
    pub(super) fn exchange_mut(&self) -> RefMut<'_, Exchange> {
        self.request.exchange.borrow_mut()
    }

    /// Passes `input` to the machine, and starts the wait that it requests.
    pub(super) fn advance(&mut self, input: Input) -> Next {
        let mut next = self.request.handle(input);
        while let Next::Wait(awaited) = next {
            next = match self.wait(awaited) {
                true => Next::Hold,
                false => self.request.handle(Input::CannotWait),
            };
        }
        // The wait may continue while the other half of the stream goes on.
        if !matches!(next, Next::Hold | Next::Continue) {
            self.leave();
        }
        next
    }

    fn wait(&mut self, awaited: Awaited) -> bool {
        let (id, worker) = (self.id, &self.request.worker);
        self.waits = (self.me.upgrade()).is_some_and(|me| worker.wait(id, me, awaited));
        self.waits
    }

    /// Ends the stream's wait.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.request.worker.forget(self.id);
        }
    }

    /// Starts the silence limit of the client's answer, if one is configured.
    pub(super) fn watch_silences(&mut self) {
        let limit = self.exchange().silence_limit(self.balancer());
        if let Some(longest) = limit {
            self.is_watched = true;
            (self.request.worker).watch(Rc::clone(&self.request), longest);
        }
    }

    pub(super) fn unwatch(&mut self) {
        if std::mem::take(&mut self.is_watched) {
            self.request.worker.unwatch(self.id);
        }
    }

    /// Registers a call whose answer belongs to this stream.
    pub(super) fn call_made(&self, call: u32) {
        if let Some(me) = self.me.upgrade() {
            self.request.worker.call_made(call, self.id, me);
        }
    }

    /// The headers of an attempt's answer arrived. `end` means without a body. The answer can be held only if
    /// `may_hold`.
    pub(super) fn begin_answer(&mut self, end: bool, may_hold: bool) -> Result<Next> {
        let (exchange, balancer) = (self.exchange(), self.balancer());
        let reads_start = may_hold && !end && exchange.reads_stream_start(balancer);
        // Reading all headers costs one host call, as reading the status does.
        let headers = headers_if(reads_start)?;
        let status = match &headers {
            Some(headers) => headers.get(":status").and_then(|it| number(it.as_bytes())),
            None => status()?,
        };
        let status = status.unwrap_or(0);
        let wants = exchange.wants(status, balancer);
        drop(exchange);
        Ok(self.advance(Input::Answer {
            status,
            details: details_if(wants.details)?,
            headers: match headers {
                Some(headers) => Some(headers),
                None => headers_if(wants.headers)?,
            },
            end,
            may_hold,
        }))
    }

    /// Passes more of an attempt's answer to the machine: `shown` bytes in Envoy's buffer, or the trailers.
    pub(super) fn continue_answer(&mut self, shown: usize, end: bool) -> Result<Next> {
        let wanted = self.exchange().wants_answer_body(shown, end);
        let bytes = wanted.map(answer_body).transpose()?;
        Ok(self.advance(Input::AnswerBody { bytes, end }))
    }

    /// A wait has ended.
    pub(super) fn wait_ended(&mut self, result: WaitResult) -> Result<Next> {
        let stalled = match self.exchange().wants_stalled() {
            true => Some(Box::new(Stalled {
                headers: host::headers(Map::ResponseHeaders)?,
                body: answer_body(0..ERROR_BODY)?,
            })),
            false => None,
        };
        Ok(self.advance(Input::WaitEnded { result, stalled }))
    }

    /// The answer that was to pass needs another frame. A wait that is refused ends at once, because the frame may never come.
    pub(super) fn needs_frame(&mut self) -> Result<Next> {
        match self.request.handle(Input::NeedsFrame) {
            Next::Wait(awaited) => match self.wait(awaited) {
                true => Ok(Next::Hold),
                false => self.wait_ended(WaitResult::TimedOut),
            },
            next => Ok(next),
        }
    }

    /// Ends the callback of a frame of the answer. A gate that was opened early may decide otherwise than `passes`.
    pub(super) fn end_frame(&mut self, gate: &mut Gate, passes: bool) -> bool {
        match gate.is_open_early() {
            false => gate.body(passes),
            true => self.end_late_frame(gate, passes),
        }
    }

    #[inline(never)]
    fn end_late_frame(&mut self, gate: &mut Gate, passes: bool) -> bool {
        let held_one = gate.holds_frame();
        let passes = gate.body(passes);
        if gate.holds_frame() {
            // A tick resumes the stream soon, unless another frame comes first and passes together with this one. If
            // the waiting list is full, the last frame passes at once.
            let waits = self.wait(Awaited::StreamStart(gate.time_for_next_frame()));
            return !waits && gate.is_complete();
        }
        if held_one {
            self.leave();
        }
        passes
    }
}
