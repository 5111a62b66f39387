//! The answers to requests over a limit, in the shapes that clients parse.

use super::{Kind, OnFailure, SharedLimits, Subject};
use crate::yaml::{indented, quoted};

/// An answer for a request over a limit, in place of Envoy's own.
struct Refusal {
    /// The answers of Envoy that it replaces, in CEL.
    condition: String,
    code: &'static str,
    message: String,
    /// `error.type` for OpenAI's clients, as in the module's answers.
    kind: &'static str,
    /// `error.type` for Anthropic's: <https://docs.anthropic.com/en/api/errors>.
    anthropic_kind: &'static str,
    /// Whether SDKs retry by themselves: they wait a minute at most.
    retried: bool,
}

/// The mappers of Envoy's own answers, as items of a list.
pub(crate) fn mappers(limits: &SharedLimits) -> String {
    let refusals = refusals(limits).into_iter();
    refusals
        .flat_map(|refusal| {
            let anthropic = format!(
                "{} && request.url_path.startsWith('/anthropic/')",
                refusal.condition
            );
            [
                mapper(&anthropic, &refusal, &for_anthropic(&refusal)),
                mapper(&refusal.condition, &refusal, &for_openai(&refusal)),
            ]
        })
        .collect()
}

fn refusals(limits: &SharedLimits) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for subject in [Subject::Tokens, Subject::Requests] {
        let mut kinds = Kind::ALL.into_iter();
        if !kinds.any(|kind| Subject::of(kind) == subject && limits.has(kind)) {
            continue;
        }
        let name = subject.name();
        let refused = |more: &str, retried| {
            Refusal {
            condition: format!(
                "response.code_details == 'request_rate_limited' && 'x-ratelimit-remaining-{name}' in response.headers{more}"
            ),
            code: "rate_limit_exceeded",
            message: format!(
                "This client has used up its limit of {name} for now. Try again in %RESP(retry-after)% seconds."
            ),
            kind: "rate_limit_error",
            anthropic_kind: "rate_limit_error",
            retried,
        }
        };
        if subject == Subject::Tokens && limits.has(Kind::TokensPerDay) {
            let longer = " && int(response.headers['retry-after']) > 60";
            refusals.push(refused(longer, false));
        }
        refusals.push(refused("", true));
    }
    if limits.on_failure == OnFailure::Refuse {
        refusals.push(Refusal {
            condition: "response.code_details == 'rate_limiter_error'".to_owned(),
            code: "limits_unavailable",
            message:
                "The gateway cannot look up this client's limits at the moment. Try again later."
                    .to_owned(),
            kind: "server_error",
            anthropic_kind: "overloaded_error",
            retried: true,
        });
    }
    refusals
}

fn mapper(condition: &str, refusal: &Refusal, body: &str) -> String {
    let headers = match refusal.retried {
        true => "",
        false => "  headers_to_add:\n  - header: {key: x-should-retry, value: \"false\"}\n",
    };
    format!(
        "\
- filter:
    extension_filter:
      name: by_details
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter
        expression: {condition}
{headers}  body_format_override:
    json_format:
{body}",
        condition = quoted(condition),
        body = indented(body, 6),
    )
}

fn for_openai(refusal: &Refusal) -> String {
    format!(
        "\
error:
  code: {code}
  message: {message}
  type: {kind}
  param: null
",
        code = quoted(refusal.code),
        message = quoted(&refusal.message),
        kind = quoted(refusal.kind),
    )
}

fn for_anthropic(refusal: &Refusal) -> String {
    format!(
        "\
type: error
error:
  type: {kind}
  message: {message}
",
        kind = quoted(refusal.anthropic_kind),
        message = quoted(&refusal.message),
    )
}
