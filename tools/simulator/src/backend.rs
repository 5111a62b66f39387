//! A simulated Azure OpenAI resource: its handle, and its answers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, Uri, Version};

use crate::account::{Account, SharedAccounts};
use crate::audit::{Log, RecordedRequest};
use crate::azure::Resource;
use crate::behaviour::Behaviour;
use crate::body::{Body, OpenAnswer};
use crate::certificates::TlsPort;
use crate::exchange::Exchange;
use crate::script::Script;
use crate::server::{Connection, Listener, Service};
use crate::settings::Auth;
use crate::tokens::{Credential, TokenCheck, Tokens};

/// A simulated Azure OpenAI resource.
#[derive(Clone)]
pub struct BackendHandle {
    pub(crate) backend: Arc<Backend>,
    pub(crate) listener: Arc<Listener<Backend>>,
    pub(crate) tls_port: Option<Arc<TlsPort>>,
    pub(crate) host: String,
}

impl BackendHandle {
    /// The backend's name.
    pub fn name(&self) -> &str {
        &self.backend.name
    }

    /// The host name in the backend's certificate.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the backend speaks TLS.
    pub fn tls(&self) -> bool {
        self.tls_port.is_some()
    }

    /// The port of the backend.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The address of the backend.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Replaces all behaviours by this one.
    pub fn set(&self, behaviour: Behaviour) {
        self.backend.script.set(behaviour);
    }

    /// Puts behaviours before the standing one, in place of an earlier queue. Each is used once, or as often as its
    /// `remaining` says.
    pub fn queue(&self, behaviours: Vec<Behaviour>) {
        self.backend.script.queue(behaviours);
    }

    /// Restores the default: answers as Azure gives them.
    pub fn clear(&self) {
        self.backend.script.clear();
    }

    /// The received requests, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.backend.log.requests()
    }

    /// The number of received requests.
    pub fn count(&self) -> u64 {
        self.backend.log.count()
    }

    /// Begins to count the tokens in answers.
    pub fn open_accounts(&self) {
        self.backend.accounts.open();
    }

    /// The tokens reported since the accounts were opened, by account. Each answer counts as if its client gets all of
    /// it. A request names its account in the header `x-sim-account`.
    pub fn accounts(&self) -> BTreeMap<String, Account> {
        self.backend.accounts.sums()
    }

    /// The tokens of all accounts together.
    pub fn account(&self) -> Account {
        let mut all = Account::default();
        self.accounts().into_values().for_each(|one| all += one);
        all
    }

    /// Forgets the received requests.
    pub fn clear_requests(&self) {
        self.backend.log.clear();
    }

    /// The number of TCP connections since the start.
    pub fn connections(&self) -> u64 {
        self.listener.accepted()
    }

    /// The number of answers in progress, from the request's headers to the answer's last byte.
    pub fn open_streams(&self) -> usize {
        self.backend.open.load(Ordering::SeqCst)
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

    /// Serves new TLS connections with a certificate for `host`, by the same authority.
    ///
    /// # Errors
    /// When the backend has no TLS, or `host` is not valid in a certificate.
    pub fn set_certificate_for(&self, host: &str) -> io::Result<()> {
        self.tls_port()?.present(host)
    }

    /// Closes new TLS connections during the handshake, or serves them again.
    ///
    /// # Errors
    /// When the backend has no TLS.
    pub fn set_tls_failure(&self, failing: bool) -> io::Result<()> {
        let port = self.tls_port()?;
        if failing {
            port.fail();
            return Ok(());
        }
        port.present(&self.host)
    }

    fn tls_port(&self) -> io::Result<&TlsPort> {
        let missing = || io::Error::other(format!("backend {}: it has no TLS", self.name()));
        self.tls_port.as_deref().ok_or_else(missing)
    }
}

