//! What the answer to an attempt means.

use serde_json::Value;

use super::config::Retry;

/// The outcome of one attempt, as far as it matters for what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend did what was asked.
    Success,
    /// The request is at fault; every backend would say the same.
    ClientError,
    /// The backend's quota is used up (429).
    Throttled,
    /// The backend is broken, overloaded, too slow or out of reach.
    Unavailable,
    /// The backend does not accept the token: expired, revoked, malformed.
    BadToken,
    /// The token is good, but the resource does not let its identity in: a role is missing, or its network is closed.
    PermissionDenied,
    /// The resource has no such deployment.
    DeploymentNotFound,
    /// The resource's region does not have the API.
    ApiNotEnabled,
}

impl Outcome {
    /// Every outcome, in the order of their statistics.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::ClientError,
        Self::Throttled,
        Self::Unavailable,
        Self::BadToken,
        Self::PermissionDenied,
        Self::DeploymentNotFound,
        Self::ApiNotEnabled,
    ];

    /// The name in statistics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::BadToken => "bad_token",
            Self::PermissionDenied => "permission_denied",
            Self::DeploymentNotFound => "deployment_not_found",
            Self::ApiNotEnabled => "api_not_enabled",
        }
    }

    /// The outcome that `status` alone tells; `None` where the error code in the body decides.
    pub fn from_status(status: u16, retry: &Retry) -> Option<Self> {
        Some(match status {
            0..=399 => Self::Success,
            401 => return None,
            429 if retry.statuses.contains(&status) => Self::Throttled,
            _ if retry.statuses.contains(&status) => Self::Unavailable,
            403 | 404 => return None,
            _ => Self::ClientError,
        })
    }

    /// The outcome of an answer whose error code decides: a 401, 403 or 404 with its body, as much of it as there is.
    ///
    /// Azure tells a token it does not accept and a role that is missing apart only by `error.code`. A 401 whose code says
    /// nothing known counts as a bad token: the worst that follows is one fresh token that was not needed. A 403 is the resource's if its
    /// code says so; one that is about the request must not make a backend look closed to all others.
    pub fn from_error(status: u16, body: &[u8]) -> Self {
        let error = Error::read(body);
        match (status, error.code.as_deref()) {
            (401, Some("PermissionDenied")) => Self::PermissionDenied,
            (401, _) => Self::BadToken,
            (403, Some(code)) if CLOSED.contains(&code) => Self::PermissionDenied,
            (404, Some("DeploymentNotFound")) => Self::DeploymentNotFound,
            // "The ... API is not enabled in this region": there is no code of its own for that.
            (404, _) if error.message.contains("not enabled in this region") => Self::ApiNotEnabled,
            _ => Self::ClientError,
        }
    }
}

/// What a resource says with status 403 that lets the caller in nowhere: its firewall (`403`, `AccessDenied`), its role
/// assignments, its public endpoint that is switched off.
const CLOSED: [&str; 7] = [
    "403",
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailed",
    "Forbidden",
    "PermissionDenied",
    "PublicNetworkAccessDisabled",
];

/// The error of an answer in Azure's shape, `{"error": {"code": "...", "message": "..."}}`.
#[derive(Default)]
struct Error {
    code: Option<String>,
    message: String,
}

impl Error {
    fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name| body.get("error")?.get(name);
        Self {
            code: match field("code") {
                Some(Value::String(code)) => Some(code.clone()),
                Some(Value::Number(code)) => Some(code.to_string()),
                _ => None,
            },
            message: field("message")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// What an attempt that failed may have done at the backend all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nothing: it did not get there, or was turned away.
    None,
    /// What was asked for, perhaps.
    Possible,
}

impl Trace {
    /// That of a backend's answer with this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            // An overloaded backend turns requests away with 503; the others of these give up on what they have begun.
            408 | 500 | 502 | 504 => Self::Possible,
            _ => Self::None,
        }
    }

    /// That of an attempt without an answer, by what Envoy says of it: in its own answer's body, or in its details
    /// (`upstream_reset_before_response_started{connection_failure...}`, `no_healthy_upstream`).
    pub fn of_no_answer(said: &[u8]) -> Self {
        const NEVER_SENT: [&[u8]; 7] = [
            b"connection failure",
            b"connection_failure",
            b"connection timeout",
            b"connection_timeout",
            b"no healthy upstream",
            b"no_healthy_upstream",
            b"cluster_not_found",
        ];
        let contains = |text: &[u8]| said.windows(text.len()).any(|window| window == text);
        match NEVER_SENT.into_iter().any(contains) {
            true => Self::None,
            false => Self::Possible,
        }
    }
}

/// Where an answer that passes the filter is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A backend.
    Backend,
    /// Envoy's router, for want of a backend's.
    Router,
    /// A filter between this one and the router, or Envoy itself: a limit, a denial, a route that answers. It concerns the client and
    /// says nothing of a backend, and to go around it is not for this filter.
    Other,
}

impl Origin {
    /// By Envoy's [`response.code_details`], of which the router's own are known.
    ///
    /// [`response.code_details`]: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details
    pub fn of(details: &[u8]) -> Self {
        match details {
            b"via_upstream" => Self::Backend,
            b"cluster_not_found"
            | b"no_healthy_upstream"
            | b"maintenance_mode"
            | b"drop_overload"
            | b"unconditional_drop_overload"
            | b"response_timeout" => Self::Router,
            // `upstream_reset_before_response_started{...}`, `upstream_per_try_timeout`, ...; and what this module says where it is
            // a cluster's filter.
            details if details.starts_with(b"upstream_") || details.starts_with(b"aoai_") => {
                Self::Router
            }
            _ => Self::Other,
        }
    }

