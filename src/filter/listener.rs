//! The listener's side of a request: what the drivers of both engines do alike.

use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::driver::{action_of, apply, details_if, end_usage, pass_frame, sign};
use super::host::{self, HostError, Map};
use super::place::{Place, Request};
use super::shown::ShownBody;
use super::worker::{Stream, Worker};
use crate::core::balancer::Granted;
use crate::core::client_credentials::is_credential_header;
use crate::core::exchange::{Input, Next};
use crate::core::gate::Gate;

type Result<T> = std::result::Result<T, HostError>;

/// The listener's side of a request.
pub(super) struct Listener {
    pub(super) place: Place,
    shown: ShownBody,
    pub(super) up: Gate,
    pub(super) down: Gate,
}

impl Listener {
    pub(super) fn new(id: u32, worker: Rc<Worker>, me: Weak<dyn Stream>) -> Self {
        Self {
            place: Place::new(id, me, Request::new(id, worker)),
            shown: ShownBody::default(),
            up: Gate::default(),
            down: Gate::default(),
        }
    }

    /// The request's headers have come. Keeps the client's name for the access log, where it knows it as
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

    /// So many bytes of the request's body are shown.
    pub(super) fn request_body(&mut self, size: usize, end: bool) -> Result<Next> {
        self.up.complete(end);
        self.shown.show(size);
        let exchange = self.place.exchange();
        let is_wanted = exchange.wants_body(end);
        let plain = exchange.follows_body(end, self.place.balancer());
        drop(exchange);
        self.read_body(is_wanted, end)?;
        let input = Input::RequestBody { shown: size, end };
        Ok(plain.unwrap_or_else(|| self.place.advance(input)))
    }

    /// The request's body callback ends so.
    pub(super) fn end_body(&mut self, action: Action) -> Action {
        let passes = action == Action::Continue;
        if passes {
            self.shown.pass();
        }
        action_of(self.up.body(passes))
    }

    /// The request's trailers have come. They lose the client's credentials: none may reach a backend there either.
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
        let is_wanted = self.place.exchange().wants_body(true);
        self.read_body(is_wanted, true)?;
        Ok(self.place.advance(Input::RequestTrailers(trailers)))
    }

    /// A wait has ended.
    pub(super) fn granted(&mut self, granted: Granted) -> Result<Next> {
        let is_wanted = self.place.exchange().wants_rest_of_body();
        self.read_body(is_wanted, false)?;
        self.place.granted(granted)
    }

    fn read_body(&mut self, is_wanted: bool, end: bool) -> Result<()> {
        if is_wanted {
            let chunk = self.shown.read()?;
            (self.place.exchange_mut()).read(chunk, end, self.place.balancer());
        }
        Ok(())
    }

    /// Changes the request as its first attempt needs it.
    pub(super) fn send(&mut self) -> Result<()> {
        let (exchange, balancer) = (self.place.exchange(), self.place.balancer());
        apply(Map::RequestHeaders, &exchange.edits(balancer))?;
        let Some(edit) = exchange.body_edit(balancer) else {
            return Ok(());
        };
        let spliced = match edit.bytes {
            Some(bytes) => edit.splices.apply(bytes),
            None => edit.splices.apply(&ShownBody::all()?),
        };
        self.shown.replace(&spliced)
    }

    /// The client's answer begins to pass: signs it, prepares the reading of its frames, and watches its silences, if they have a limit.
    pub(super) fn pass(&mut self) -> Result<()> {
        if !self.down.is_complete() {
            self.place.watch_silences();
        }
        sign(&mut self.place.exchange_mut(), self.place.balancer())
    }

    /// Another frame of the client's answer has come, or its trailers; `end` if that is its end.
    pub(super) fn frame_comes(&mut self, end: bool) {
        self.down.complete(end);
        if end {
            self.place.unwatch();
        }
        self.place.request.count_frame();
    }

    /// A frame of the client's answer passes; `end` if it is the last.
    pub(super) fn pass_frame(&mut self, size: usize, end: bool) -> Result<()> {
        let exchange = &mut *self.place.exchange_mut();
        if !exchange.reads_answer() {
            return Ok(());
        }
        pass_frame(exchange, self.place.balancer(), size, end)?;
        match end {
            true => end_usage(exchange, self.place.balancer()),
            false => Ok(()),
        }
    }

    /// The client's answer is over: counts its tokens.
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
