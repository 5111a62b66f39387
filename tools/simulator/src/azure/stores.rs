//! Objects that hold files and items of others: vector stores, containers, conversations.

use bytes::Bytes;
use serde_json::{json, Value};

use super::collection::listed;
use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

static VECTOR_STORE: Kind =
    Kind::new("vector_store", "vs_", "vector store").with_statuses("in_progress", "completed");
/// The object name of a file in a vector store. It has the id of the file, and is not an object of its own.
const VECTOR_STORE_FILE: &str = "vector_store.file";
static FILE_BATCH: Kind = Kind::new("vector_store.file_batch", "vsfb_", "file batch")
    .with_statuses("in_progress", "completed");
static CONTAINER: Kind =
    Kind::new("container", "cntr_", "container").with_statuses("running", "running");
static CONTAINER_FILE: Kind = Kind::new("container.file", "cfile_", "container file");
static CONVERSATION: Kind = Kind::new("conversation", "conv_", "conversation");
/// An item of a conversation, or of a response's input.
pub(super) static ITEM: Kind = Kind::new("item", "msg_", "item");

impl Resource {
    pub(super) fn vector_stores(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match rest {
            [] | [_] => {
                let fields = json!({ "name": null, "file_ids": [], "metadata": {} });
                self.collection(call, &VECTOR_STORE, None, rest, fields)
            }
            [id, part, rest @ ..] => {
                let store = self.show(&VECTOR_STORE, id)?;
                match (call.method.as_str(), *part, rest) {
                    (_, "files", _) => self.store_files(call, &store, id, rest),
                    ("POST", "search", []) => listed(call, Vec::new()),
                    (_, "file_batches", _) => {
                        let fields = json!({
                            "vector_store_id": id,
                            "file_counts": { "in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0 },
                        });
                        self.collection(call, &FILE_BATCH, Some(id), rest, fields)
                    }
                    _ => Err(errors::resource_not_found()),
                }
            }
        }
    }

    fn store_files(
        &self,
        call: &Call<'_>,
        store: &Value,
        id: &str,
        rest: &[&str],
    ) -> Result<Reply, Failure> {
        let shown = |file: &str| {
            json!({
                "id": file,
                "object": VECTOR_STORE_FILE,
                "vector_store_id": id,
                "status": "completed",
                "last_error": null,
                "usage_bytes": 0,
            })
        };
        let files = store["file_ids"].as_array().cloned().unwrap_or_default();
        let missing = |file: &str| errors::object_not_found("file", file);
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                let file = request.get("file_id").cloned().unwrap_or_default();
                let shown = shown(file.as_str().unwrap_or_default());
                self.change(&VECTOR_STORE, id, |store| {
                    if let Some(files) = store["file_ids"].as_array_mut() {
                        files.push(file);
                    }
                })?;
                Ok(Reply::json(&shown))
            }
            ("GET", []) => listed(
                call,
                files.iter().filter_map(Value::as_str).map(shown).collect(),
            ),
            ("GET", [file]) if files.contains(&json!(file)) => Ok(Reply::json(&shown(file))),
            ("DELETE", [file]) if files.contains(&json!(file)) => {
                self.change(&VECTOR_STORE, id, |store| {
                    if let Some(files) = store["file_ids"].as_array_mut() {
                        files.retain(|known| known != file);
                    }
                })?;
                Ok(Reply::json(
                    &json!({ "id": file, "object": "vector_store.file.deleted", "deleted": true }),
                ))
            }
            ("GET" | "DELETE", [file]) => Err(missing(file)),
            _ => Err(errors::resource_not_found()),
        }
    }

    pub(super) fn containers(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            (_, [] | [_]) => self.collection(call, &CONTAINER, None, rest, json!({})),
            ("POST", [id, "files"]) => {
                self.is_here(&CONTAINER, id)?;
                let form = call.form()?;
                let file = form.file("file")?;
                let fields = json!({
                    "container_id": id,
                    "bytes": file.content.len(),
                    "path": format!("/mnt/data/{}", file.file_name.as_deref().unwrap_or_default()),
                    "source": "user",
                });
                let made = self.make(&CONTAINER_FILE, Some(id), fields, file.content.clone());
                Ok(Reply::json(&made))
            }
            ("GET", [id, "files", file, "content"]) => {
                self.is_here(&CONTAINER, id)?;
                let file = self.objects.get(&CONTAINER_FILE, file);
                let file = file.ok_or_else(errors::resource_not_found)?;
                Ok(Reply::Whole("application/octet-stream", file.content))
            }
            (_, [id, "files", rest @ ..]) => {
                self.is_here(&CONTAINER, id)?;
                self.collection(call, &CONTAINER_FILE, Some(id), rest, Value::Null)
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    pub(super) fn conversations(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let mut request = call.fields()?;
                let items = request.remove("items").unwrap_or_default();
                let fields = json!({ "metadata": request.get("metadata") });
                let made = self.make(&CONVERSATION, None, fields, Bytes::new());
                self.keep_items(made["id"].as_str().unwrap_or_default(), &items);
                Ok(Reply::json(&made))
            }
            (_, [_]) => self.collection(call, &CONVERSATION, None, rest, Value::Null),
            ("POST", [id, "items"]) => {
                self.is_here(&CONVERSATION, id)?;
                let request = call.fields()?;
                let items = request.get("items").unwrap_or(&Value::Null);
                listed(call, self.keep_items(id, items))
            }
            (_, [id, "items", rest @ ..]) => {
                self.is_here(&CONVERSATION, id)?;
                self.collection(call, &ITEM, Some(id), rest, Value::Null)
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    /// Keeps the input, a text or a list of messages, as items of a response or a conversation.
    pub(super) fn keep_items(&self, parent: &str, input: &Value) -> Vec<Value> {
        let text = |text: &Value| json!({ "role": "user", "content": [{ "type": "input_text", "text": text }] });
        let items = match input {
            Value::Array(items) => items.clone(),
            Value::Null => Vec::new(),
            input => vec![text(input)],
        };
        let items = items.into_iter().map(|mut item| {
            if !item.is_object() {
                item = text(&item);
            }
            if item["type"].is_null() {
                item["type"] = json!("message");
            }
            self.make(&ITEM, Some(parent), item, Bytes::new())
        });
        items.collect()
    }
}