    /// Whether an answer with this `status` is Envoy's own to a client that took too long over its request (`stream_idle_timeout`,
    /// `request_timeout`): the rest of the request will not come.
    pub fn is_to_slow_client(self, status: u16) -> bool {
        self == Self::Other && status == 408
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::config::Engine;

    #[test]
    fn an_origin_is_read_from_envoys_details() {
        for (details, origin) in [
            ("via_upstream", Origin::Backend),
            (
                "upstream_reset_before_response_started{overflow}",
                Origin::Router,
            ),
            ("upstream_per_try_timeout", Origin::Router),
            ("response_timeout", Origin::Router),
            ("no_healthy_upstream", Origin::Router),
            ("cluster_not_found", Origin::Router),
            ("aoai_no_request", Origin::Router),
            ("local_rate_limited", Origin::Other),
            ("ext_authz_denied", Origin::Other),
            ("direct_response", Origin::Other),
            ("", Origin::Other),
        ] {
            assert_eq!(Origin::of(details.as_bytes()), origin, "{details}");
        }
    }

    fn retry() -> Retry {
        Retry {
            engine: Engine::Filter,
            max_attempts: 3,
            statuses: vec![408, 429, 500, 502, 503, 504],
            per_try_timeout: Duration::from_secs(300),
            replay_limit: 0,
            replay_memory: 0,
            repeat_creations: false,
            budget: None,
        }
    }

    #[test]
    fn statuses() {
        for (status, outcome) in [
            (200, Some(Outcome::Success)),
            (204, Some(Outcome::Success)),
            (302, Some(Outcome::Success)),
            (400, Some(Outcome::ClientError)),
            (401, None),
            (403, None),
            (404, None),
            (408, Some(Outcome::Unavailable)),
            (413, Some(Outcome::ClientError)),
            (429, Some(Outcome::Throttled)),
            (500, Some(Outcome::Unavailable)),
            (501, Some(Outcome::ClientError)),
            (504, Some(Outcome::Unavailable)),
        ] {
            assert_eq!(Outcome::from_status(status, &retry()), outcome, "{status}");
        }
    }

    #[test]
    fn the_configuration_decides_which_statuses_are_retried() {
        let retry = Retry {
            statuses: vec![404, 418],
            ..retry()
        };
        let outcome = |status| Outcome::from_status(status, &retry);
        assert_eq!(outcome(404), Some(Outcome::Unavailable));
        assert_eq!(outcome(418), Some(Outcome::Unavailable));
        assert_eq!(outcome(429), Some(Outcome::ClientError));
        assert_eq!(outcome(503), Some(Outcome::ClientError));
    }

    #[test]
    fn error_codes() {
        for (status, body, outcome) in [
            (
                401,
                r#"{"error":{"code":"401","message":"Access denied"}}"#,
                Outcome::BadToken,
            ),
            (401, r#"{"error":{"code":401}}"#, Outcome::BadToken),
            (
                401,
                r#"{"error":{"code":"Unauthorized"}}"#,
                Outcome::BadToken,
            ),
            (
                401,
                r#"{"error":{"code":"PermissionDenied"}}"#,
                Outcome::PermissionDenied,
            ),
            (
                403,
                r#"{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}"#,
                Outcome::PermissionDenied,
            ),
            (403, r#"{"error":{"code":403}}"#, Outcome::PermissionDenied),
            (
                403,
                r#"{"error":{"code":"PermissionDenied"}}"#,
                Outcome::PermissionDenied,
            ),
            (
                403,
                r#"{"error":{"code":"content_policy"}}"#,
                Outcome::ClientError,
            ),
            (403, "", Outcome::ClientError),
            (401, r#"{"statusCode":401}"#, Outcome::BadToken),
            (401, "", Outcome::BadToken),
            (
                404,
                r#"{"error":{"code":"DeploymentNotFound"}}"#,
                Outcome::DeploymentNotFound,
            ),
            (
                404,
                r#"{"error":{"code":"404","message":"Resource not found"}}"#,
                Outcome::ClientError,
            ),
            (
                404,
                r#"{"error":{"code":"NotFound","message":"The Responses API is not enabled in this region."}}"#,
                Outcome::ApiNotEnabled,
            ),
            (
                404,
                r#"{"error":{"code":"404","message":["not enabled in this region"]}}"#,
                Outcome::ClientError,
            ),
            (404, r#"{"error":{"code":null}}"#, Outcome::ClientError),
            (
                404,
                r#"{"error":"DeploymentNotFound"}"#,
                Outcome::ClientError,
            ),
            (404, "<html>", Outcome::ClientError),
        ] {
            assert_eq!(
                Outcome::from_error(status, body.as_bytes()),
                outcome,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn what_was_turned_away_or_never_sent_has_done_nothing() {
        for (status, trace) in [
            (429, Trace::None),
            (503, Trace::None),
            (401, Trace::None),
            (404, Trace::None),
            (408, Trace::Possible),
            (500, Trace::Possible),
            (502, Trace::Possible),
            (504, Trace::Possible),
        ] {
            assert_eq!(Trace::of_status(status), trace, "{status}");
        }
        for (said, trace) in [
            ("upstream_reset_before_response_started{connection_failure|TLS}", Trace::None),
            (
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
                Trace::None,
            ),
            ("no healthy upstream", Trace::None),
            ("cluster_not_found", Trace::None),
            ("upstream_reset_before_response_started{connection_termination}", Trace::Possible),
            ("upstream_per_try_timeout", Trace::Possible),
            ("response_timeout", Trace::Possible),
            ("", Trace::Possible),
        ] {
            assert_eq!(Trace::of_no_answer(said.as_bytes()), trace, "{said}");
        }
    }
}
