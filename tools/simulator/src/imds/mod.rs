//! The identity endpoint of a virtual machine. Its App Service form and Entra ID's token endpoint are on the same port.

mod behaviour;
mod entra;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{json, Map, Value};
use tokio::time::sleep;

pub use self::behaviour::{Expires, ImdsAnswer, ImdsBehaviour};
pub use self::entra::Assertion;
use crate::audit::{Log, RecordedRequest};
use crate::azure::query;
use crate::body::Body;
use crate::script::Script;
use crate::server::{Break, Connection, Listener, Service};
use crate::settings::ImdsSettings;
use crate::tokens::{Issued, Terms, TokenCheck, Tokens};

/// The simulated identity endpoint.
#[derive(Clone)]
pub struct ImdsHandle {
    pub(crate) imds: Arc<Imds>,
    pub(crate) listener: Arc<Listener<Imds>>,
}

impl ImdsHandle {
    /// The port of the identity endpoint.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The address of the identity endpoint.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Replaces all behaviours by this one.
    pub fn set(&self, behaviour: ImdsBehaviour) {
        self.imds.script.set(behaviour);
    }

    /// Puts behaviours before the standing one, in place of an earlier queue. Each is used once, or as often as its
    /// `remaining` says.
    pub fn queue(&self, behaviours: Vec<ImdsBehaviour>) {
        self.imds.script.queue(behaviours);
    }

    /// Restores the default: answers of the real service.
    pub fn clear(&self) {
        self.imds.script.clear();
    }

    /// The received requests, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.imds.log.requests()
    }

    /// The number of received requests.
    pub fn count(&self) -> u64 {
        self.imds.log.count()
    }

    /// Forgets the received requests.
    pub fn clear_requests(&self) {
        self.imds.log.clear();
    }

    /// The number of TCP connections since the start.
    pub fn connections(&self) -> u64 {
        self.listener.accepted()
    }

    /// Sets the lifetime of new tokens, and replaces the current token.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        *self
            .imds
            .lifetime
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = lifetime;
        self.issue_fresh();
    }

    /// Makes the next answer a new token. The old tokens stay valid.
    pub fn issue_fresh(&self) {
        self.imds.tokens.issue_fresh();
    }

    /// Makes the backends refuse every token issued so far with 401. The next answer is a new token.
    pub fn revoke_all(&self) {
        self.imds.tokens.revoke_all();
    }

    /// Every issued token, oldest first.
    pub fn tokens(&self) -> Vec<String> {
        self.imds.tokens.all()
    }

    /// A token of Kubernetes that Entra ID accepts for `seconds` more; if negative, an expired one.
    pub fn assertion(&self, seconds: i64) -> Assertion {
        Assertion::accepted(&self.imds.settings.entra, seconds)
    }

    /// Closes the port and its connections: from now on connections are refused.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// When another process has taken the port meanwhile.
    pub fn restart(&self) -> io::Result<()> {
        self.listener.restart()
    }
}

/// The part of the identity endpoint that answers requests.
pub(crate) struct Imds {
    settings: ImdsSettings,
    lifetime: Mutex<Duration>,
    tokens: Arc<Tokens>,
    script: Script<ImdsBehaviour>,
    log: Arc<Log>,
}

impl Imds {
    pub(crate) fn new(settings: ImdsSettings, tokens: Arc<Tokens>, log: Arc<Log>) -> Self {
        Self {
            lifetime: Mutex::new(settings.token_lifetime),
            settings,
            tokens,
            script: Script::default(),
            log,
        }
    }
}

impl Service for Imds {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        let mut entry = self
            .log
            .open(&head, &connection, &TokenCheck::NotChecked.into());
        let mut complete = true;
        let mut form = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let piece = frame.data_ref().map_or(&[][..], |data| data);
                    form.extend_from_slice(piece);
                    entry.body(piece);
                }
                Err(_) => complete = false,
            }
        }
        entry.body_ended(complete);
        let behaviour = self.script.next(head.uri.path());
        if let Some(delay) = behaviour.delay_ms {
            sleep(Duration::from_millis(delay)).await;
        }
        let response = match behaviour.answer {
            ImdsAnswer::Normal {
                expires,
                as_numbers,
            } => match head.uri.path().strip_suffix(entra::PATH) {
                Some(tenant) => self.exchange(&head, tenant, &form),
                None => self.token(&head, expires, as_numbers, true),
            },
            ImdsAnswer::MissingToken => self.token(&head, Expires::Usual, false, false),
            ImdsAnswer::Aadsts { status, code } => entra::refusal((status, "simulated", code)),
            ImdsAnswer::Error {
                status,
                error,
                description,
                retry_after,
            } => {
                let mut response = refusal(status, &error, &description);
                if let Some(value) = retry_after.and_then(|value| HeaderValue::try_from(value).ok())
                {
                    response.headers_mut().insert("retry-after", value);
                }
                response
            }
            ImdsAnswer::Garbage { body } => json_response(200, body),
            ImdsAnswer::Hang => std::future::pending().await,
            ImdsAnswer::Reset => match connection.cut(Break::Reset).await {},
        };
        entry.status(response.status().as_u16());
        response
    }
}

/// The two forms of the endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    VirtualMachine,
    AppService,
}

impl Form {
    fn version(self) -> &'static str {
        match self {
            Self::VirtualMachine => "2018-02-01",
            Self::AppService => "2019-08-01",
        }
    }

    fn selectors(self) -> [&'static str; 3] {
        match self {
            Self::VirtualMachine => ["client_id", "object_id", "msi_res_id"],
            Self::AppService => ["client_id", "principal_id", "mi_res_id"],
        }
    }
}

