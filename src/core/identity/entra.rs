//! The token endpoint of Entra ID: the request form and the meaning of refusals.
//!
//! The request: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>.
//! The codes: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>.

use serde_json::Value;

use super::claims::Claims;
use super::source::{self, Answer, Encoded, Failure, Fetched};
use crate::config::{Identity, Proof, Secret};
use crate::prelude::*;
use crate::time::Timestamp;

/// The type of an assertion that is a JSON web token (RFC 7523, section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An application of Entra ID.
#[derive(Clone, Copy)]
pub(super) struct Application<'a> {
    pub identity: &'a Identity,
    pub authority: &'a str,
    pub tenant: &'a str,
    pub client_id: &'a str,
    pub proof: &'a Proof,
}

/// The reason why a request returned no token.
pub(super) enum Refusal {
    /// The assertion has expired (AADSTS700024). The token file may have a newer one.
    Expired,
    /// Any other failure.
    Failure(Failure),
}

/// The headers of the token request, including pseudo-headers.
pub(super) fn headers(application: Application<'_>) -> Vec<(&'static str, String)> {
    vec![
        (":method", "POST".to_owned()),
        (":scheme", "https".to_owned()),
        (":authority", application.authority.to_owned()),
        (
            ":path",
            format!("/{}/oauth2/v2.0/token", application.tenant),
        ),
        ("accept", "application/json".to_owned()),
        (
            "content-type",
            "application/x-www-form-urlencoded".to_owned(),
        ),
    ]
}

/// The form of the token request. `assertion` is the content of the token file. Without it the form has the client
/// secret.
pub(super) fn form(application: Application<'_>, assertion: Option<&str>) -> Secret {
    let mut form = format!(
        "grant_type=client_credentials&client_id={}&scope={}%2F.default",
        Encoded(application.client_id),
        Encoded(application.identity.resource.trim_end_matches('/')),
    );
    match (assertion, application.proof) {
        (Some(assertion), _) => form.push_str(&format!(
            "&client_assertion_type={}&client_assertion={}",
            Encoded(JWT_BEARER),
            Encoded(assertion)
        )),
        (None, Proof::Secret(secret)) => {
            form.push_str(&format!("&client_secret={}", Encoded(secret.reveal())));
        }
        (None, Proof::TokenFile { .. }) => {}
    }
    Secret::new(form)
}

/// The assertion in the answer of the token file's listener.
///
/// # Errors
/// The file is missing, empty or not a token. Each may pass, because Kubernetes writes the file again.
pub(super) fn read_file<'a>(cluster: &str, answer: Answer<'a>) -> Result<&'a str, Failure> {
    let failure = |reason: String| Failure::Transient {
        reason,
        retry_after: None,
    };
    match answer.status {
        Some(200) => {}
        Some(status) => {
            return Err(failure(format!(
                "the token file cannot be read: status {status} from cluster {cluster:?}; check that Envoy has its listener, \
                 and that the file exists"
            )))
        }
        None => {
            return Err(failure(format!(
                "the token file cannot be read: no answer from cluster {cluster:?}"
            )))
        }
    }
    let content = answer.body.trim_ascii();
    if content.is_empty() {
        return Err(failure(
            "the token file is empty; check the projected volume of the pod".to_owned(),
        ));
    }
    let content = core::str::from_utf8(content).ok();
    content
        .filter(|content| source::is_token(content))
        .ok_or_else(|| failure("the token file does not contain a token".to_owned()))
}

/// The token in the answer of Entra ID. `assertion` has the claims of the assertion.
///
/// # Errors
/// The refusal, with advice.
pub(super) fn read_answer(
    application: Application<'_>,
    assertion: Option<&Claims>,
    answer: Answer<'_>,
    now: Timestamp,
) -> Result<Fetched, Refusal> {
    let failure = match answer.status {
        Some(200) => return source::read_token(answer.body, now).map_err(Refusal::Failure),
        None => Failure::no_answer(),
        Some(status @ (408 | 429 | 500..=599)) => {
            let error = Refused::read(status, answer.body);
            let reason = match &error.error {
                Some(_) => error.text(),
                None => format!(
                    "status {status} without an error code of Entra ID; check that cluster {:?} reaches {:?}",
                    application.identity.cluster, application.authority
                ),
            };
            Failure::Transient {
                reason,
                retry_after: answer.wait(),
            }
        }
        Some(status) => {
            let error = Refused::read(status, answer.body);
            if error.code == Some(700_024) && assertion.is_some() {
                return Err(Refusal::Expired);
            }
            Failure::Misconfigured {
                reason: error.text(),
                advice: Some(match error.code {
                    Some(code) => advice(application, assertion, code),
                    None => "check `tenant_id`, `authority_host` and the cluster".to_owned(),
                }),
            }
        }
    };
    Err(Refusal::Failure(failure))
}

/// The failure of an assertion that is still expired after the file was read again.
pub(super) fn still_expired() -> Failure {
    Failure::Transient {
        reason: "AADSTS700024: the token in the file has expired; check that the file is in a projected volume, which the kubelet \
                 renews, and check the clocks"
            .to_owned(),
        retry_after: None,
    }
}

/// A refusal of Entra ID. The error's description is ignored: it varies, and may repeat the request's content.
struct Refused {
    status: u16,
    error: Option<String>,
    /// The first of `error_codes`.
    code: Option<u64>,
}

impl Refused {
    #[inline(never)]
    fn read(status: u16, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = body.get("error").and_then(Value::as_str);
        let is_word = |error: &&str| {
            (1..=60).contains(&error.len())
                && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        let codes = body.get("error_codes").and_then(Value::as_array);
        Self {
            status,
            error: error.filter(is_word).map(str::to_owned),
            code: codes
                .and_then(|codes| codes.first())
                .and_then(Value::as_u64),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("status {}", self.status);
        if let Some(error) = &self.error {
            text.push_str(&format!(", {error}"));
        }
        if let Some(code) = self.code {
            text.push_str(&format!(", AADSTS{code}"));
        }
        text
    }
}

/// The advice for a refusal with this code.
#[inline(never)]
fn advice(application: Application<'_>, assertion: Option<&Claims>, code: u64) -> String {
    let Application {
        identity,
        authority,
        tenant,
        client_id,
        ..
    } = application;
    let resource = &identity.resource;
    match (code, assertion) {
        (70_021 | 700_211..=700_213, Some(claims)) => {
            let or_unknown = |claim: &Option<String>| claim.clone().unwrap_or_else(|| "unknown".to_owned());
            format!(
                "application {client_id} needs a federated credential for issuer {}, subject {} and audience {}; a new one takes \
                 effect after some minutes",
                or_unknown(&claims.issuer),
                or_unknown(&claims.subject),
                or_unknown(&claims.audience),
            )
        }
        (7_000_215, _) => {
            "the client secret is wrong; use the value of a secret, not its id, and start Envoy again".to_owned()
        }
        (7_000_222, _) => {
            "the client secret has expired; make a new one, and start Envoy again".to_owned()
        }
        (90_002 | 900_023, _) => {
            format!("{authority} has no tenant {tenant}; check `tenant_id` and `authority_host`")
        }
        (700_016, _) => format!(
            "tenant {tenant} has no application {client_id}; check `client_id` and `tenant_id`"
        ),
        (500_011 | 70_011, _) => {
            format!("tenant {tenant} has no resource {resource}; check `resource`")
        }
        _ => format!("https://login.microsoftonline.com/error?code={code} explains the code"),
    }
}
