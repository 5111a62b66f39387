//! Realtime calls, live sessions, and the keys of sessions.

use bytes::Bytes;
use serde_json::{json, Value};

use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

static CALL: Kind = Kind::new("realtime.call", "rtc_", "call");
static SESSION: Kind = Kind::new("live.session", "sess_", "session");

static KEY: Kind = Kind::new("realtime.client_secret", "ek_", "client secret");

impl Resource {
    /// Whether this resource has made a key for a session.
    pub(crate) fn has_session_key(&self, key: &str) -> bool {
        self.is_here(&KEY, key).is_ok()
    }

    pub(super) fn realtime(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", ["calls"]) => {
                let made = self.make(&CALL, None, json!({}), Bytes::new());
                let id = made["id"].as_str().unwrap_or_default();
                let location = format!("/openai/v1/realtime/calls/{id}");
                let answer = format!("v=0\r\no={}\r\n", self.name);
                Ok(Reply::Made(location, "application/sdp", answer.into()))
            }
            ("POST", ["calls", id, "accept" | "refer"]) => {
                self.has_call(id)?;
                Ok(Reply::Whole("text/plain", Bytes::new()))
            }
            ("POST", ["calls", id, "hangup" | "reject"]) => {
                self.delete(&CALL, id)?;
                Ok(Reply::Whole("text/plain", Bytes::new()))
            }
            ("POST", ["client_secrets"]) => {
                let made = self.make(&KEY, None, json!({}), Bytes::new());
                Ok(Reply::json(&json!({
                    "value": made["id"],
                    "expires_at": now() + 60,
                    "session": { "id": self.id("sess_"), "object": "realtime.session" },
                })))
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    pub(super) fn live_sessions(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        self.collection(call, &SESSION, None, rest, Value::Null)
    }

    /// Refuses an unknown call.
    pub(super) fn has_call(&self, id: &str) -> Result<(), Failure> {
        self.is_here(&CALL, id)
    }
}
