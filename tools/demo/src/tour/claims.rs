//! The claims of an access token, shown without the token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::Value;

use crate::simulation::Received;

/// The claims of a token that the tour shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// The token's audience.
    pub(super) audience: String,
    /// The token's identity, masked.
    pub(super) identity: String,
    /// The start of the token's number, enough to distinguish tokens.
    pub(super) id: String,
    expires_on: u64,
}

impl Claims {
    /// The claims of the token in a request at a backend.
    pub(super) fn of(request: &Received) -> Result<Self> {
        let authorization = request
            .header("authorization")
            .context("a request without `authorization` reached a backend")?;
        let payload = authorization
            .strip_prefix("Bearer ")
            .and_then(|token| token.split('.').nth(1))
            .context("a backend received an `authorization` that is no access token")?;
        Self::decoded(payload).context("the claims of an access token cannot be read")
    }

    fn decoded(payload: &str) -> Option<Self> {
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let id = claims["jti"].as_str()?;
        Some(Self {
            audience: claims["aud"].as_str()?.to_owned(),
            identity: masked(claims["oid"].as_str()?),
            id: id.get(..6).unwrap_or(id).to_owned(),
            expires_on: claims["exp"].as_u64()?,
        })
    }

    /// The remaining lifetime.
    pub(super) fn left(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Duration::from_secs(self.expires_on).saturating_sub(now.unwrap_or_default())
    }
}

/// The last four characters. The others are masked, in their shape.
fn masked(text: &str) -> String {
    let visible = text.chars().count().saturating_sub(4);
    let masked = |(index, c)| {
        if index < visible && c != '-' {
            '*'
        } else {
            c
        }
    };
    text.chars().enumerate().map(masked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_and_the_identity_is_masked() {
        let payload = URL_SAFE_NO_PAD
            .encode(r#"{"aud":"https://a","oid":"1234-5678-9abc","jti":"0011223344","exp":1}"#);
        let claims = Claims::decoded(&payload).unwrap();
        assert_eq!(claims.identity, "****-****-9abc");
        assert_eq!(
            (claims.id.as_str(), claims.left()),
            ("001122", Duration::ZERO)
        );
        assert_eq!(Claims::decoded("bm8="), None);
    }
}
