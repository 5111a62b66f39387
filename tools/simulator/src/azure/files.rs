//! Files, whole or uploaded in parts.

use bytes::{Bytes, BytesMut};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use super::collection::listed;
use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::audit::hex;
use crate::behaviour::Failure;

pub(super) static FILE: Kind = Kind::new("file", "file-", "file")
    .without_deleted_suffix()
    .with_statuses("pending", "processed");
/// Azure gives files for assistants ids of their own.
static ASSISTANT_FILE: Kind = Kind {
    prefix: "assistant-",
    ..FILE
};
static UPLOAD: Kind = Kind::new("upload", "upload_", "upload").with_statuses("pending", "pending");
static PART: Kind = Kind::new("upload.part", "part_", "part");

impl Resource {
    pub(super) fn files(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let form = call.form()?;
                let file = form.file("file")?;
                let purpose = form
                    .text("purpose")
                    .ok_or_else(|| errors::bad_request("The form has no purpose."))?;
                let name = file.file_name.as_deref().unwrap_or_default();
                let made = self.keep_file(name, purpose, file.content.clone());
                Ok(Reply::json(&made))
            }
            ("GET", []) => {
                let mut files = self.objects.list(&FILE, None);
                files.extend(self.objects.list(&ASSISTANT_FILE, None));
                let purpose = call.query("purpose");
                files.retain(|file| {
                    purpose
                        .as_deref()
                        .is_none_or(|purpose| file["purpose"] == purpose)
                });
                listed(call, files)
            }
            ("GET", [id, "content"]) => {
                let kind = file_kind(id);
                let file = self.objects.get(kind, id);
                let file = file.ok_or_else(|| errors::object_not_found(kind.noun, id))?;
                Ok(Reply::Whole("application/octet-stream", file.content))
            }
            ("GET" | "DELETE", [id]) => {
                self.collection(call, file_kind(id), None, rest, Value::Null)
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    /// Keeps a file, and returns its description. The field `sha256` is the simulator's own.
    pub(super) fn keep_file(&self, name: &str, purpose: &str, content: Bytes) -> Value {
        let kind = match purpose {
            "assistants" => &ASSISTANT_FILE,
            _ => &FILE,
        };
        let fields = json!({
            "bytes": content.len(),
            "filename": name,
            "purpose": purpose,
            "sha256": hex(&Sha256::digest(&content)),
        });
        self.make(kind, None, fields, content)
    }

    pub(super) fn uploads(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", [id, "parts"]) => {
                self.is_here(&UPLOAD, id)?;
                let form = call.form()?;
                let content = form.file("data")?.content.clone();
                let part = self.make(&PART, Some(id), json!({ "upload_id": id }), content);
                Ok(Reply::json(&part))
            }
            ("POST", [id, "complete"]) => self.complete(call, id),
            ("POST", [id, "cancel"]) => self.cancel(&UPLOAD, id),
            ("POST", []) => self.collection(call, &UPLOAD, None, rest, json!({ "file": null })),
            _ => Err(errors::resource_not_found()),
        }
    }

    fn complete(&self, call: &Call<'_>, id: &str) -> Result<Reply, Failure> {
        let upload = self.show(&UPLOAD, id)?;
        let request = call.fields()?;
        let mut content = BytesMut::new();
        for part in request
            .get("part_ids")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let part_id = part.as_str().unwrap_or_default();
            let part = self.objects.get(&PART, part_id);
            let part = part.filter(|part| part.parent.as_deref() == Some(id));
            let part = part.ok_or_else(|| errors::object_not_found(PART.noun, part_id))?;
            content.extend_from_slice(&part.content);
        }
        let text = |name: &str| upload[name].as_str().unwrap_or_default();
        let file = self.keep_file(text("filename"), text("purpose"), content.freeze());
        let completed = self.change(&UPLOAD, id, |upload| {
            upload["status"] = json!("completed");
            upload["file"] = file;
        })?;
        Ok(Reply::json(&completed))
    }
}

fn file_kind(id: &str) -> &'static Kind {
    match id.starts_with(ASSISTANT_FILE.prefix) {
        true => &ASSISTANT_FILE,
        false => &FILE,
    }
}
