//! The admin endpoint: the functions of the library's handles, over HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::{Request, Response, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::{json, Value};

use crate::azure::query;
use crate::backend::BackendHandle;
use crate::behaviour::Behaviour;
use crate::body::Body;
use crate::imds::ImdsBehaviour;
use crate::server::{Connection, Service};
use crate::simulator::Services;

/// The paths that `/admin/` lists.
const PATHS: &[&str] = &[
    "GET /admin/health",
    "GET /admin/requests[?service=NAME]",
    "DELETE /admin/requests[?service=NAME]",
    "GET /admin/backends",
    "PUT /admin/backends/NAME/behaviour (a behaviour, or a list of them: a queue)",
    "DELETE /admin/backends/NAME/behaviour",
    "PUT /admin/backends/NAME/tls {\"certificate_for\": HOST} or {\"failing\": true|false}",
    "POST /admin/backends/NAME/stop",
    "POST /admin/backends/NAME/restart",
    "GET /admin/imds",
    "PUT /admin/imds/behaviour (a behaviour, or a list of them: a queue)",
    "DELETE /admin/imds/behaviour",
    "PUT /admin/imds/token-lifetime {\"seconds\": N}",
    "POST /admin/imds/fresh",
    "POST /admin/imds/revoke",
    "POST /admin/imds/stop",
    "POST /admin/imds/restart",
    "POST /admin/reset",
];

pub(crate) struct Admin {
    services: Services,
}

impl Admin {
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }
}

impl Service for Admin {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        _connection: Arc<Connection>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return response(&Err(refused(format!("the body broke off: {error}")))),
        };
        // Closing and opening ports blocks, which must not delay the runtime.
        let handled = tokio::task::spawn_blocking(move || {
            self.handle(head.method.as_str(), &head.uri, &body)
        });
        let outcome = handled
            .await
            .unwrap_or_else(|error| Err((500, error.to_string())));
        response(&outcome)
    }
}

/// The answer, or a status and an error.
type Outcome = Result<Value, (u16, String)>;

fn refused(message: String) -> (u16, String) {
    (400, message)
}

