//! An attempt that begins: it is addressed to the backend whose turn it is, whatever the attempt before made of the request.

use super::Shared;
use crate::core::attempt::grown;
use crate::core::config::Backend;
use crate::core::path;
use crate::core::splices::Splices;
use crate::filter::complaint::Complaint;
use crate::filter::host::{self, HostError, Map};

/// Whether an attempt leaves.
pub(super) enum Departing {
    /// It does, with this changed in its body.
    With(Splices),
    /// It does not; this is why.
    Refused(&'static str),
}

impl Shared {
    /// The router begins an attempt: addresses it to the backend whose turn it is.
    #[inline(never)]
    pub(super) fn readdress(&mut self) -> Result<Departing, HostError> {
        if !self.attempt_begins() {
            return Ok(Departing::Refused("aoai_plan_exhausted"));
        }
        let journey = &mut self.journey;
        let config = &journey.worker.config;
        if let (true, Some(backend)) = (
            // The first attempt was addressed downstream.
            journey.exchange.attempts() > 1,
            config.backends.get(journey.exchange.backend()),
        ) {
            let cluster = host::property("xds\0cluster_name")?;
            if cluster.is_some_and(|cluster| cluster != backend.cluster.as_bytes()) {
                journey.worker.complain(Complaint::Route);
                return Ok(Departing::Refused("aoai_wrong_route"));
            }
            if !config.left_to_envoy.host {
                host::set_header(Map::RequestHeaders, ":authority", &backend.host)?;
            }
            // What the attempt before made of the path is still there.
            if config.backends.iter().any(Backend::renames) {
                let path = journey.request.path(journey.client_path());
                let request = &journey.request;
                let deployment = &request.operation.deployment;
                let path = path::on_backend(path, request.surface, deployment, backend);
                host::set_header(Map::RequestHeaders, ":path", &path)?;
            }
            let authorization = journey.worker.credentials.of(journey.exchange.backend());
            let change = authorization.and_then(|new| Some((journey.carry(&new)?, new)));
            if let Some((old, new)) = change {
                let (old, new) = (old.credential(), new.credential());
                if old.name != new.name {
                    host::remove_header(Map::RequestHeaders, old.name)?;
                }
                host::set_header(Map::RequestHeaders, new.name, new.value)?;
            }
        }
        let renaming = self.renaming();
        if let (Some(length), false) = (
            self.journey.request.content_length,
            self.journey.request.model.is_none(),
        ) {
            let growth = self
                .journey
                .request
                .cuts
                .delta()
                .saturating_add(renaming.delta());
            let length = grown(length, growth).to_string();
            host::set_header(Map::RequestHeaders, "content-length", &length)?;
        }
        // Should this attempt get no answer, the router goes on without asking.
        self.point_to(self.foreseen)?;
        Ok(Departing::With(renaming))
    }

    /// What is to be changed in the body as it left the listener's filter: the deployment's name.
    pub(super) fn renaming(&self) -> Splices {
        let request = &self.journey.request;
        let backends = &self.journey.worker.config.backends;
        let backend = backends.get(self.journey.exchange.backend());
        backend.map_or_else(Splices::default, |backend| request.renaming(backend))
    }
}
