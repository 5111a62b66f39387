//! Tokens that the identity endpoint issues and the backends check.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The result of a credential's check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenCheck {
    /// The service or path needs no credential.
    NotChecked,
    /// A valid token of this simulator.
    Valid,
    /// The backend's key.
    Key,
    /// Neither a token nor a key.
    Missing,
    /// A key, but not this backend's.
    WrongKey,
    /// A token that this simulator did not issue.
    Unknown,
    /// An expired token.
    Expired,
    /// A token that was revoked.
    Revoked,
    /// A token for another audience.
    WrongAudience,
    /// A token of an identity that has no role on this resource.
    NoRole,
}

impl TokenCheck {
    /// Whether the request is accepted.
    pub fn passes(self) -> bool {
        matches!(self, Self::NotChecked | Self::Valid | Self::Key)
    }
}

/// A checked credential.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) check: TokenCheck,
    /// The identity of the token, if this simulator issued it.
    pub(crate) identity: Option<String>,
}

impl From<TokenCheck> for Credential {
    fn from(check: TokenCheck) -> Self {
        Self {
            check,
            identity: None,
        }
    }
}

/// A token and its times, in seconds of the epoch.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) client_id: String,
    pub(crate) not_before: u64,
    pub(crate) expires_on: u64,
}

impl Issued {
    /// The whole seconds until the expiry.
    pub(crate) fn expires_in(&self) -> u64 {
        let left = Duration::from_secs(self.expires_on).checked_sub(since_epoch());
        left.unwrap_or_default().as_secs()
    }
}

struct Known {
    identity: String,
    audience: String,
    expires_on: u64,
    revoked: bool,
}

/// Every issued token.
#[derive(Default)]
pub(crate) struct Tokens {
    store: RwLock<Store>,
}

#[derive(Default)]
struct Store {
    known: HashMap<String, Known>,
    in_order: Vec<String>,
    /// The current token by audience and identity.
    current: HashMap<(String, String), Issued>,
}

/// The properties of new tokens.
pub(crate) struct Terms {
    pub(crate) lifetime: Duration,
    pub(crate) cache: bool,
    pub(crate) renew_below: Option<Duration>,
}

impl Tokens {
    fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current token for an audience and an identity, or a new one.
    pub(crate) fn issue(&self, audience: &str, identity: &str, terms: &Terms) -> Issued {
        let slot = (audience.to_owned(), identity.to_owned());
        let now = now();
        let mut store = self.write();
        if let Some(current) = store.current.get(&slot).filter(|_| terms.cache) {
            let lifetime = current.expires_on - current.not_before;
            let renew_below = terms
                .renew_below
                .map_or(lifetime / 2, |least| least.as_secs());
            if current.expires_on > now && current.expires_on - now >= renew_below {
                return current.clone();
            }
        }
        let issued = make(audience, identity, now, terms.lifetime);
        store.known.insert(
            issued.token.clone(),
            Known {
                identity: issued.client_id.clone(),
                audience: audience.to_owned(),
                expires_on: issued.expires_on,
                revoked: false,
            },
        );
        store.in_order.push(issued.token.clone());
        store.current.insert(slot, issued.clone());
        issued
    }

    /// Makes the next answer a new token. The old tokens stay valid.
    pub(crate) fn issue_fresh(&self) {
        self.write().current.clear();
    }

    /// Revokes every issued token. The next answer is a new token.
    pub(crate) fn revoke_all(&self) {
        let mut store = self.write();
        store.current.clear();
        for known in store.known.values_mut() {
            known.revoked = true;
        }
    }

    /// All tokens in the order of their issue.
    pub(crate) fn all(&self) -> Vec<String> {
        self.read().in_order.clone()
    }

    /// Whether a backend that requires `audience` accepts this token.
    pub(crate) fn check(&self, token: &str, audience: &str) -> Credential {
        let store = self.read();
        let Some(known) = store.known.get(token) else {
            return TokenCheck::Unknown.into();
        };
        let check = if known.revoked {
            TokenCheck::Revoked
        } else if known.expires_on <= now() {
            TokenCheck::Expired
        } else if known.audience.trim_end_matches('/') != audience.trim_end_matches('/') {
            TokenCheck::WrongAudience
        } else {
            TokenCheck::Valid
        };
        Credential {
            check,
            identity: Some(known.identity.clone()),
        }
    }
}

/// Seconds of the epoch.
pub(crate) fn now() -> u64 {
    since_epoch().as_secs()
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A token of the size and form of a real one, with a random signature.
fn make(audience: &str, identity: &str, now: u64, lifetime: Duration) -> Issued {
    let exact = since_epoch() + lifetime;
    let expires_on = exact.as_secs() + u64::from(exact.subsec_nanos() > 0);
    let client_id = if identity.is_empty() {
        "5c1b0d5e-0000-4000-8000-000000000001"
    } else {
        identity
    };
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "simulated" });
    let noise = noise();
    // The groups extend the token to the size of a real one, about 1.6 kB.
    let groups: Vec<String> = noise.chunks(16).take(10).map(uuid).collect();
    let claims = json!({
        "aud": audience,
        "iss": "https://sts.windows.net/00000000-0000-4000-8000-00000000000a/",
        "iat": now,
        "nbf": now,
        "exp": expires_on,
        "appid": client_id,
        "oid": "00000000-0000-4000-8000-00000000000b",
        "tid": "00000000-0000-4000-8000-00000000000a",
        "xms_mirid": "/subscriptions/00000000-0000-4000-8000-00000000000c/resourcegroups/simulated\
            /providers/Microsoft.ManagedIdentity/userAssignedIdentities/simulated",
        "groups": groups,
        "jti": hexed(&noise[..16]),
        "ver": "1.0",
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let token = format!(
        "{}.{}.{}",
        part(&header),
        part(&claims),
        URL_SAFE_NO_PAD.encode(noise)
    );
    Issued {
        token,
        client_id: client_id.to_owned(),
        not_before: now,
        expires_on,
    }
}

pub(crate) fn noise() -> [u8; 256] {
    let random = RandomState::new();
    let mut noise = [0; 256];
    for (index, piece) in noise.chunks_mut(8).enumerate() {
        piece.copy_from_slice(&random.hash_one(index).to_le_bytes());
    }
    noise
}

fn hexed(bytes: &[u8]) -> String {
    crate::audit::hex(bytes)
}

fn uuid(bytes: &[u8]) -> String {
    let hex = hexed(bytes);
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..32],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Terms = Terms {
        lifetime: Duration::from_secs(3600),
        cache: true,
        renew_below: None,
    };

    #[test]
    fn a_token_has_the_size_and_form_of_a_real_one() {
        let token = Tokens::default().issue("https://a", "", &HOUR).token;
        assert!((1400..1900).contains(&token.len()), "{}", token.len());
        assert_eq!(token.split('.').count(), 3);
    }

    #[test]
    fn a_token_is_returned_until_it_is_revoked() {
        let tokens = Tokens::default();
        let first = tokens.issue("https://a", "", &HOUR).token;
        assert_eq!(tokens.issue("https://a", "", &HOUR).token, first);
        assert_ne!(tokens.issue("https://b", "", &HOUR).token, first);
        tokens.revoke_all();
        let check = |token: &str, audience: &str| tokens.check(token, audience).check;
        assert_eq!(check(&first, "https://a"), TokenCheck::Revoked);
        let second = tokens.issue("https://a", "", &HOUR).token;
        assert_eq!(check(&second, "https://a/"), TokenCheck::Valid);
        assert_eq!(check(&second, "https://b"), TokenCheck::WrongAudience);
    }
}