/// A status, `error` and `error_description`.
type Refusal = (u16, &'static str, String);

impl Imds {
    /// An answer of Entra ID's token endpoint. Unlike the machine's endpoint, it issues a new token each time.
    fn exchange(&self, head: &Parts, tenant: &str, form: &[u8]) -> Response<Body> {
        if head.method != Method::POST {
            return entra::refusal((400, "invalid_request", 900_561));
        }
        let tenant = tenant.trim_start_matches('/');
        let form = String::from_utf8_lossy(form);
        match entra::check(&self.settings.entra, tenant, &form) {
            Ok((client_id, audience)) => {
                let terms = Terms {
                    lifetime: self.lifetime(),
                    cache: false,
                    renew_below: None,
                };
                let issued = self.tokens.issue(&audience, &client_id, &terms);
                let body = json!({
                    "token_type": "Bearer",
                    "expires_in": issued.expires_in(),
                    "ext_expires_in": issued.expires_in(),
                    "access_token": issued.token,
                });
                json_response(200, body.to_string())
            }
            Err(refusal) => entra::refusal(refusal),
        }
    }

    fn lifetime(&self) -> Duration {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(
        &self,
        head: &Parts,
        expires: Expires,
        as_numbers: bool,
        with_token: bool,
    ) -> Response<Body> {
        let form = match head.uri.path() {
            "/metadata/identity/oauth2/token" => Form::VirtualMachine,
            "/msi/token" => Form::AppService,
            _ => return refusal(404, "not_found", "There is nothing at this path."),
        };
        match self.grant(head, form) {
            Ok((issued, resource)) => {
                let mut fields = answer(&issued, &resource, form, expires, as_numbers);
                if !with_token {
                    fields.remove("access_token");
                }
                json_response(200, Value::Object(fields).to_string())
            }
            Err((status, error, description)) => refusal(status, error, &description),
        }
    }

    fn grant(&self, head: &Parts, form: Form) -> Result<(Issued, String), Refusal> {
        let bad = |description: &str| (400, "invalid_request", description.to_owned());
        if head.method != Method::GET {
            return Err(bad("Only GET is allowed."));
        }
        let header = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
        match form {
            Form::VirtualMachine
                if header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case(b"true")) =>
            {
                return Err(bad("Required metadata header not specified"));
            }
            Form::VirtualMachine if header("x-forwarded-for").is_some() => {
                return Err(bad("Requests with X-Forwarded-For are refused."));
            }
            Form::AppService
                if header("x-identity-header")
                    != Some(self.settings.identity_header.as_bytes()) =>
            {
                return Err((
                    401,
                    "unauthorized",
                    "X-IDENTITY-HEADER is missing or wrong.".to_owned(),
                ));
            }
            _ => {}
        }
        match query(&head.uri, "api-version") {
            Some(version) if version == form.version() => {}
            Some(version) => {
                let supported = form.version();
                return Err(bad(&format!(
                    "api-version '{version}' is not supported, use {supported}"
                )));
            }
            None => return Err(bad("Required query variable 'api-version' is missing")),
        }
        let Some(resource) = query(&head.uri, "resource").filter(|resource| !resource.is_empty())
        else {
            return Err(bad("Required query variable 'resource' is missing"));
        };
        let chosen = form.selectors().map(|selector| query(&head.uri, selector));
        let mut chosen = chosen.into_iter().flatten();
        let identity = chosen.next().unwrap_or_default();
        if chosen.next().is_some() {
            return Err(bad("Give at most one of the identity's ids."));
        }
        match &self.settings.identities {
            Some(known) if identity.is_empty() && known.len() > 1 => {
                return Err(bad("Multiple user assigned identities exist, please specify the clientId / resourceId of \
                    the identity in the token request"));
            }
            Some(known) if !identity.is_empty() && !known.contains(&identity) => {
                return Err(bad("Identity not found"))
            }
            _ => {}
        }
        let terms = Terms {
            lifetime: self.lifetime(),
            cache: self.settings.cache,
            renew_below: self.settings.renew_below,
        };
        Ok((self.tokens.issue(&resource, &identity, &terms), resource))
    }
}

fn answer(
    issued: &Issued,
    resource: &str,
    form: Form,
    expires: Expires,
    as_numbers: bool,
) -> Map<String, Value> {
    let time = |seconds: u64| {
        if as_numbers {
            json!(seconds)
        } else {
            json!(seconds.to_string())
        }
    };
    let app_service = form == Form::AppService;
    let (on, within) = match expires {
        Expires::Usual => (true, !app_service),
        Expires::ExpiresOn => (true, false),
        Expires::ExpiresIn => (false, true),
        Expires::Both => (true, true),
    };
    let mut fields = Map::new();
    let mut field = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    field("access_token", json!(issued.token));
    field("client_id", json!(issued.client_id));
    if !app_service {
        field("refresh_token", json!(""));
    }
    if within {
        field("expires_in", time(issued.expires_in()));
    }
    if on {
        field("expires_on", time(issued.expires_on));
    }
    field("not_before", time(issued.not_before));
    field("resource", json!(resource));
    field("token_type", json!("Bearer"));
    fields
}

fn refusal(status: u16, error: &str, description: &str) -> Response<Body> {
    json_response(
        status,
        json!({ "error": error, "error_description": description }).to_string(),
    )
}

fn json_response(status: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}