fn response(outcome: &Outcome) -> Response<Body> {
    let (status, body) = match outcome {
        Ok(value) => (200, value.to_string()),
        Err((status, message)) => (*status, json!({ "error": message }).to_string()),
    };
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// One behaviour, or a list of them.
enum Script<B> {
    One(B),
    Queue(Vec<B>),
}

fn script<B: DeserializeOwned>(body: &Bytes) -> Result<Script<B>, (u16, String)> {
    // Distinguished by hand: serde's error about an untagged enum would hide the mistake.
    let list = body.trim_ascii_start().starts_with(b"[");
    Ok(if list {
        Script::Queue(parsed(body)?)
    } else {
        Script::One(parsed(body)?)
    })
}

fn parsed<T: DeserializeOwned>(body: &Bytes) -> Result<T, (u16, String)> {
    serde_json::from_slice(body)
        .map_err(|error| refused(format!("the body is not as expected: {error}")))
}

fn done() -> Outcome {
    Ok(json!({ "done": true }))
}

fn tried(result: io::Result<()>) -> Outcome {
    result.map_err(|error| (500, error.to_string()))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifetime {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsChange {
    certificate_for: Option<String>,
    failing: Option<bool>,
}

impl Admin {
    fn handle(&self, method: &str, uri: &Uri, body: &Bytes) -> Outcome {
        let path = uri.path().strip_prefix("/admin").unwrap_or("/nowhere");
        let segments: Vec<&str> = path
            .split('/')
            .skip(1)
            .filter(|segment| !segment.is_empty())
            .collect();
        match (method, segments.as_slice()) {
            ("GET", []) => Ok(json!({ "paths": PATHS })),
            ("GET", ["health"]) => Ok(json!({ "status": "ready" })),
            ("POST", ["reset"]) => self.reset(),
            ("GET", ["requests"]) => self.requests(query(uri, "service").as_deref()),
            ("DELETE", ["requests"]) => self.forget(query(uri, "service").as_deref()),
            ("GET", ["backends"]) => Ok(self.services.backends.iter().map(state).collect()),
            (_, ["backends", name, rest]) => self.backend(method, self.named(name)?, rest, body),
            ("GET", ["imds"]) => Ok(self.imds_state()),
            (_, ["imds", rest]) => self.imds(method, rest, body),
            _ => Err(nothing(method, uri.path())),
        }
    }

    fn named(&self, name: &str) -> Result<&BackendHandle, (u16, String)> {
        let missing = || {
            (
                404,
                format!("there is no backend {name}; GET /admin/backends lists them"),
            )
        };
        self.services.backend(name).ok_or_else(missing)
    }

    fn requests(&self, service: Option<&str>) -> Outcome {
        let requests = match service {
            None => self.services.requests(),
            Some("imds") => self.services.imds.requests(),
            Some(name) => self.named(name)?.requests(),
        };
        Ok(json!(requests))
    }

    fn forget(&self, service: Option<&str>) -> Outcome {
        if service.is_none_or(|name| name == "imds") {
            self.services.imds.clear_requests();
        }
        match service {
            None => self
                .services
                .backends
                .iter()
                .for_each(BackendHandle::clear_requests),
            Some("imds") => {}
            Some(name) => self.named(name)?.clear_requests(),
        }
        done()
    }

    fn reset(&self) -> Outcome {
        self.services.imds.clear();
        self.services.backends.iter().for_each(BackendHandle::clear);
        self.forget(None)
    }

    fn backend(&self, method: &str, backend: &BackendHandle, what: &str, body: &Bytes) -> Outcome {
        match (method, what) {
            ("PUT", "behaviour") => match script::<Behaviour>(body)? {
                Script::One(behaviour) => backend.set(behaviour),
                Script::Queue(behaviours) => backend.queue(behaviours),
            },
            ("DELETE", "behaviour") => backend.clear(),
            ("PUT", "tls") => {
                let change: TlsChange = parsed(body)?;
                if let Some(failing) = change.failing {
                    tried(backend.set_tls_failure(failing))?;
                }
                if let Some(host) = change.certificate_for {
                    tried(backend.set_certificate_for(&host))?;
                }
            }
            ("POST", "stop") => backend.stop(),
            ("POST", "restart") => return tried(backend.restart()),
            _ => return Err(nothing(method, what)),
        }
        done()
    }

    /// The tokens themselves are hidden: tests need their number only.
    fn imds_state(&self) -> Value {
        let imds = &self.services.imds;
        json!({
            "addr": imds.addr().to_string(),
            "requests": imds.count(),
            "connections": imds.connections(),
            "tokens": imds.tokens().len(),
        })
    }

    fn imds(&self, method: &str, what: &str, body: &Bytes) -> Outcome {
        let imds = &self.services.imds;
        match (method, what) {
            ("PUT", "behaviour") => match script::<ImdsBehaviour>(body)? {
                Script::One(behaviour) => imds.set(behaviour),
                Script::Queue(behaviours) => imds.queue(behaviours),
            },
            ("DELETE", "behaviour") => imds.clear(),
            ("PUT", "token-lifetime") => {
                imds.set_token_lifetime(Duration::from_secs(parsed::<Lifetime>(body)?.seconds));
            }
            ("POST", "fresh") => imds.issue_fresh(),
            ("POST", "revoke") => imds.revoke_all(),
            ("POST", "stop") => imds.stop(),
            ("POST", "restart") => return tried(imds.restart()),
            _ => return Err(nothing(method, what)),
        }
        done()
    }
}

fn nothing(method: &str, path: &str) -> (u16, String) {
    (
        404,
        format!("there is no {method} {path}; GET /admin/ lists what there is"),
    )
}

fn state(backend: &BackendHandle) -> Value {
    json!({
        "name": backend.name(),
        "host": backend.host(),
        "addr": backend.addr().to_string(),
        "requests": backend.count(),
        "connections": backend.connections(),
        "open_streams": backend.open_streams(),
    })
}
