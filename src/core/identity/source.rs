//! The wire format of machines' token services: requests and answers.
//!
//! IMDS: <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>.
//! App Service: <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>.

use core::time::Duration;

use serde_json::Value;

use crate::config::{Identity, Secret, Source};
use crate::prelude::*;
use crate::time::Timestamp;

/// The link-local address of IMDS, equal in every virtual network.
const IMDS_AUTHORITY: &str = "169.254.169.254";
const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

/// The longest wait that is taken from `retry-after`.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The longest accepted token. A longer one does not fit into a request's headers.
const LONGEST_TOKEN: usize = 32 * 1024;

/// A token from the token service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The access token.
    pub token: Secret,
    /// The expiry.
    pub expires_on: Timestamp,
}

/// The reason why no token is available. It does not depend on an error's description, which may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A temporary failure: 404, 408, 429, 5xx or no answer.
    Transient {
        /// The cause, for the log.
        reason: String,
        /// The wait that the service requested.
        retry_after: Option<Duration>,
    },
    /// The service is being updated (410). It is available again within 70 seconds.
    Updating {
        /// The wait that the service requested.
        retry_after: Option<Duration>,
    },
    /// A refusal that lasts until a person changes something: 400, 403 and others.
    Misconfigured {
        /// The service's error, for the log.
        reason: String,
        /// Advice for the operator, if the error suggests one.
        advice: Option<String>,
    },
    /// An invalid answer.
    Malformed {
        /// The defect, for the log.
        reason: &'static str,
    },
}

impl Failure {
    /// The failure of a call without an answer in time.
    pub(super) fn no_answer() -> Self {
        Self::Transient {
            reason: "no answer".to_owned(),
            retry_after: None,
        }
    }

    /// Whether a person has to fix something before a token is available.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Misconfigured { .. })
    }

    /// The failure as text for the log, without secrets. `label` is the identity's path in the configuration.
    #[inline(never)]
    pub fn text(&self, label: &str) -> String {
        match self {
            Self::Transient { reason, .. } => format!("no token ({reason})"),
            Self::Updating { .. } => "the token service is being updated (status 410)".to_owned(),
            Self::Malformed { reason } => {
                format!("the token service's answer has no usable token ({reason})")
            }
            Self::Misconfigured { reason, advice } => {
                let text = format!("the token service refused ({reason}); ");
                match advice {
                    Some(advice) => text + advice,
                    None => {
                        format!(
                            "{text}check the identity of this machine and the plugin's `{label}`"
                        )
                    }
                }
            }
        }
    }
}

/// The headers of the token request, including pseudo-headers. `None` for Entra ID, which needs other requests.
pub(super) fn request(identity: &Identity) -> Option<Vec<(&'static str, String)>> {
    let (authority, path, version, proof, selector) = match &identity.source {
        Source::Entra { .. } => return None,
        Source::Imds { selector } => (
            IMDS_AUTHORITY,
            IMDS_PATH,
            "2018-02-01",
            ("metadata", "true"),
            selector,
        ),
        Source::AppService {
            authority,
            path,
            secret,
            selector,
        } => (
            authority.as_str(),
            path.as_str(),
            "2019-08-01",
            ("x-identity-header", secret.reveal()),
            selector,
        ),
    };
    let mut query = format!(
        "api-version={version}&resource={}",
        Encoded(&identity.resource)
    );
    if let Some(selector) = selector {
        query.push_str(&format!(
            "&{}={}",
            selector.parameter,
            Encoded(&selector.value)
        ));
    }
    let (name, value) = proof;
    Some(vec![
        (":method", "GET".to_owned()),
        (":scheme", "http".to_owned()),
        (":authority", authority.to_owned()),
        (":path", format!("{path}?{query}")),
        ("accept", "application/json".to_owned()),
        (name, value.to_owned()),
    ])
}

