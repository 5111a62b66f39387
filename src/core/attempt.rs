//! Carrying out one attempt: what changes in the client's request on its way to a backend.

use std::time::Duration;

use super::config::{Backend, HeaderNames};
use super::request::{is_credential_header, Request};

/// Headers that belong to one connection, not to the request (RFC 9110, section 7.6.1), those a call sets itself, and the
/// client's address, which is no business of a backend's (Envoy's own calls carry none either).
const NOT_REISSUED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];

/// A change of one request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// The header is set to a value, whatever it was.
    Set(&'a str, &'a str),
    /// The header is removed.
    Remove(&'a str),
}

/// One attempt of a request on a backend.
///
/// Every attempt starts from the request as the client sent it, never from what an earlier attempt made of it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The client's request.
    pub request: &'a Request,
    /// The backend of this attempt.
    pub backend: &'a Backend,
    /// The value of the `authorization` header.
    pub authorization: &'a str,
}

impl<'a> Attempt<'a> {
    /// The edits that turn the client's request into this attempt in place, for the router to send.
    pub fn edit_in_place(
        &self,
        names: &'a HeaderNames,
        per_try_timeout: Duration,
        mut apply: impl FnMut(Edit<'_>),
    ) {
        for name in self.request.credential_headers() {
            // Set below, which replaces it.
            if name != "authorization" {
                apply(Edit::Remove(name));
            }
        }
        if let Some(path) = &self.request.clean_path {
            apply(Edit::Set(":path", path));
        }
        apply(Edit::Set(":authority", &self.backend.host));
        apply(Edit::Set("authorization", self.authorization));
        // The router gives up on the headers after this time but lets an answer that has begun go on for as long as it takes.
        apply(Edit::Set(
            "x-envoy-upstream-rq-per-try-timeout-ms",
            &per_try_timeout.as_millis().to_string(),
        ));
        // Last, because the route is chosen by it.
        apply(Edit::Set(&names.cluster, &self.backend.cluster));
    }

    /// The headers of this attempt as a request of its own, made from the `original` ones.
    pub fn headers<'h>(
        &'h self,
        names: &'h HeaderNames,
        original: impl Iterator<Item = (&'h str, &'h str)>,
    ) -> Vec<(&'h str, &'h str)> {
        let kept = original.filter(|(name, _)| {
            !NOT_REISSUED.contains(name)
                && !is_credential_header(name)
                && *name != names.cluster
                // Envoy's instructions to its own router; a callout has its own.
                && !name.starts_with("x-envoy-")
        });
        kept.map(|(name, value)| match name {
            ":authority" => (name, self.backend.host.as_str()),
            ":path" => (name, self.request.clean_path.as_deref().unwrap_or(value)),
            _ => (name, value),
        })
        .chain([("authorization", self.authorization)])
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: [(&str, &str); 13] = [
        (":authority", "gateway.internal"),
        (":method", "POST"),
        (":path", "/openai/x?api-key=CLIENT&api-version=1"),
        ("api-key", "CLIENT"),
        ("authorization", "Bearer CLIENT"),
        ("connection", "keep-alive"),
        ("content-length", "12"),
        ("content-type", "application/json"),
        ("x-aoai-cluster", "forged"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-envoy-expected-rq-timeout-ms", "15000"),
        ("x-stainless-lang", "python"),
        ("x-stainless-lang", "again"),
    ];

    fn names() -> HeaderNames {
        HeaderNames {
            cluster: "x-aoai-cluster".into(),
            backend: None,
            attempts: None,
        }
    }

    fn backend() -> Backend {
        Backend {
            name: "east".into(),
            cluster: "aoai_east".into(),
            host: "east.openai.azure.com".into(),
        }
    }

    fn request() -> Request {
        let headers = ORIGINAL.iter();
        Request::read(headers.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn the_first_attempt_is_edited_in_place() {
        let (request, backend, names) = (request(), backend(), names());
        let attempt = Attempt {
            request: &request,
            backend: &backend,
            authorization: "Bearer TOKEN",
        };
        let mut edits = Vec::new();
        attempt.edit_in_place(&names, Duration::from_secs(30), |edit| {
            edits.push(format!("{edit:?}"));
        });
        assert_eq!(
            edits,
            [
                r#"Remove("api-key")"#,
                r#"Set(":path", "/openai/x?api-version=1")"#,
                r#"Set(":authority", "east.openai.azure.com")"#,
                r#"Set("authorization", "Bearer TOKEN")"#,
                r#"Set("x-envoy-upstream-rq-per-try-timeout-ms", "30000")"#,
                r#"Set("x-aoai-cluster", "aoai_east")"#,
            ]
        );
    }

    #[test]
    fn a_reissued_attempt_carries_the_request_and_none_of_the_clients_credentials() {
        let (request, backend, names) = (request(), backend(), names());
        let attempt = Attempt {
            request: &request,
            backend: &backend,
            authorization: "Bearer TOKEN",
        };
        assert_eq!(
            attempt.headers(&names, ORIGINAL.into_iter()),
            [
                (":authority", "east.openai.azure.com"),
                (":method", "POST"),
                (":path", "/openai/x?api-version=1"),
                ("content-type", "application/json"),
                ("x-stainless-lang", "python"),
                ("x-stainless-lang", "again"),
                ("authorization", "Bearer TOKEN"),
            ]
        );
    }
}
