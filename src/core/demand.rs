//! The demands of a request on a backend, and the quota it uses.

use super::hash::{fingerprint, fingerprint_of, scatter, END_OF_PART};
use super::operation::Api;

/// The properties that a request needs its backend to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The deployment, if the request names one and the name was read.
    pub deployment: Option<DeploymentId>,
    /// The API.
    pub api: Option<Api>,
    /// The quota that the request uses.
    pub quota: QuotaKey,
    /// The size of the request's body in bytes, if announced.
    pub size: Option<u32>,
    /// The client.
    pub client: Client,
}

impl Demand {
    /// The request's deployment, as a thing that a backend may lack.
    ///
    /// The lack counts for the request's API only. Foundry answers `unknown_model` to a chat with a model that Foundry
    /// serves through another API. Requests of the other API must not skip the backend.
    #[inline(never)]
    pub fn deployment_in_api(&self) -> Option<LackId> {
        let api = self.api.map_or(0, |api| scatter(api.id().number()));
        let deployment = self.deployment?;
        Some(LackId(deployment.0 ^ api))
    }

    /// The request's API, as a thing that a backend may lack.
    pub fn whole_api(&self) -> Option<LackId> {
        self.api.map(|api| LackId(api.id().number()))
    }
}

/// A hash of a deployment's name, which is cheap to compare and store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentId(u64);

impl DeploymentId {
    /// The deployment with this name. Azure ignores its case.
    pub fn of(name: &str) -> Self {
        let bytes = name.bytes().map(|byte| byte.to_ascii_lowercase());
        Self(fingerprint_of(bytes.chain([END_OF_PART])))
    }

    /// A deployment whose name does not matter.
    #[cfg(test)]
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Something that a backend may lack: a deployment in one API, or a whole API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LackId(u64);

impl LackId {
    /// The id as a number, for shared records.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The id with this number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// A quota of a backend. Azure grants a quota of tokens and requests to each deployment, not to the resource.
///
/// Source: <https://learn.microsoft.com/azure/ai-services/openai/how-to/quota>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaKey(u64);

impl QuotaKey {
    /// The quota of a request whose body names a deployment that was not read. It may be any of the backend's quotas.
    pub const UNREAD: Self = Self(0);

    /// The quota of this deployment.
    pub const fn of_deployment(id: DeploymentId) -> Self {
        Self(id.0)
    }

    /// The quota of an operation without a deployment, such as uploading a file.
    pub fn of_api(api: Option<Api>) -> Self {
        // No fingerprint of a name is likely to be 1.
        Self(api.map_or(1, |api| api.id().number()))
    }

    /// The key as a number, for shared records.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The key with this number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// The client of a request, as quotas distinguish clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client(u32);

impl Client {
    /// All clients without a known name.
    pub const UNKNOWN: Self = Self(0);

    /// The client with this [name](super::clients::client_name).
    pub fn named(name: &str) -> Self {
        // The upper half of the hash depends on every letter.
        let upper = scatter(fingerprint([name].into_iter())) >> 32;
        Self(u32::try_from(upper).unwrap_or_default().max(1))
    }

    /// The client as a number, for shared records.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The client with this number.
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::prelude::*;

    #[test]
    fn clients_are_distinguished_by_name() {
        let names = (0..1000).map(|n| Client::named(&format!("app-{n}")).number());
        let numbers: BTreeSet<_> = names.collect();
        assert_eq!(numbers.len(), 1000);
        assert!(!numbers.contains(&Client::UNKNOWN.number()));
    }
}