/// An answer to a call of the module.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The status. `None` without an answer.
    pub status: Option<u16>,
    /// The header `retry-after`.
    pub retry_after: Option<&'a str>,
    /// The body, or as much of it as was read.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The wait that the answer requests, up to [`LONGEST_RETRY_AFTER`].
    pub(super) fn wait(&self) -> Option<Duration> {
        let seconds = self.retry_after?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
    }
}

/// The token in the answer of IMDS or App Service.
///
/// # Errors
/// The [`Failure`], which decides the time of the next try.
pub fn read_answer(answer: Answer<'_>, now: Timestamp) -> Result<Fetched, Failure> {
    let retry_after = answer.wait();
    let body = answer.body;
    match answer.status {
        Some(200) => read_token(body, now),
        Some(410) => Err(Failure::Updating { retry_after }),
        Some(status @ (404 | 408 | 429 | 500..=599)) => Err(Failure::Transient {
            reason: describe(status, body),
            retry_after,
        }),
        Some(status) => Err(Failure::Misconfigured {
            reason: describe(status, body),
            advice: None,
        }),
        None => Err(Failure::no_answer()),
    }
}

#[inline(never)]
pub(super) fn read_token(body: &[u8], now: Timestamp) -> Result<Fetched, Failure> {
    // Documented as strings. Other implementations of the interface send numbers.
    let malformed = |reason| Failure::Malformed { reason };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let body = body
        .as_object()
        .ok_or(malformed("the body is not a JSON object"))?;
    let token = body.get("access_token").and_then(Value::as_str);
    let token = token.unwrap_or_default();
    if !is_token(token) {
        return Err(malformed("access_token is missing or not a token"));
    }
    let expires_on = body.get("expires_on").and_then(seconds);
    let expires_on = expires_on.map(Timestamp::from_secs);
    let expires_in = body.get("expires_in").and_then(seconds);
    let expires_in = expires_in.map(|s| now + Duration::from_secs(s));
    // `expires_on` is exact, while `expires_in` counts from an unknown time. But a wrong clock makes `expires_on`
    // useless.
    let expires_on = expires_on
        .filter(|at| *at > now)
        .or(expires_in)
        .ok_or(malformed("neither expires_on nor expires_in is valid"))?;
    if expires_on <= now {
        return Err(malformed("the token has already expired"));
    }
    Ok(Fetched {
        token: Secret::new(token.to_owned()),
        expires_on,
    })
}

/// Whether a text can be a token.
pub(super) fn is_token(text: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Seconds as a string or a number, with or without a fraction.
fn seconds(value: &Value) -> Option<u64> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let whole = text.split('.').next()?;
    let seconds = whole.parse().ok()?;
    (0..1_000_000_000_000).contains(&seconds).then_some(seconds)
}

/// The status and the error of a refusal, short and printable, for the log. Error answers contain no token.
fn describe(status: u16, body: &[u8]) -> String {
    let mut text = format!("status {status}");
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    for key in ["error", "error_description"] {
        if let Some(part) = body.get(key).and_then(Value::as_str) {
            text.push_str(", ");
            text.extend(part.chars().filter(|c| !c.is_control()).take(200));
        }
    }
    text
}

/// Percent-encodes all except the unreserved characters (RFC 3986, section 2.3).
pub(super) struct Encoded<'a>(pub &'a str);

