//! Local replies: answers that the filter makes itself, in the form that OpenAI's clients parse.

use core::time::Duration;

use serde_json::json;

use super::fleet::Wait;
use super::operation::{Api, Surface};
use super::time::millis;
use crate::prelude::*;

/// An answer that the filter makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// The HTTP status.
    pub status: u16,
    /// `error.code`, which is also the details in the access log.
    pub code: &'static str,
    /// `error.message`, for people.
    pub message: String,
    /// The time after which a retry makes sense.
    pub retry_after: Option<Duration>,
}

impl LocalReply {
    /// No token is available, and none will arrive in time.
    pub fn identity_unavailable(retry_after: Duration) -> Self {
        Self {
            status: 503,
            code: "identity_unavailable",
            message: "The gateway has no access token for Azure OpenAI yet. Try again later."
                .into(),
            retry_after: Some(retry_after),
        }
    }

    /// No attempt got an answer from a backend.
    pub fn no_answer(timed_out: bool, attempts: u8) -> Self {
        let tried = match attempts {
            1 => "one attempt".to_owned(),
            n => format!("{n} attempts"),
        };
        if timed_out {
            Self {
                status: 504,
                code: "backend_timeout",
                message: format!("No backend answered in time ({tried})."),
                retry_after: None,
            }
        } else {
            Self {
                status: 503,
                code: "backend_unavailable",
                message: format!("No backend could be reached ({tried})."),
                retry_after: None,
            }
        }
    }

    /// All backends are in cooldown.
    pub fn all_in_cooldown(wait: Wait) -> Self {
        let retry_after = Some(wait.left);
        if wait.throttled {
            Self {
                status: 429,
                code: "all_backends_throttled",
                message: "The quota for this request is used up on every Azure OpenAI resource."
                    .into(),
                retry_after,
            }
        } else {
            Self {
                status: 503,
                code: "all_backends_unavailable",
                message: "No Azure OpenAI resource is serving at the moment.".into(),
                retry_after,
            }
        }
    }

    /// The one backend that has the request's objects is in cooldown.
    pub fn home_in_cooldown(wait: Wait) -> Self {
        let code = match wait.throttled {
            true => "backend_throttled",
            false => "backend_unavailable",
        };
        let state = match wait.throttled {
            true => "has used up its quota",
            false => "is not serving at the moment",
        };
        Self {
            code,
            message: format!("The Azure OpenAI resource with this object {state}."),
            ..Self::all_in_cooldown(wait)
        }
    }

    /// The objects of the request are on several resources, and each resource knows only its own.
    pub fn objects_on_different_backends() -> Self {
        Self {
            status: 400,
            code: "objects_on_different_backends",
            message: "This request names objects or items of different Azure OpenAI resources, and each resource knows only its \
                      own. Upload the files again, or omit items of responses that came from another resource."
                .into(),
            retry_after: None,
        }
    }

    /// No configured backend has the API.
    pub fn no_api(api: Option<Api>) -> Self {
        let api = api.map_or("this API", Api::name);
        Self {
            status: 404,
            code: "api_not_available",
            message: format!("No Azure OpenAI resource behind this gateway has {api}."),
            retry_after: None,
        }
    }

    /// A WebSocket whose frames would need tagged ids. After this status, Codex continues over HTTP at once.
    pub fn no_websocket() -> Self {
        Self {
            status: 426,
            code: "websocket_not_supported",
            message: "This gateway does not serve the Responses API over a WebSocket, because it could not assign later requests for \
                      its responses to an Azure OpenAI resource. Send HTTP requests."
                .into(),
            retry_after: None,
        }
    }

    /// The path is not one of Azure OpenAI's.
    pub fn other_path() -> Self {
        Self {
            status: 404,
            code: "path_not_served",
            message: "This gateway serves only paths that begin with /openai/ or /anthropic/."
                .into(),
            retry_after: None,
        }
    }

    /// The filter must read the body, but the body is encoded as `encoding`.
    pub fn encoded_body(encoding: &str) -> Self {
        const SHOWN: usize = 64;
        let encoding: String = encoding.chars().take(SHOWN).collect();
        Self {
            status: 415,
            code: "content_encoding_not_supported",
            message: format!(
                "The request has content-encoding {encoding:?}, but this gateway must read the body to choose an Azure OpenAI \
                 resource. Send the body without content-encoding."
            ),
            retry_after: None,
        }
    }

    /// One of the client's limits is used up. The code is OpenAI's.
    ///
    /// Source: <https://platform.openai.com/docs/guides/error-codes>
    pub fn over_limit(message: String, retry_after: Duration) -> Self {
        Self {
            status: 429,
            code: "rate_limit_exceeded",
            message,
            retry_after: Some(retry_after),
        }
    }

    /// No backend has the deployment. The code and the status are Azure's.
    pub fn no_deployment() -> Self {
        Self {
            status: 404,
            code: "DeploymentNotFound",
            message:
                "No Azure OpenAI resource behind this gateway has a deployment with this name."
                    .into(),
            retry_after: None,
        }
    }

    /// A backend answered with this error status, and stalled before the body was complete.
    pub fn stalled_error(status: u16) -> Self {
        Self {
            status,
            code: "incomplete_error",
            message: format!("The backend answered {status} with an incomplete body."),
            retry_after: None,
        }
    }

    /// Envoy refused a host call. The log has the error.
    pub fn internal_error() -> Self {
        Self {
            status: 500,
            code: "gateway_error",
            message: "The gateway could not handle this request; its log has the reason.".into(),
            retry_after: None,
        }
    }

