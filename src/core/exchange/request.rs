//! The client's request, until it leaves for its first backend.

use super::{Exchange, For, Next, State};
use crate::balancer::{Awaited, Balancer};
use crate::clients::client_name;
use crate::config::Config;
use crate::demand::Client;
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::identity::Identities;
use crate::inspection::{Inspection, Unreadable};
use crate::metrics::Event;
use crate::operation::Api;
use crate::reply::LocalReply;
use crate::request::Place;

impl Exchange {
    #[inline(never)]
    pub(super) fn begin<H: Host>(
        &mut self,
        headers: HeaderMap,
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let config = &balancer.config;
        balancer.count(Event::Request);
        self.has_ended = end;
        self.original = headers;
        self.request.read(self.original.iter(), &balancer.tags);
        self.identify_client(balancer);
        if let Some(reply) = self.refusal(config) {
            return self.refuse_unread(reply, balancer);
        }
        self.body = self.copy(balancer);
        if end {
            self.request.has_known_body = true;
        } else {
            let names_matter = balancer.fleet.names_matter()
                || (config.usage.names_deployments() || config.usage.asks())
                    && self.is_held_whole(balancer);
            match Inspection::of(&self.request, config, names_matter) {
                Ok(inspection) => self.inspection = inspection,
                Err(Unreadable) => {
                    let encoding = self.request.encoding().unwrap_or_default();
                    let reply = LocalReply::encoded_body(encoding);
                    return self.refuse_unread(reply, balancer);
                }
            }
        }
        if let Some(answered) = self.charge(balancer) {
            return answered;
        }
        if end {
            self.body.finish();
        }
        self.start(balancer)
    }

    /// Reads the client's name, and counts the request for it.
    fn identify_client<H: Host>(&mut self, balancer: &Balancer<H>) {
        let header = balancer.config.headers.client.as_deref();
        self.client = header.and_then(|header| client_name(self.original.get(header)?));
        if let Some(client) = &self.client {
            balancer.count_client(client);
            self.request.client = Client::named(client);
        }
    }

    /// The reply to a request that no backend may get, whatever its body.
    #[inline(never)]
    fn refusal(&self, config: &Config) -> Option<LocalReply> {
        let request = &self.request;
        let path = || self.original.get(":path").unwrap_or_default();
        let is_served =
            request.surface.is_some() || request.has_path && config.other_paths.pass(path());
        let is_for_claude = request.operation.api == Some(Api::Messages);
        if !is_served {
            Some(LocalReply::other_path())
        } else if is_for_claude && config.backends_with(Api::Messages).is_empty() {
            Some(LocalReply::no_api(Some(Api::Messages)))
        } else {
            request.hides_ids(config).then(LocalReply::no_websocket)
        }
    }

    #[inline(never)]
    fn refuse_unread<H: Host>(&mut self, reply: LocalReply, balancer: &Balancer<H>) -> Next {
        balancer.count(Event::NotServed);
        self.answer(reply)
    }

    /// Sends the request once a credential is available and the needed part of the body has arrived.
    pub(super) fn start<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !balancer.can_authorize() {
            return self.await_token(balancer);
        }
        let bodies = &balancer.listener_bodies;
        if bodies.may_come() && self.must_hold(balancer) {
            self.state = State::Holding(For::Body);
            // Once Envoy has shown a held body, it shows all. Then the body's callback continues the request.
            return match bodies.have_come() {
                true => Next::Hold,
                false => Next::Wait(Awaited::RequestBody),
            };
        }
        self.count_unread(balancer);
        self.begin_first_attempt(balancer)
    }

    pub(super) fn await_token<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        self.state = State::Holding(For::Token);
        // An upgrade request is not held. Its client sends nothing more before the answer, so the frame that would
        // continue the request without loss may never come.
        match self.request.upgrade {
            true => self.on_refused_wait(balancer),
            false => Next::Wait(Awaited::Token(self.identities(balancer))),
        }
    }

    /// The identities whose tokens this request can use.
    pub(super) fn identities<H: Host>(&self, balancer: &Balancer<H>) -> Identities {
        let only = match self.request.place(&balancer.config) {
            Place::Only(backends) => Some(backends),
            Place::Anywhere | Place::Nowhere => None,
        };
        let wanted = |backend| only.is_none_or(|only| only.contains(backend));
        balancer.credentials.wanted(wanted)
    }
}
