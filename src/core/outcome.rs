//! The meaning of an attempt's answer.

use serde_json::Value;

use super::config::Retry;
use super::inflate::decoded;
use crate::prelude::*;

/// The outcome of an attempt, which decides the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend served the request.
    Success,
    /// The request is at fault. Every backend would answer alike.
    ClientError,
    /// The backend's quota is used up (429).
    Throttled,
    /// The backend is broken, overloaded, too slow or unreachable.
    Unavailable,
    /// The backend refuses the token: expired, revoked or malformed.
    BadToken,
    /// The token is valid, but the resource denies access to its identity: a role is missing, or the network is closed.
    PermissionDenied,
    /// The resource has no such deployment.
    DeploymentNotFound,
    /// The API is not available in the resource's region.
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

    /// The outcome that follows from `status` alone. `None` if the error code in the body decides.
    pub fn from_status(status: u16, retry: &Retry) -> Option<Self> {
        Some(match status {
            0..=399 => Self::Success,
            401 => return None,
            429 if retry.statuses.contains(&status) => Self::Throttled,
            _ if retry.statuses.contains(&status) => Self::Unavailable,
            400 | 403 | 404 | 410 => return None,
            _ => Self::ClientError,
        })
    }
}

/// The meaning of an error whose code decides. [`Outcome::from_status`] is `None` for its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason why the resource denies all access, for [`Outcome::PermissionDenied`].
    pub denial: Denial,
}

impl Diagnosis {
    /// The diagnosis of an answer with this `status` and the available part of its body, encoded or not.
    ///
    /// An unreadable body counts as one without a code. The codes are Azure's. If a message is more specific than its
    /// code, the message is matched.
    pub fn of(status: u16, body: &[u8]) -> Self {
        let body = decoded(body);
        // Most 400s are the client's fault, and clients cause many. So few are parsed.
        let tenants = [Denial::OTHER_TENANT, Denial::TOKEN_TENANT];
        let mut texts = MISSING.iter().chain(&tenants);
        let error = match status != 400 || texts.any(|text| contains(&body, text)) {
            true => Error::read(&body),
            false => Error::default(),
        };
        let (code, message) = (error.code.as_str(), error.message.as_str());
        let denial = Denial::read(status, code, message);
        let outcome = match (status, code) {
            _ if denial.is_some() => Outcome::PermissionDenied,
            // Only the code distinguishes a refused token from a missing role. An unknown code counts as a refused
            // token: at worst one token is fetched in vain.
            (401, _) => Outcome::BadToken,
            (400 | 404 | 410, code) if MISSING.contains(&code) => Outcome::DeploymentNotFound,
            // "The ... API is not enabled in this region" has no code of its own.
            (404, _) if contains(message.as_bytes(), "not enabled in this region") => {
                Outcome::ApiNotEnabled
            }
            // This includes 400 `OperationNotSupported`, "The chatCompletion operation does not work with the specified
            // model". Usually the deployment does not support the operation on any backend. As a missing deployment it
            // would become unavailable to all clients.
            _ => Outcome::ClientError,
        };
        Self {
            outcome,
            denial: denial.unwrap_or_default(),
        }
    }
}

/// The codes of a missing deployment.
///
/// - `DeploymentNotFound`: 404 "The API deployment for this resource does not exist."
/// - `ModelDeprecated`: 410 "The model associated with the deployment is deprecated and no longer available for use"
///   (epam/ai-dial-chat#4403). Auto-upgrades differ by region, so another resource may serve the same name.
/// - `unknown_model`: 400 (enricoros/big-AGI#898) or 404 (microsoft/Generative-AI-for-beginners-dotnet#302) "Unknown model: ...".
///   This is Foundry's code for models that are not OpenAI's.
/// - `model_not_found`: 400 or 404 "The provided model deployment '...' does not exist". This is OpenAI's code, which Azure uses for
///   some of the v1 API.
const MISSING: [&str; 4] = [
    "DeploymentNotFound",
    "ModelDeprecated",
    "model_not_found",
    "unknown_model",
];

/// The reason why a resource denies all access, with advice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denial {
    /// A role is missing, a key is wrong, or the network is closed.
    #[default]
    Access,
    /// The resource has API keys disabled.
    KeysDisabled,
    /// The identity belongs to another tenant than the resource.
    OtherTenant,
    /// Azure has suspended the resource.
    Suspended,
    /// No resource has that host name.
    NoResource,
}

