//! The audit: the requests at each service, in the order of their arrival at the simulator.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use hyper::http::request::Parts;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::azure::Form;
use crate::server::Connection;
use crate::tokens::{Credential, TokenCheck};

/// The most bytes of one body that are kept.
const BODY_LIMIT: usize = 1024 * 1024;
/// The most bytes of all bodies of one service that are kept. The oldest bodies are dropped first.
const BODIES_LIMIT: usize = 256 * 1024 * 1024;

/// A request as a service received it.
#[derive(Clone, Debug, Serialize)]
pub struct RecordedRequest {
    /// The number of the request among all services' requests. It orders requests across backends.
    pub sequence: u64,
    /// The backend's name, or `imds`.
    pub service: String,
    /// The time of arrival, in milliseconds since the simulator's start, by a monotonic clock.
    pub received_at: f64,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub http_version: String,
    /// The `:authority` of HTTP/2, or the `host` header.
    pub authority: String,
    /// Names (in lower case) and values in the order of their arrival. Repeated names are adjacent.
    pub headers: Vec<(String, String)>,
    /// Whether the request came over TLS.
    pub tls: bool,
    /// The server name of the TLS handshake.
    pub sni: Option<String>,
    /// The number of the connection, unique over all services.
    pub connection: u64,
    /// Bytes of body received so far.
    pub body_len: u64,
    /// The SHA-256 of the body in hex; empty until it is complete, and when bodies are not audited.
    pub body_sha256: String,
    /// The first MiB of the body; JSON shows it as text.
    #[serde(serialize_with = "as_text")]
    pub body: Bytes,
    /// Whether the whole body arrived.
    pub body_complete: bool,
    /// The status of the answer; `None` without an answer.
    pub status: Option<u16>,
    /// The result of the credential's check.
    pub token: TokenCheck,
    /// The identity of the token, by the id in the request for it. An identity requested without an id has a default
    /// one.
    pub identity: Option<String>,
}

impl RecordedRequest {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }

    /// The body as JSON; `Null` when it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The deployment that the body names, in JSON or in a form.
    pub fn model(&self) -> Option<String> {
        let content_type = self.header("content-type").unwrap_or_default();
        match Form::read(content_type, self.body.clone()) {
            Ok(form) => form.text("model").map(ToOwned::to_owned),
            Err(_) => self.json()["model"].as_str().map(ToOwned::to_owned),
        }
    }
}

fn as_text<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(body))
}

/// Time and order, shared by all services.
pub(crate) struct Clock {
    start: Instant,
    sequence: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            sequence: AtomicU64::new(0),
        }
    }
}

/// The requests at one service.
pub(crate) struct Log {
    service: String,
    limit: usize,
    bodies: bool,
    clock: Arc<Clock>,
    count: AtomicU64,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// The index of the first entry, counted since the start.
    first: u64,
    list: VecDeque<RecordedRequest>,
    /// The bytes of all kept bodies.
    held: usize,
    /// The entries before this index have no body any more.
    emptied: u64,
}

impl Entries {
    fn entry(&mut self, index: u64) -> Option<&mut RecordedRequest> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.list.get_mut(at)
    }

    fn drop_old_bodies(&mut self) {
        while self.held > BODIES_LIMIT {
            let index = self.emptied.max(self.first);
            self.emptied = index + 1;
            let Some(entry) = self.entry(index) else {
                return;
            };
            let freed = std::mem::take(&mut entry.body).len();
            self.held -= freed;
        }
    }
}

impl Log {
    pub(crate) fn new(service: &str, limit: usize, bodies: bool, clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            service: service.to_owned(),
            limit,
            bodies,
            clock,
            count: AtomicU64::new(0),
            entries: Mutex::default(),
        })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of requests since the start or the last [`clear`](Self::clear).
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.entries().list.iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut entries = self.entries();
        entries.first += entries.list.len() as u64;
        entries.list.clear();
        entries.held = 0;
        self.count.store(0, Ordering::SeqCst);
    }

    /// Records a request whose headers have just arrived.
    pub(crate) fn open(
        self: &Arc<Self>,
        head: &Parts,
        connection: &Connection,
        credential: &Credential,
    ) -> Entry {
        self.count.fetch_add(1, Ordering::SeqCst);
        let index = (self.limit > 0).then(|| self.insert(head, connection, credential));
        Entry {
            log: Arc::clone(self),
            index,
            hasher: (index.is_some() && self.bodies).then(Sha256::new),
            kept: Vec::new(),
            len: 0,
            complete: false,
        }
    }

    fn insert(&self, head: &Parts, connection: &Connection, credential: &Credential) -> u64 {
        let headers: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.as_str().to_owned(), value.into_owned())
            })
            .collect();
        let authority = match head.uri.authority() {
            Some(authority) => authority.to_string(),
            None => head
                .headers
                .get("host")
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default(),
        };
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let mut record = RecordedRequest {
            sequence: 0,
            service: self.service.clone(),
            received_at: 0.0,
            method: head.method.to_string(),
            path: path.to_owned(),
            http_version: format!("{:?}", head.version),
            authority,
            headers,
            tls: connection.tls,
            sni: connection.sni.clone(),
            connection: connection.id,
            body_len: 0,
            body_sha256: String::new(),
            body: Bytes::new(),
            body_complete: false,
            status: None,
            token: credential.check,
            identity: credential.identity.clone(),
        };
        let mut entries = self.entries();
        record.sequence = self.clock.sequence.fetch_add(1, Ordering::SeqCst);
        record.received_at = self.clock.start.elapsed().as_secs_f64() * 1000.0;
        if entries.list.len() >= self.limit {
            if let Some(old) = entries.list.pop_front() {
                entries.held -= old.body.len();
                entries.first += 1;
            }
        }
        entries.list.push_back(record);
        entries.first + entries.list.len() as u64 - 1
    }
}

/// A request in progress. When dropped, it records its body.
pub(crate) struct Entry {
    log: Arc<Log>,
    index: Option<u64>,
    hasher: Option<Sha256>,
    kept: Vec<u8>,
    len: u64,
    complete: bool,
}

impl Entry {
    /// A piece of the body arrived.
    pub(crate) fn body(&mut self, piece: &[u8]) {
        self.len += piece.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
            let room = BODY_LIMIT.saturating_sub(self.kept.len()).min(piece.len());
            self.kept.extend_from_slice(&piece[..room]);
        }
    }

    /// Records the body, which has ended or broken off.
    pub(crate) fn body_ended(&mut self, complete: bool) {
        self.complete = complete;
        self.write_body();
    }

    /// Records the status of the answer.
    pub(crate) fn status(&self, status: u16) {
        let Some(index) = self.index else { return };
        if let Some(record) = self.log.entries().entry(index) {
            record.status = Some(status);
        }
    }

    fn write_body(&mut self) {
        let Some(index) = self.index.take() else {
            return;
        };
        let sha256 = match self.hasher.take() {
            Some(hasher) if self.complete => hex(&hasher.finalize()),
            _ => String::new(),
        };
        let body = Bytes::from(std::mem::take(&mut self.kept));
        let mut entries = self.log.entries();
        if let Some(record) = entries.entry(index) {
            record.body_len = self.len;
            record.body_sha256 = sha256;
            record.body_complete = self.complete;
            let held = body.len();
            record.body = body;
            entries.held += held;
            entries.drop_old_bodies();
        }
        drop(entries);
        self.index = Some(index);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.complete {
            self.write_body();
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
