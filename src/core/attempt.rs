//! The edits of a client's request for an attempt on a backend.

use alloc::borrow::Cow;

use super::client_credentials::is_credential_header;
use super::config::{Backend, Config, Engine, HeaderNames};
use super::edits::Edits;
use super::operation::Surface;
use super::path;
use super::request::Request;
use crate::prelude::*;

/// Headers that a re-issued request omits: those of the connection (RFC 9110, section 7.6.1), those that a call sets
/// itself, and the client's address. Envoy's own calls omit the client's address too.
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

/// Headers that control the router's retries, and that Envoy obeys for trusted clients ([router]). Clients must not set
/// them: the router would retry on one backend, or retry a good answer.
///
/// [router]: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
pub(super) const RETRY_INSTRUCTIONS: [&str; 6] = [
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
];

/// Edits of a request's headers. Most requests need at most six.
pub type RequestEdits<'a> = Edits<'a, 6>;

/// A header that authenticates a request to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    /// `authorization` or `api-key`.
    pub name: &'a str,
    /// The value of the header.
    pub value: &'a str,
}

impl Credential<'_> {
    /// The credential in the header that this surface expects. For Claude, a key is sent as `x-api-key`.
    ///
    /// Source: `lib/foundry.py` of the anthropic Python SDK sends `x-api-key`, and `api-key` for older endpoints.
    #[must_use]
    pub fn on(self, surface: Option<Surface>) -> Self {
        match (surface, self.name) {
            (Some(Surface::Anthropic), "api-key") => Self {
                name: "x-api-key",
                ..self
            },
            _ => self,
        }
    }
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
    /// The header that authenticates the request.
    pub credential: Credential<'a>,
    /// The router's time limit in milliseconds, as text.
    pub timeout_ms: &'a str,
    /// The growth of the body in bytes.
    pub growth: isize,
    /// Whether the filter reads the answer, so that it must not be encoded.
    pub reads_answer: bool,
}

impl<'a> Attempt<'a> {
    /// The path of this attempt, if it differs from `client_path`. Fetches `client_path` only if needed.
    pub fn path(&self, client_path: impl FnOnce() -> &'a str) -> Option<Cow<'a, str>> {
        let request = self.request;
        if request.clean_path.is_none() && !self.backend.renames() {
            return None;
        }
        let client_path = client_path();
        let path = path::on_backend(
            request.path(client_path),
            request.surface,
            &request.operation.deployment,
            self.backend,
        );
        (path != client_path).then_some(path)
    }

    /// The header that authenticates the request on its surface.
    fn credential(&self) -> Credential<'a> {
        self.credential.on(self.request.surface)
    }