impl Denial {
    /// The code, or the start of the message, of a 400 to a token of another tenant (Azure/azure-dev#5974).
    const OTHER_TENANT: &str = "Tenant provided in token does not match";
    /// The start of the message "Token tenant ... does not match resource tenant."
    const TOKEN_TENANT: &str = "Token tenant ";

    fn read(status: u16, code: &str, message: &str) -> Option<Self> {
        let has = |text| contains(message.as_bytes(), text);
        let other_tenant = code.starts_with(Self::OTHER_TENANT)
            || message.starts_with(Self::OTHER_TENANT)
            || message.starts_with(Self::TOKEN_TENANT) && has("does not match resource tenant");
        Some(match status {
            400 | 401 | 403 if other_tenant => Self::OtherTenant,
            // "Key based authentication is disabled for this resource." (microsoft/sample-app-aoai-chatGPT#1000)
            401 | 403 if code == "AuthenticationTypeDisabled" => Self::KeysDisabled,
            // "Your resource has been temporarily blocked because we detected ...", with code `Forbidden` or none.
            // Azure's page "Troubleshoot common HTTP errors" has these words, and says that all requests are refused.
            403 if has("resource has been temporarily blocked") => Self::Suspended,
            404 if has("Subdomain does not map to a resource") => Self::NoResource,
            401 if code == "PermissionDenied" => Self::Access,
            403 if CLOSED.contains(&code) => Self::Access,
            _ => return None,
        })
    }

    /// The log's sentence after the backend's name: the fault and the fix.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Access => {
                "denies access to this identity or key (401 or 403): grant the identity the role Cognitive Services OpenAI User on \
                 the resource, renew the key, or open the resource's network"
            }
            Self::KeysDisabled => {
                "has API keys disabled (AuthenticationTypeDisabled): remove its api_key_env, so that it gets an identity's token, \
                 or set disableLocalAuth to false on the resource"
            }
            Self::OtherTenant => {
                "belongs to another tenant than the identity (\"Tenant provided in token does not match resource token\"): use an \
                 identity of the resource's tenant, or an API key (api_key_env)"
            }
            Self::Suspended => {
                "was suspended by Azure's abuse monitoring (403, \"temporarily blocked\"): open a support request in the Azure portal"
            }
            Self::NoResource => {
                "has a host without a resource (404, \"Subdomain does not map to a resource\"): correct its host, or create a \
                 resource with this custom subdomain"
            }
        }
    }
}

/// The codes of a 403 with which a resource denies all access: its firewall (`403`, `AccessDenied`), its role
/// assignments, or its disabled public endpoint. A 403 with another code concerns one request, and must not close the
/// backend for others.
const CLOSED: [&str; 7] = [
    "403",
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailed",
    "Forbidden",
    "PermissionDenied",
    "PublicNetworkAccessDisabled",
];

/// The error in an answer, in Azure's form `{"error": {"code": "...", "message": "..."}}`.
#[derive(Default)]
struct Error {
    code: String,
    message: String,
}

impl Error {
    fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name| match body.get("error").and_then(|error| error.get(name)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        Self {
            code: field("code"),
            message: field("message"),
        }
    }
}

/// Whether an error's `body`, encoded or not, is about the parameter `stream_options`.
///
/// - 400 "Validation error at #/stream_options: Extra inputs are not permitted" and "Unrecognized request argument
///   supplied: stream_options": Azure, for versions and models without the option.
/// - 422 with `"loc": ["body", "stream_options"]` and "Extra inputs are not permitted": Mistral's models on Foundry.
pub fn names_stream_options(body: &[u8]) -> bool {
    contains(&decoded(body), "stream_options")
}

#[inline(never)]
fn contains(bytes: &[u8], text: &str) -> bool {
    let mut windows = bytes.windows(text.len());
    windows.any(|window| window == text.as_bytes())
}

/// The possible effect of a failed attempt on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// None: the request did not arrive, or was rejected.
    None,
    /// The request may have been carried out.
    Possible,
}

