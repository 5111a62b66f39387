//! Files: uploaded to one resource and found there only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde_json::{json, Value};

use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

/// The files of one resource by id: what is told about them, and the upload as it came.
#[derive(Default)]
pub(super) struct Files(Mutex<BTreeMap<String, (Value, Bytes)>>);

impl Resource {
    pub(super) fn files(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        let mut files = self.files.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |id: &str| errors::object_not_found("file", id);
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let id = self.id("file-");
                let file = json!({
                    "id": id,
                    "object": "file",
                    "bytes": call.body.len(),
                    "created_at": now(),
                    "filename": file_name(&call.body),
                    "purpose": "batch",
                    "status": "processed",
                });
                let reply = Reply::json(&file);
                files.insert(id, (file, call.body.clone()));
                Ok(reply)
            }
            ("GET", []) => {
                let data: Vec<_> = files.values().map(|(file, _)| file).collect();
                Ok(Reply::json(
                    &json!({ "object": "list", "data": data, "has_more": false }),
                ))
            }
            ("GET", [id]) => {
                let (file, _) = files.get(*id).ok_or_else(|| missing(id))?;
                Ok(Reply::json(file))
            }
            ("GET", [id, "content"]) => {
                let (_, upload) = files.get(*id).ok_or_else(|| missing(id))?;
                Ok(Reply::Whole("application/octet-stream", upload.clone()))
            }
            ("DELETE", [id]) => {
                files.remove(*id).ok_or_else(|| missing(id))?;
                Ok(Reply::json(
                    &json!({ "id": id, "object": "file", "deleted": true }),
                ))
            }
            _ => Err(errors::resource_not_found()),
        }
    }
}

/// The name in the first part that has one.
fn file_name(upload: &[u8]) -> String {
    let head = String::from_utf8_lossy(&upload[..upload.len().min(2048)]);
    let name = head
        .split_once("filename=\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    name.map_or("upload", |(name, _)| name).to_owned()
}