    /// The edits that turn the client's request into this attempt, for Envoy's router.
    pub fn edits(
        &self,
        config: &'a Config,
        client_path: impl FnOnce() -> &'a str,
    ) -> RequestEdits<'a> {
        let mut edits = RequestEdits::default();
        for name in self.request.credential_headers() {
            // The credential below replaces this header.
            if name != self.credential().name {
                edits.remove(name);
            }
        }
        if let Some(client) = &config.headers.client {
            edits.remove(client);
        }
        match self.request.clean_protocols.as_deref() {
            None => {}
            Some("") => edits.remove("sec-websocket-protocol"),
            Some(kept) => edits.set("sec-websocket-protocol", kept),
        }
        if let Some(path) = self.path(client_path) {
            edits.set(":path", path);
        }
        let length = self.request.content_length.filter(|_| self.growth != 0);
        if let Some(length) = length {
            let length = grown(length, self.growth).to_string();
            edits.set("content-length", length);
        }
        if self.reads_answer {
            edits.remove("accept-encoding");
        } else if let Some(accepted) = &self.request.accepted {
            edits.set("accept-encoding", accepted);
        }
        if !config.left_to_envoy.host {
            edits.set(":authority", &self.backend.host);
        }
        let Credential { name, value } = self.credential();
        edits.set(name, value);
        if self.request.instructs_router {
            RETRY_INSTRUCTIONS
                .iter()
                .for_each(|name| edits.remove(name));
        }
        // The router's limit applies until the headers. An answer that has begun may take any time.
        if !config.left_to_envoy.timeout {
            let name = "x-envoy-upstream-rq-per-try-timeout-ms";
            edits.set(name, self.timeout_ms);
        }
        // The cluster's header comes last, because setting it makes Envoy choose the route. The router engine's route
        // does not use it.
        if config.retry.engine == Engine::Filter {
            edits.set(&config.headers.cluster, &self.backend.cluster);
        }
        edits
    }

    /// The headers of this attempt as a separate request, derived from the `original` ones. `path` is the attempt's
    /// [`path`](Self::path), if it differs.
    pub fn headers<'h>(
        &'h self,
        names: &'h HeaderNames,
        path: Option<&'h str>,
        original: impl Iterator<Item = (&'h str, &'h str)>,
    ) -> Vec<(&'h str, &'h str)> {
        let dropped = |name: &str| {
            NOT_REISSUED.contains(&name)
                // The usual names come first.
                || matches!(name, "authorization" | "api-key")
                || is_credential_header(name.as_bytes())
                || name == names.cluster
                || Some(name) == names.client.as_deref()
                || self.reads_answer && name == "accept-encoding"
                // These headers instruct Envoy's router. A callout has its own.
                || name.starts_with("x-envoy-")
        };
        let accepted = self.request.accepted.as_deref();
        let kept = original.filter(move |(name, _)| !dropped(name));
        kept.map(|(name, value)| match name {
            ":authority" => (name, self.backend.host.as_str()),
            ":path" => (name, path.unwrap_or(value)),
            "accept-encoding" => (name, accepted.unwrap_or(value)),
            _ => (name, value),
        })
        .chain([(self.credential().name, self.credential().value)])
        .collect()
    }
}

