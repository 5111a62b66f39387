//! Paths under `/sim/`, which no real resource has: they echo requests, or send many bytes.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::hex;
use crate::azure::{errors, query, Reply};

/// The answer to `/sim/echo` and `/sim/bytes?n=N`.
pub(crate) fn reply(backend: &str, head: &Parts, body: &Bytes) -> Reply {
    match head.uri.path() {
        "/sim/echo" => {
            let headers: Vec<_> = head
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
                .collect();
            Reply::json(&json!({
                "backend": backend,
                "method": head.method.as_str(),
                "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
                "http_version": format!("{:?}", head.version),
                "authority": head.uri.authority().map(ToString::to_string),
                "headers": headers,
                "body": String::from_utf8_lossy(body),
                "body_base64": STANDARD.encode(body),
                "body_len": body.len(),
                "body_sha256": hex(&Sha256::digest(body)),
            }))
        }
        "/sim/bytes" => match query(&head.uri, "n").and_then(|n| n.parse().ok()) {
            Some(length) => Reply::Filler(length),
            None => Reply::Error(errors::bad_request(
                "n: give a number of bytes, as in /sim/bytes?n=1024",
            )),
        },
        _ => Reply::Error(errors::resource_not_found()),
    }
}