/// The part of a backend that answers requests.
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) resource: Resource,
    pub(crate) api_key: Option<String>,
    pub(crate) base_path: String,
    pub(crate) identities: Option<Vec<String>>,
    pub(crate) auth: Auth,
    pub(crate) audience: String,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) script: Script<Behaviour>,
    pub(crate) log: Arc<Log>,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) answers: AtomicU64,
    pub(crate) accounts: SharedAccounts,
}

impl Service for Backend {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<Body> {
        let open = OpenAnswer::new(&self.open);
        let (mut head, body) = request.into_parts();
        let asked = head.uri.clone();
        let below = self.below_base(&asked);
        let credential = self.check(&head, below.path());
        let entry = self.log.open(&head, &connection, &credential);
        let path = asked.path_and_query().map_or("/", |path| path.as_str());
        let behaviour = self.script.next(path);
        head.uri = below;
        let exchange = Exchange {
            backend: &self,
            connection,
            http2: head.version == Version::HTTP_2,
        };
        exchange
            .answer(head, body, entry, behaviour, &credential)
            .await
            .map(|body| body.counted(open))
    }
}

impl Backend {
    /// The URI without the base path. Without that base path, the URI of an unknown path.
    fn below_base(&self, uri: &Uri) -> Uri {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let below = match path.strip_prefix(self.base_path.as_str()) {
            // The simulator's own paths do not belong to the resource.
            None if path.starts_with("/sim/") => path,
            // Paths of Claude belong to the host, not to a project.
            None if path.starts_with("/anthropic/") => path,
            below => below.unwrap_or("/"),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = below.parse().ok();
        Uri::from_parts(parts).unwrap_or_default()
    }

    fn check(&self, head: &Parts, path: &str) -> Credential {
        let key = match path.get(.."/anthropic/".len()) {
            Some("/anthropic/") => "x-api-key",
            _ if path.starts_with("/openai/") => "api-key",
            _ => return TokenCheck::NotChecked.into(),
        };
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let known = |key: &str| self.api_key.as_deref() == Some(key);
        match (text("authorization"), text(key)) {
            (Some(authorization), _) => {
                let (scheme, token) = authorization.split_once(' ').unwrap_or_default();
                if !scheme.eq_ignore_ascii_case("bearer") {
                    TokenCheck::Unknown.into()
                } else if token.starts_with("ek_") {
                    match self.resource.has_session_key(token) && path.contains("/realtime") {
                        true => TokenCheck::Key.into(),
                        false => TokenCheck::WrongKey.into(),
                    }
                } else if known(token) {
                    TokenCheck::Key.into()
                } else {
                    self.with_role(self.tokens.check(token, &self.audience))
                }
            }
            (None, Some(key)) if known(key) => TokenCheck::Key.into(),
            (None, Some(_)) => TokenCheck::WrongKey.into(),
            (None, None) => TokenCheck::Missing.into(),
        }
    }

    /// A valid token is accepted only with a role on this resource.
    fn with_role(&self, mut credential: Credential) -> Credential {
        let may = |identity| {
            let allowed = self.identities.as_ref();
            allowed.is_none_or(|allowed| allowed.contains(identity))
        };
        if credential.check == TokenCheck::Valid && !credential.identity.as_ref().is_some_and(may) {
            credential.check = TokenCheck::NoRole;
        }
        credential
    }

    /// Adds the headers that Azure puts on every answer.
    pub(crate) fn sign(&self, headers: &mut HeaderMap) {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let id = HeaderValue::from_str(&format!(
            "{:08x}-0000-4000-8000-{number:012x}",
            std::process::id()
        ));
        let name = HeaderValue::from_str(&self.name);
        if let (Ok(id), Ok(name)) = (id, name) {
            headers.insert("x-ms-region", name.clone());
            headers.insert("x-sim-backend", name);
            headers.insert("apim-request-id", id.clone());
            headers.insert("x-request-id", id);
        }
        headers.insert(
            "azureml-model-session",
            HeaderValue::from_static("d0-simulated"),
        );
    }
}