/// `length` changed by `growth` bytes.
pub fn grown(length: u64, growth: isize) -> u64 {
    length.saturating_add_signed(i64::try_from(growth).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plugin;
    use crate::state::ids::Tags;

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

    const TOKEN: Credential<'static> = Credential {
        name: "authorization",
        value: "Bearer TOKEN",
    };

    fn config(engine: &str) -> Config {
        let json = format!(
            r#"{{"backends": [{{"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"}}],
                "identity": {{"cluster": "imds"}}, "retry": {{"engine": "{engine}", "per_try_timeout": "30s"}}}}"#
        );
        match Plugin::from_bytes(json.as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn request() -> Request {
        let headers = ORIGINAL.iter();
        Request::of(
            headers.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
            &Tags::default(),
        )
    }

    fn attempt<'a>(request: &'a Request, config: &'a Config) -> Attempt<'a> {
        Attempt {
            request,
            backend: &config.backends[0],
            credential: TOKEN,
            timeout_ms: "30000",
            growth: 0,
            reads_answer: false,
        }
    }

    const CLIENT_PATH: &str = ORIGINAL[2].1;

    #[test]
    fn the_clients_path_is_not_fetched_without_need() {
        let mut config = config("filter");
        let plain = Request::of(
            [(&b":path"[..], &b"/openai/deployments/gpt/x"[..])].into_iter(),
            &Tags::default(),
        );
        fn path<'p>(
            request: &'p Request,
            config: &'p Config,
            client_path: impl FnOnce() -> &'p str,
        ) -> Option<String> {
            let attempt = attempt(request, config);
            attempt.path(client_path).map(Cow::into_owned)
        }
        assert_eq!(
            path(&plain, &config, || panic!("the path is not needed")),
            None
        );
        let cleaned = path(&request(), &config, || CLIENT_PATH);
        assert_eq!(cleaned.as_deref(), Some("/openai/x?api-version=1"));
        config.backends[0].deployments.add("gpt", "own");
        let renamed = path(&plain, &config, || "/openai/deployments/gpt/x");
        assert_eq!(renamed.as_deref(), Some("/openai/deployments/own/x"));
        config.backends[0].deployments = Default::default();
        config.backends[0].api_version = Some("2024-10-21".to_owned());
        let versioned = path(&request(), &config, || CLIENT_PATH);
        assert_eq!(
            versioned.as_deref(),
            Some("/openai/x?api-version=2024-10-21")
        );
    }

    fn edits(config: &Config, request: &Request) -> Vec<String> {
        let attempt = attempt(request, config);
        let edits = attempt.edits(config, || CLIENT_PATH);
        edits.iter().map(|edit| format!("{edit:?}")).collect()
    }

    const COMMON: [&str; 5] = [
        r#"Remove("api-key")"#,
        r#"Set(":path", "/openai/x?api-version=1")"#,
        r#"Set(":authority", "east.openai.azure.com")"#,
        r#"Set("authorization", "Bearer TOKEN")"#,
        r#"Set("x-envoy-upstream-rq-per-try-timeout-ms", "30000")"#,
    ];

    #[test]
    fn the_filter_engine_edits_the_request_and_names_the_cluster() {
        let edits = edits(&config("filter"), &request());
        assert_eq!(edits[..5], COMMON);
        assert_eq!(edits[5..], [r#"Set("x-aoai-cluster", "aoai_east")"#]);
    }

    #[test]
    fn retry_headers_of_clients_are_removed() {
        for (engine, name) in ["filter", "router"]
            .into_iter()
            .flat_map(|engine| RETRY_INSTRUCTIONS.map(|name| (engine, name)))
        {
            let headers = [(name.as_bytes(), &b"1"[..])];
            let request = Request::of(headers.into_iter(), &Tags::default());
            let edits = edits(&config(engine), &request);
            let removed = format!("Remove({name:?})");
            assert!(edits.contains(&removed), "{engine}: {edits:?}");
        }
    }

    #[test]
    fn the_router_engine_sets_no_cluster_header() {
        assert_eq!(edits(&config("router"), &request()), COMMON);
    }

    #[test]
    fn unreadable_encodings_are_not_requested() {
        for (accepted, sent) in [
            ("gzip, deflate", "gzip, deflate"),
            ("br, gzip, deflate", "gzip, deflate"),
            ("zstd", "identity"),
        ] {
            let original = [("accept-encoding", accepted)];
            let headers = original.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let request = Request::of(headers.into_iter(), &Tags::default());
            for engine in ["filter", "router"] {
                let edits = edits(&config(engine), &request);
                let edit = format!("Set(\"accept-encoding\", {sent:?})");
                assert_eq!(edits.contains(&edit), sent != accepted, "{edits:?}");
            }
            let config = config("filter");
            let again = attempt(&request, &config);
            let headers = again.headers(&config.headers, None, original.into_iter());
            assert_eq!(headers[0], ("accept-encoding", sent));
            let reading = Attempt {
                reads_answer: true,
                ..again
            };
            let edits = reading.edits(&config, || CLIENT_PATH);
            let edits: Vec<_> = edits.iter().map(|edit| format!("{edit:?}")).collect();
            let removed = edits.iter().filter(|edit| edit.contains("accept-encoding"));
            assert_eq!(
                removed.collect::<Vec<_>>(),
                [r#"Remove("accept-encoding")"#]
            );
        }
    }

    #[test]
    fn a_key_replaces_every_credential() {
        let (request, config) = (request(), config("filter"));
        let attempt = Attempt {
            credential: Credential {
                name: "api-key",
                value: "KEY",
            },
            ..attempt(&request, &config)
        };
        let edits = attempt.edits(&config, || CLIENT_PATH);
        let edits: Vec<_> = edits.iter().map(|edit| format!("{edit:?}")).collect();
        assert_eq!(edits[0], r#"Remove("authorization")"#);
        assert!(edits.contains(&r#"Set("api-key", "KEY")"#.to_owned()));
        assert!(!edits
            .iter()
            .any(|edit| edit.contains("Set(\"authorization")));
        let headers = attempt.headers(&config.headers, None, ORIGINAL.into_iter());
        let mut credentials = headers
            .iter()
            .filter(|(name, _)| is_credential_header(name.as_bytes()));
        assert_eq!(credentials.next(), Some(&("api-key", "KEY")));
        assert_eq!(credentials.next(), None);
    }

    #[test]
    fn a_reissued_attempt_has_none_of_the_clients_credentials() {
        let (request, config) = (request(), config("filter"));
        let attempt = attempt(&request, &config);
        let path = attempt.path(|| CLIENT_PATH);
        assert_eq!(
            attempt.headers(&config.headers, path.as_deref(), ORIGINAL.into_iter()),
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
