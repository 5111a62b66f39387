//! The claims of an access token. They are read for the log, not for authorization, which the backend decides.

use crate::prelude::*;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::Value;

/// The claims that the log mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The audience, `aud`.
    pub audience: Option<String>,
    /// The issuer, `iss`.
    pub issuer: Option<String>,
    /// The subject, `sub`.
    pub subject: Option<String>,
    /// The object id of the identity, `oid`.
    pub object_id: Option<String>,
    /// The expiry, `exp`, in seconds since the Unix epoch.
    pub expires: Option<u64>,
}

/// The claims of `token`, if it is a JSON web token (RFC 7519).
pub fn read(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let claims = payload.as_object()?;
    Some(Claims {
        audience: claims.get("aud").and_then(first).and_then(printable),
        issuer: claims.get("iss").and_then(printable),
        subject: claims.get("sub").and_then(printable),
        object_id: claims.get("oid").and_then(printable),
        expires: claims.get("exp").and_then(Value::as_u64),
    })
}

/// The value, or the first one of a list. RFC 7519 allows both for `aud`, and Kubernetes writes a list.
fn first(value: &Value) -> Option<&Value> {
    match value {
        Value::Array(list) => list.first(),
        one => Some(one),
    }
}

/// A short printable string, safe for the log.
fn printable(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let fine = text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic());
    fine.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn audience_identity_and_expiry_are_read() {
        let claims = read(&token(
            r#"{"aud":"https://cognitiveservices.azure.com","oid":"1-2","exp":1700000000,"roles":[]}"#,
        ));
        assert_eq!(
            claims,
            Some(Claims {
                audience: Some("https://cognitiveservices.azure.com".into()),
                issuer: None,
                subject: None,
                object_id: Some("1-2".into()),
                expires: Some(1_700_000_000),
            })
        );
    }

    #[test]
    fn the_claims_of_kubernetes_are_read() {
        let claims = read(&token(
            r#"{"aud":["api://AzureADTokenExchange"],"iss":"https://oidc.example/","sub":"system:serviceaccount:a:b"}"#,
        ));
        let claims = claims.unwrap();
        assert_eq!(
            claims.audience.as_deref(),
            Some("api://AzureADTokenExchange")
        );
        assert_eq!(claims.issuer.as_deref(), Some("https://oidc.example/"));
        assert_eq!(claims.subject.as_deref(), Some("system:serviceaccount:a:b"));
    }

    #[test]
    fn invalid_claims_are_skipped_and_invalid_tokens_have_none() {
        let claims = read(&token(r#"{"aud":[5],"oid":"a\nb","exp":"soon"}"#));
        assert_eq!(claims, Some(Claims::default()));
        for odd in ["", "opaque", "a.b.c", "a.!!.c", &token("3"), &token("{")] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