impl core::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Selector;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn answer<'a>(status: Option<u16>, retry_after: Option<&'a str>, body: &'a [u8]) -> Answer<'a> {
        Answer {
            status,
            retry_after,
            body,
        }
    }

    fn identity(source: Source) -> Identity {
        Identity {
            name: None,
            source,
            cluster: "imds".into(),
            resource: "https://cognitiveservices.azure.com".into(),
            wait_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(5),
        }
    }

    fn selector(parameter: &'static str) -> Option<Selector> {
        Some(Selector {
            parameter,
            value: "/subscriptions/1".into(),
        })
    }

    #[test]
    fn requests_to_imds_have_the_documented_form() {
        let identity = identity(Source::Imds {
            selector: selector("msi_res_id"),
        });
        assert_eq!(
            request(&identity).unwrap(),
            [
                (":method", "GET".to_owned()),
                (":scheme", "http".to_owned()),
                (":authority", "169.254.169.254".to_owned()),
                (
                    ":path",
                    "/metadata/identity/oauth2/token?api-version=2018-02-01\
                     &resource=https%3A%2F%2Fcognitiveservices.azure.com&msi_res_id=%2Fsubscriptions%2F1"
                        .to_owned()
                ),
                ("accept", "application/json".to_owned()),
                ("metadata", "true".to_owned()),
            ]
        );
    }

    #[test]
    fn requests_to_app_service_have_the_documented_form() {
        let identity = identity(Source::AppService {
            authority: "localhost:42356".into(),
            path: "/msi/token".into(),
            secret: Secret::new("s3cret".into()),
            selector: None,
        });
        let headers = request(&identity).unwrap();
        assert_eq!(headers[2].1, "localhost:42356");
        assert_eq!(
            headers[3].1,
            "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fcognitiveservices.azure.com"
        );
        assert_eq!(headers[5], ("x-identity-header", "s3cret".to_owned()));
    }

    #[test]
    fn expiries_are_read_as_strings_and_as_numbers() {
        for (expiry, seconds_left) in [
            (r#""expires_on":"1700003599","expires_in":"10""#, 3599),
            (r#""expires_on":1700003599"#, 3599),
            (r#""expires_on":"1700003599.75""#, 3599),
            (r#""expires_in":"3599""#, 3599),
            (r#""expires_in":3599"#, 3599),
            // With a wrong clock only the relative expiry is usable.
            (r#""expires_on":"1600000000","expires_in":"60""#, 60),
        ] {
            let body = format!(r#"{{"access_token":"abc",{expiry},"token_type":"Bearer"}}"#);
            let fetched = read_answer(answer(Some(200), None, body.as_bytes()), NOW).unwrap();
            assert_eq!(fetched.token.reveal(), "abc");
            assert_eq!(
                fetched.expires_on,
                NOW + Duration::from_secs(seconds_left),
                "{expiry}"
            );
        }
    }

    #[test]
    fn answers_without_a_usable_token_are_malformed() {
        for body in [
            "",
            "[]",
            "<html>",
            r#"{"expires_on":"1700003599"}"#,
            r#"{"access_token":"","expires_on":"1700003599"}"#,
            r#"{"access_token":"a b","expires_on":"1700003599"}"#,
            r#"{"access_token":5,"expires_on":"1700003599"}"#,
            r#"{"access_token":"abc"}"#,
            r#"{"access_token":"abc","expires_on":"soon"}"#,
            r#"{"access_token":"abc","expires_on":"1600000000"}"#,
            r#"{"access_token":"abc","expires_in":"0"}"#,
            r#"{"access_token":"abc","expires_in":-5}"#,
        ] {
            let failure = read_answer(answer(Some(200), None, body.as_bytes()), NOW).unwrap_err();
            assert!(matches!(failure, Failure::Malformed { .. }), "{body}");
        }
    }

    #[test]
    fn failures_are_classified_by_status() {
        let body = br#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        for status in [404, 408, 429, 500, 503] {
            let failure = read_answer(answer(Some(status), Some("7"), body), NOW).unwrap_err();
            let expected = Failure::Transient {
                reason: format!("status {status}, invalid_request, Identity not found"),
                retry_after: Some(Duration::from_secs(7)),
            };
            assert_eq!(failure, expected);
        }
        for status in [400, 401, 403, 405] {
            let failure = read_answer(answer(Some(status), Some("7"), body), NOW).unwrap_err();
            assert!(matches!(failure, Failure::Misconfigured { .. }), "{status}");
        }
        assert_eq!(
            read_answer(answer(Some(410), Some("99999"), b""), NOW),
            Err(Failure::Updating {
                retry_after: Some(LONGEST_RETRY_AFTER)
            })
        );
        assert!(matches!(
            read_answer(answer(None, None, b""), NOW),
            Err(Failure::Transient {
                retry_after: None,
                ..
            })
        ));
    }
}
