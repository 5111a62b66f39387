//! The listener's side of a request, which the drivers of both engines share.

use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::buffered_body::BufferedBody;
use super::driver::{action_of, apply, details_if, end_usage, pass_frame, sign};
use super::host::{self, HostError, Map};
use super::place::{Place, Request};
use super::worker::{Stream, Worker};
use crate::core::balancer::WaitResult;
use crate::core::client_credentials::is_credential_header;
use crate::core::exchange::{BodyEdit, Exchange, Input, Next};
use crate::core::gate::Gate;

type Result<T> = std::result::Result<T, HostError>;

/// A request's state among the listener's filters.
pub(super) struct Listener {
    pub(super) place: Place,
    shown: BufferedBody,
    pub(super) up: Gate,
    pub(super) down: Gate,
}

impl Listener {
    pub(super) fn new(id: u32, worker: Rc<Worker>, me: Weak<dyn Stream>) -> Self {
        Self {
            place: Place::new(id, me, Request::new(id, worker)),
            shown: BufferedBody::default(),
            up: Gate::default(),
            down: Gate::default(),
        }
    }

    /// The request's headers arrived. Stores the client's name for the access log, as
    /// `%FILTER_STATE(wasm.aoai_client:PLAIN)%`.
    pub(super) fn request_headers(&mut self, end: bool) -> Result<Next> {
        self.up.complete(end);
        let headers = host::headers(Map::RequestHeaders)?;
        let next = self.place.advance(Input::Request { headers, end });
        if let Some(client) = self.place.exchange().client() {
            host::set_property("aoai_client", client.as_bytes())?;
        }
        Ok(next)
    }

    /// The buffer has `size` bytes of the request's body. Bodies come in many pieces, and most of them need no step of
    /// the machine. For those this returns the callback's result. Otherwise call [`Self::continue_body`] next.
    #[inline(always)]
    pub(super) fn request_body(&mut self, size: usize, end: bool) -> Result<Option<Action>> {
        self.up.complete(end);
        self.shown.show(size);
        let (mut exchange, balancer) = (self.place.exchange_mut(), self.place.balancer());
        let passes = exchange.passes_body(end, balancer);
        if exchange.wants_body(end) {
            exchange.read(self.shown.read()?, end, balancer);
        }
        drop(exchange);
        Ok(passes.map(|passes| self.end_body(passes)))
    }

    /// Passes a piece of the request's body to the machine, after [`Self::request_body`] returned `None`.
    pub(super) fn continue_body(&mut self, size: usize, end: bool) -> Next {
        let shown = size;
        self.place.advance(Input::RequestBody { shown, end })
    }

    /// Ends the callback of a piece of the request's body.
    #[inline]
    pub(super) fn end_body(&mut self, passes: bool) -> Action {
        if passes {
            self.shown.pass();
        }
        action_of(self.up.body(passes))
    }

    /// The request's trailers arrived. The client's credentials are removed from them: none may reach a backend.
    pub(super) fn request_trailers(&mut self) -> Result<Next> {
        self.up.complete(true);
        let trailers = host::headers(Map::RequestTrailers)?;
        for (name, _) in trailers
            .iter()
            .filter(|(name, _)| is_credential_header(name))
        {
            if let Ok(name) = std::str::from_utf8(name) {
                host::remove_header(Map::RequestTrailers, name)?;
            }
        }
        let wants = |exchange: &Exchange| exchange.wants_body(true);
        self.read_body_if(wants, true)?;
        Ok(self.place.advance(Input::RequestTrailers(trailers)))
    }

    /// A wait has ended.
    pub(super) fn wait_ended(&mut self, result: WaitResult) -> Result<Next> {
        self.read_body_if(Exchange::wants_rest_of_body, false)?;
        self.place.wait_ended(result)
    }

    #[inline(never)]
    fn read_body_if(&mut self, is_wanted: impl Fn(&Exchange) -> bool, end: bool) -> Result<()> {
        let exchange = &mut *self.place.exchange_mut();
        if is_wanted(exchange) {
            exchange.read(self.shown.read()?, end, self.place.balancer());
        }
        Ok(())
    }

    /// Edits the request for its first attempt.
    pub(super) fn send(&mut self) -> Result<()> {
        let (exchange, balancer) = (self.place.exchange(), self.place.balancer());
        apply(Map::RequestHeaders, &exchange.edits(balancer))?;
        match exchange.body_edit(balancer) {
            Some(edit) => change_body(&mut self.shown, &edit),
            None => Ok(()),
        }
    }

    /// The client's answer begins to pass: adds the module's headers, prepares the reading of frames, and starts the
    /// silence limit.
    pub(super) fn pass(&mut self) -> Result<()> {
        if !self.down.is_complete() {
            self.place.watch_silences();
        }
        sign(&mut self.place.exchange_mut(), self.place.balancer())
    }

    /// Another frame of the client's answer arrived, or its trailers. `end` marks the end of the answer.
    #[inline]
    pub(super) fn begin_frame(&mut self, end: bool) {
        self.down.complete(end);
        if end {
            self.place.unwatch();
        }
        self.place.request.count_frame();
    }

    /// Passes and reads a frame of an answer that the client already has, which is nearly every frame. `false` if the
    /// frame needs a step of the machine.
    #[inline]
    pub(super) fn pass_settled_frame(&mut self, size: usize, end: bool) -> Result<bool> {
        let exchange = &mut *self.place.exchange_mut();
        if !exchange.is_settled() || self.down.is_open_early() {
            return Ok(false);
        }
        self.down.body(true);
        if exchange.reads_answer() {
            pass_frame(exchange, self.place.balancer(), size, end)?;
        }
        Ok(true)
    }

    /// Reads a frame of the client's answer that passes. `end` marks the last frame.
    pub(super) fn pass_frame(&mut self, size: usize, end: bool) -> Result<()> {
        let exchange = &mut *self.place.exchange_mut();
        match exchange.reads_answer() {
            true => pass_frame(exchange, self.place.balancer(), size, end),
            false => Ok(()),
        }
    }

    /// Counts the tokens of the client's complete answer.
    pub(super) fn end_usage(&mut self) -> Result<()> {
        end_usage(&mut self.place.exchange_mut(), self.place.balancer())
    }

    /// The stream has ended.
    pub(super) fn end(&mut self) -> Result<()> {
        let place = &mut self.place;
        place.leave();
        place.unwatch();
        let complete = self.down.is_complete();
        let wants_details = !complete && place.exchange().wants_end_details();
        let details = details_if(wants_details)?;
        let _ = place.advance(Input::End { complete, details });
        Ok(())
    }
}

#[inline(never)]
fn change_body(shown: &mut BufferedBody, edit: &BodyEdit<'_>) -> Result<()> {
    let spliced = match edit.bytes {
        Some(bytes) => edit.splices.apply(bytes),
        None => edit.splices.apply(&BufferedBody::all()?),
    };
    shown.replace(&spliced)
}