    /// The body in the form that clients of this surface parse: OpenAI's `{"error": {...}}`, or Anthropic's.
    pub fn body(&self, surface: Option<Surface>) -> Vec<u8> {
        if surface == Some(Surface::Anthropic) {
            return self.body_for_anthropic();
        }
        let body = json!({
            "error": {
                "code": self.code,
                "message": self.message,
                "param": null,
                "type": match self.status {
                    429 => "rate_limit_error",
                    400..=499 => "invalid_request_error",
                    _ => "server_error",
                },
            }
        });
        body.to_string().into_bytes()
    }

    /// The body in Anthropic's form.
    ///
    /// Source: <https://docs.anthropic.com/en/api/errors>
    #[inline(never)]
    fn body_for_anthropic(&self) -> Vec<u8> {
        let body = json!({
            "type": "error",
            "error": {
                "type": match self.status {
                    404 => "not_found_error",
                    429 => "rate_limit_error",
                    503 | 529 => "overloaded_error",
                    504 => "timeout_error",
                    400..=499 => "invalid_request_error",
                    _ => "api_error",
                },
                "message": self.message,
            }
        });
        body.to_string().into_bytes()
    }

    /// The headers, except those with the backend and the attempts.
    pub fn headers<'a>(&self) -> Vec<(&'a str, String)> {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if self.status == 415 {
            // RFC 9110, section 12.5.3: the accepted codings.
            headers.push(("accept-encoding", "identity".to_owned()));
        }
        headers.extend(self.retry_after.into_iter().flat_map(retry_after));
        headers
    }
}

/// The headers that tell a client to wait. `retry-after` has whole seconds, rounded up and at least one.
/// `retry-after-ms` is exact, and the openai SDKs prefer it.
pub fn retry_after<'a>(wait: Duration) -> [(&'a str, String); 2] {
    let millis = millis(wait).max(1);
    [
        ("retry-after", millis.div_ceil(1000).to_string()),
        ("retry-after-ms", millis.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_body_has_openais_form() {
        let reply = LocalReply::identity_unavailable(Duration::from_secs(3));
        let body: Value = serde_json::from_slice(&reply.body(None)).unwrap();
        assert_eq!(body["error"]["code"], "identity_unavailable");
        assert!(body["error"]["message"].is_string());
        assert!(body["error"]["type"].is_string());
    }

    #[test]
    fn the_body_has_anthropics_form_for_its_clients() {
        let wait = |throttled| Wait {
            left: Duration::from_secs(1),
            throttled,
        };
        for (reply, kind) in [
            (LocalReply::all_in_cooldown(wait(true)), "rate_limit_error"),
            (LocalReply::all_in_cooldown(wait(false)), "overloaded_error"),
            (LocalReply::no_answer(true, 1), "timeout_error"),
            (LocalReply::no_deployment(), "not_found_error"),
            (LocalReply::encoded_body("gzip"), "invalid_request_error"),
            (LocalReply::internal_error(), "api_error"),
        ] {
            let body = reply.body(Some(Surface::Anthropic));
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["type"], kind);
            assert_eq!(body["error"]["message"], *reply.message);
        }
    }

    #[test]
    fn replies_to_encoded_bodies_name_accepted_encodings() {
        let reply = LocalReply::encoded_body("gzip");
        assert_eq!(reply.status, 415);
        assert!(reply
            .headers()
            .contains(&("accept-encoding", "identity".to_owned())));
        let body: Value = serde_json::from_slice(&reply.body(None)).unwrap();
        assert_eq!(body["error"]["code"], "content_encoding_not_supported");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("content-encoding \"gzip\""), "{message}");
        let long = LocalReply::encoded_body(&"x".repeat(9000));
        assert!(long.message.len() < 400, "{}", long.message);
    }

    #[test]
    fn waits_are_rounded_up_in_seconds_and_exact_in_milliseconds() {
        for (millis, seconds, exact) in [
            (0, "1", "1"),
            (1, "1", "1"),
            (1000, "1", "1000"),
            (1001, "2", "1001"),
        ] {
            let headers = LocalReply::identity_unavailable(Duration::from_millis(millis)).headers();
            assert_eq!(headers[1], ("retry-after", seconds.to_owned()), "{millis}");
            assert_eq!(headers[2], ("retry-after-ms", exact.to_owned()), "{millis}");
        }
    }

    #[test]
    fn used_up_quotas_and_failures_have_distinct_replies() {
        let reply = |throttled| {
            LocalReply::all_in_cooldown(Wait {
                left: Duration::from_millis(6500),
                throttled,
            })
        };
        let (throttled, failing) = (reply(true), reply(false));
        assert_eq!((throttled.status, failing.status), (429, 503));
        assert_eq!(throttled.headers()[1].1, "7");
        assert_eq!(throttled.headers()[2].1, "6500");
        let body: Value = serde_json::from_slice(&throttled.body(None)).unwrap();
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(body["error"]["code"], "all_backends_throttled");
    }

    #[test]
    fn timeouts_and_refused_connections_have_distinct_replies() {
        assert_eq!(LocalReply::no_answer(true, 3).status, 504);
        let reply = LocalReply::no_answer(false, 1);
        assert_eq!(reply.status, 503);
        assert!(reply.message.contains("one attempt"));
        assert!(reply
            .headers()
            .iter()
            .all(|(name, _)| *name != "retry-after"));
    }
}
