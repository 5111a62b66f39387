//! The keys of the values that workers share.
//!
//! Envoy's shared data is one map per process, from text to bytes.

use super::config::{Backend, Identity, Source};
use super::hash::fingerprint;
use crate::prelude::*;

/// The key of the turns that requests to these backends draw.
pub fn turn_key(backends: &[Backend]) -> String {
    key(
        "turn",
        backends.iter().map(|backend| backend.cluster.as_str()),
    )
}

/// The key of the retry budget that requests to these backends share.
pub fn budget_key(backends: &[Backend]) -> String {
    key(
        "budget",
        backends.iter().map(|backend| backend.cluster.as_str()),
    )
}

/// The key of the names of quotas. All configurations share it, because the number of a name does not depend on the
/// configuration.
pub const QUOTA_NAMES_KEY: &str = "aoai.quota_names";

/// The key of a backend's health. All configurations with the backend share it, also across reloads.
pub fn health_key(backend: &Backend) -> String {
    let parts = [backend.cluster.as_str(), backend.host.as_str()];
    key("health", parts.into_iter())
}

/// The key of the token record that all users of an identity share.
pub fn token_key(identity: &Identity) -> String {
    let mut parts = vec![identity.cluster.as_str(), identity.resource.as_str()];
    let selector = match &identity.source {
        Source::Imds { selector } => selector.as_ref(),
        Source::AppService {
            authority,
            path,
            selector,
            ..
        } => {
            parts.extend([authority.as_str(), path.as_str()]);
            selector.as_ref()
        }
        Source::Entra {
            authority,
            tenant,
            client_id,
            ..
        } => {
            parts.extend([authority.as_str(), tenant.as_str(), client_id.as_str()]);
            None
        }
    };
    if let Some(selector) = selector {
        parts.extend([selector.parameter, selector.value.as_str()]);
    }
    key("token", parts.into_iter())
}

fn key<'a>(kind: &str, parts: impl Iterator<Item = &'a str>) -> String {
    format!("aoai.{kind}.{:016x}", fingerprint(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entra_identities_share_a_token_only_if_equal() {
        use crate::config::{Proof, Secret};
        use std::time::Duration;
        let identity = |authority: &str, tenant: &str, client_id: &str, secret: &str| Identity {
            name: None,
            source: Source::Entra {
                authority: authority.into(),
                tenant: tenant.into(),
                client_id: client_id.into(),
                proof: Proof::Secret(Secret::new(secret.into())),
            },
            cluster: "entra_id".into(),
            resource: "https://cognitiveservices.azure.com".into(),
            wait_timeout: Duration::ZERO,
            fetch_timeout: Duration::ZERO,
        };
        let first = token_key(&identity("a", "t", "c", "s"));
        for other in [
            identity("b", "t", "c", "s"),
            identity("a", "u", "c", "s"),
            identity("a", "t", "d", "s"),
            identity("a", "tc", "", "s"),
        ] {
            assert_ne!(token_key(&other), first, "{other:?}");
        }
        assert_eq!(token_key(&identity("a", "t", "c", "new")), first);
    }

    #[test]
    fn backends_and_identities_have_distinct_keys() {
        let backend = |cluster: &str, host: &str| Backend {
            cluster: cluster.into(),
            host: host.into(),
            ..Backend::default()
        };
        let one = |backend: &Backend| vec![backend.clone()];
        let (a, b) = (backend("a", "h"), backend("b", "h"));
        assert_eq!(turn_key(&one(&a)), "aoai.turn.089bc907b544c769");
        assert_eq!(budget_key(&one(&a)), "aoai.budget.089bc907b544c769");
        assert_ne!(turn_key(&one(&a)), turn_key(&one(&b)));
        assert_ne!(
            turn_key(&[backend("ab", "h")]),
            turn_key(&[a.clone(), b.clone()])
        );
        assert_ne!(health_key(&a), health_key(&b));
        assert_ne!(health_key(&a), health_key(&backend("a", "i")));
        let renamed = Backend {
            name: "other".into(),
            weight: 7,
            ..a.clone()
        };
        assert_eq!(health_key(&a), health_key(&renamed));
    }
}