impl Trace {
    /// The trace of a backend's answer with this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            // An overloaded backend rejects requests with 503. The other statuses may come after the work has begun.
            408 | 500 | 502 | 504 => Self::Possible,
            _ => Self::None,
        }
    }

    /// The trace of an attempt without an answer, by Envoy's local reply or its details
    /// (`upstream_reset_before_response_started{connection_failure...}`, `no_healthy_upstream`).
    pub fn of_no_answer(details: &[u8]) -> Self {
        const NEVER_SENT: [&str; 7] = [
            "connection failure",
            "connection_failure",
            "connection timeout",
            "connection_timeout",
            "no healthy upstream",
            "no_healthy_upstream",
            "cluster_not_found",
        ];
        match NEVER_SENT.into_iter().any(|text| contains(details, text)) {
            true => Self::None,
            false => Self::Possible,
        }
    }
}

/// The origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A backend.
    Backend,
    /// Envoy's router, because no backend answered.
    Router,
    /// Another filter or Envoy itself, such as a limit, a denial or a direct response. Such an answer concerns the
    /// client and not a backend, and must not be bypassed.
    Other,
}

impl Origin {
    /// The origin by Envoy's [`response.code_details`], of which the router's own are known.
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
            // Envoy's details such as `upstream_reset_before_response_started{...}` and `upstream_per_try_timeout`, and
            // the details that this module sets as a cluster's filter.
            details if details.starts_with(b"upstream_") || details.starts_with(b"aoai_") => {
                Self::Router
            }
            _ => Self::Other,
        }
    }

    /// Whether an answer with this `status` is Envoy's own to a client that was too slow to send its request
    /// (`stream_idle_timeout`, `request_timeout`). The rest of the request will not arrive.
    pub fn is_to_slow_client(self, status: u16) -> bool {
        self == Self::Other && status == 408
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::config::Engine;

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
            stream_idle_timeout: None,
            stream_start: Duration::from_secs(1),
            replay_limit: 0,
            replay_memory: 0,
            repeat_creations: false,
            budget: None,
        }
    }

    #[test]
    fn statuses_map_to_outcomes() {
        for (status, outcome) in [
            (200, Some(Outcome::Success)),
            (204, Some(Outcome::Success)),
            (302, Some(Outcome::Success)),
            (400, None),
            (401, None),
            (403, None),
            (404, None),
            (408, Some(Outcome::Unavailable)),
            (410, None),
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
    fn the_configuration_sets_the_retried_statuses() {
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

    const TENANT: &str = "Tenant provided in token does not match resource token";
    const TOKEN_TENANT: &str = "Token tenant 33e0 does not match resource tenant.";
    const BLOCKED: &str =
        "Your resource has been temporarily blocked because we detected unusual behavior.";

    fn error(code: &str, message: &str) -> String {
        serde_json::json!({"error": {"code": code, "message": message}}).to_string()
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        Diagnosis::of(status, body.as_bytes()).outcome
    }

    #[test]
    fn error_codes_map_to_outcomes() {
        use Outcome::*;
        for (status, code, message, expected) in [
            (400, "content_filter", "", ClientError),
            (400, "OperationNotSupported", "", ClientError),
            (400, "BadRequest", "unknown_model", ClientError),
            (
                400,
                "unknown_model",
                "Unknown model: phi",
                DeploymentNotFound,
            ),
            (400, "model_not_found", "", DeploymentNotFound),
            (400, "DeploymentNotFound", "", DeploymentNotFound),
            (400, "PermissionDenied", "", ClientError),
            (400, "403", "", ClientError),
            (400, TENANT, TOKEN_TENANT, PermissionDenied),
            (400, "BadRequest", TENANT, PermissionDenied),
            (400, "BadRequest", TOKEN_TENANT, PermissionDenied),
            (
                400,
                "BadRequest",
                "x Token tenant a does not match resource tenant.",
                ClientError,
            ),
            (401, "401", "Access denied", BadToken),
            (401, "Unauthorized", "", BadToken),
            (401, "PermissionDenied", "", PermissionDenied),
            (401, "AuthenticationTypeDisabled", "", PermissionDenied),
            (401, TENANT, TOKEN_TENANT, PermissionDenied),
            (
                403,
                "403",
                "Access denied due to Virtual Network/Firewall rules.",
                PermissionDenied,
            ),
            (403, "PermissionDenied", "", PermissionDenied),
            (403, "AuthenticationTypeDisabled", "", PermissionDenied),
            (403, "Forbidden", BLOCKED, PermissionDenied),
            (403, "", BLOCKED, PermissionDenied),
            (403, "content_policy", "", ClientError),
            (403, "DeploymentNotFound", "", ClientError),
            (404, "DeploymentNotFound", "", DeploymentNotFound),
            (
                404,
                "unknown_model",
                "Unknown model: phi",
                DeploymentNotFound,
            ),
            (404, "model_not_found", "", DeploymentNotFound),
            (404, "404", "Resource not found", ClientError),
            (
                404,
                "404",
                "Subdomain does not map to a resource.",
                PermissionDenied,
            ),
            (
                404,
                "NotFound",
                "The Responses API is not enabled in this region.",
                ApiNotEnabled,
            ),
            (
                404,
                "NotFound",
                "No response found with id 'resp_1'.",
                ClientError,
            ),
            (410, "ModelDeprecated", "", DeploymentNotFound),
            (410, "Gone", "", ClientError),
        ] {
            let body = error(code, message);
            assert_eq!(outcome(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn errors_in_other_forms_have_no_code() {
        for (status, body, expected) in [
            (401, r#"{"error":{"code":401}}"#, Outcome::BadToken),
            (401, r#"{"statusCode":401}"#, Outcome::BadToken),
            (401, "", Outcome::BadToken),
            (403, r#"{"error":{"code":403}}"#, Outcome::PermissionDenied),
            (403, "", Outcome::ClientError),
            (404, r#"{"error":{"code":null}}"#, Outcome::ClientError),
            (
                404,
                r#"{"error":"DeploymentNotFound"}"#,
                Outcome::ClientError,
            ),
            (404, r#"{"code":"unknown_model"}"#, Outcome::ClientError),
            (
                404,
                r#"{"error":{"code":"404","message":["not enabled in this region"]}}"#,
                Outcome::ClientError,
            ),
            (404, "<html>", Outcome::ClientError),
            (400, "unknown_model", Outcome::ClientError),
            (400, "", Outcome::ClientError),
        ] {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn encoded_bodies_have_the_same_outcome() {
        for (status, code, expected) in [
            (400, "unknown_model", Outcome::DeploymentNotFound),
            (400, "content_filter", Outcome::ClientError),
            (401, "PermissionDenied", Outcome::PermissionDenied),
            (403, "AuthenticationTypeDisabled", Outcome::PermissionDenied),
            (404, "DeploymentNotFound", Outcome::DeploymentNotFound),
        ] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(error(code, "").as_bytes()).unwrap();
            let body = encoder.finish().unwrap();
            assert_eq!(Diagnosis::of(status, &body).outcome, expected, "{code}");
            let cut = &body[..body.len() / 2];
            let unread = Diagnosis::of(status, b"").outcome;
            assert_eq!(Diagnosis::of(status, cut).outcome, unread, "{code}");
        }
    }

    #[test]
    fn every_denial_has_advice() {
        for (status, code, message, denial, advice) in [
            (401, "PermissionDenied", "", Denial::Access, "role"),
            (403, "403", "", Denial::Access, "network"),
            (
                403,
                "AuthenticationTypeDisabled",
                "",
                Denial::KeysDisabled,
                "api_key_env",
            ),
            (
                400,
                TENANT,
                TOKEN_TENANT,
                Denial::OtherTenant,
                "identity of the resource's tenant",
            ),
            (
                403,
                "Forbidden",
                BLOCKED,
                Denial::Suspended,
                "support request",
            ),
            (
                404,
                "404",
                "Subdomain does not map to a resource.",
                Denial::NoResource,
                "host",
            ),
        ] {
            let found = Diagnosis::of(status, error(code, message).as_bytes()).denial;
            assert_eq!(found, denial);
            assert!(denial.advice().contains(advice), "{denial:?}");
        }
    }

    #[test]
    fn rejected_and_unsent_attempts_have_no_effect() {
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
        for (details, trace) in [
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
            assert_eq!(Trace::of_no_answer(details.as_bytes()), trace, "{details}");
        }
    }
}
