//! The deployments and APIs of a backend, by its configuration.

use crate::config::{Apis, Backend, Unlisted};
use crate::demand::{Demand, DeploymentId};
use crate::prelude::*;

/// The deployments and APIs of a backend, by its configuration.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// The deployments, if the configuration lists all of them.
    deployments: Option<Vec<DeploymentId>>,
    apis: Apis,
}

impl Offer {
    pub(super) fn of(backend: &Backend) -> Self {
        let deployments = &backend.deployments;
        let names = deployments.names().map(DeploymentId::of);
        Self {
            deployments: (deployments.unlisted == Unlisted::Refuse).then(|| names.collect()),
            apis: backend.apis.clone(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.deployments.is_none() && self.apis == Apis::All
    }

    pub(super) fn meets(&self, demand: &Demand) -> bool {
        let deployment = match (&self.deployments, demand.deployment) {
            (Some(offered), Some(deployment)) => offered.contains(&deployment),
            _ => true,
        };
        deployment && demand.api.is_none_or(|api| self.apis.include(api))
    }
}
