//! Entra ID's token endpoint, for the grant of client credentials. It shares its port with the identity endpoint.
//!
//! The form and the refusals: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow> and
//! <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>. Signatures are not checked.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use hyper::Response;
use serde_json::{json, Value};

use super::json_response;
use crate::azure::decoded;
use crate::body::Body;
use crate::settings::EntraSettings;
use crate::tokens::now;

/// The end of the endpoint's path, after the tenant.
pub(super) const PATH: &str = "/oauth2/v2.0/token";

/// The audience of tokens that may be exchanged.
const EXCHANGE: &str = "api://AzureADTokenExchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token of Kubernetes, as the kubelet writes it into a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The issuer, `iss`.
    pub issuer: String,
    /// The subject, `sub`.
    pub subject: String,
    /// The audience, the only one of the list `aud`.
    pub audience: String,
    /// The expiry, in seconds of the epoch.
    pub expires_on: u64,
}

impl Assertion {
    /// A token that the simulator accepts for `seconds` more; if negative, an expired one.
    pub(super) fn accepted(settings: &EntraSettings, seconds: i64) -> Self {
        Self {
            issuer: settings.issuer.clone(),
            subject: settings.subject.clone(),
            audience: EXCHANGE.to_owned(),
            expires_on: now().saturating_add_signed(seconds),
        }
    }

    /// The token, with a meaningless signature. No two tokens are equal.
    pub fn token(&self) -> String {
        let header = json!({"alg": "RS256", "kid": "simulated"});
        let claims = json!({
            "aud": [self.audience],
            "iss": self.issuer,
            "sub": self.subject,
            "exp": self.expires_on,
            "kubernetes.io": {"namespace": "azure-openai", "serviceaccount": {"name": "azure-openai"}},
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signature = URL_SAFE_NO_PAD.encode(crate::tokens::noise());
        format!("{}.{}.{signature}", part(&header), part(&claims))
    }
}

/// A refusal: status, `error`, and the code.
pub(super) type Refusal = (u16, &'static str, u32);

/// The client id and the audience of a correct request.
pub(super) fn check(
    settings: &EntraSettings,
    tenant: &str,
    form: &str,
) -> Result<(String, String), Refusal> {
    let field = |name: &str| {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(key, _)| *key == name);
        found.map(|(_, value)| decoded(value)).unwrap_or_default()
    };
    if tenant != settings.tenant {
        return Err((400, "invalid_request", 90_002));
    }
    if field("grant_type") != "client_credentials" {
        return Err((400, "unsupported_grant_type", 70_003));
    }
    if field("client_id") != settings.client_id {
        return Err((400, "unauthorized_client", 700_016));
    }
    let scope = field("scope");
    let Some(audience) = scope
        .strip_suffix("/.default")
        .filter(|audience| !audience.is_empty())
    else {
        return Err((400, "invalid_scope", 70_011));
    };
    match field("client_assertion").as_str() {
        "" if field("client_secret") == settings.client_secret => {}
        "" if field("client_secret").is_empty() => return Err((401, "invalid_client", 7_000_218)),
        "" => return Err((401, "invalid_client", 7_000_215)),
        assertion if field("client_assertion_type") == JWT_BEARER => {
            check_assertion(settings, assertion)?;
        }
        _ => return Err((401, "invalid_client", 7_000_218)),
    }
    Ok((settings.client_id.clone(), audience.to_owned()))
}

fn check_assertion(settings: &EntraSettings, assertion: &str) -> Result<(), Refusal> {
    let claims = assertion.split('.').nth(1).unwrap_or_default();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let code = if !claims.is_object() {
        50_027
    } else if claims["iss"] != settings.issuer.as_str() {
        700_211
    } else if claims["aud"] != json!([EXCHANGE]) {
        700_212
    } else if claims["sub"] != settings.subject.as_str() {
        700_213
    } else if claims["exp"]
        .as_u64()
        .is_none_or(|expires| expires <= now())
    {
        700_024
    } else {
        return Ok(());
    };
    Err((401, "invalid_client", code))
}

/// The answer to a refused request, in Entra ID's shape.
pub(super) fn refusal((status, error, code): Refusal) -> Response<Body> {
    let number = now();
    let description = format!(
        "AADSTS{code}: The simulator refused the request. Trace ID: {number} Correlation ID: {number} Timestamp: {number}"
    );
    let body = json!({
        "error": error,
        "error_description": description,
        "error_codes": [code],
        "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
    });
    json_response(status, body.to_string())
}
