//! The operations of all collections of objects: make, list, show, change, delete.

use bytes::Bytes;
use serde_json::{json, Map, Value};

use super::objects::{Kind, Object};
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

/// The beginnings of ids by which objects refer to others.
const REFERRED: &[&str] = &[
    "resp_",
    "file-",
    "assistant-",
    "batch_",
    "thread_",
    "asst_",
    "vs_",
    "ftjob-",
    "conv_",
    "cntr_",
    "eval_",
    "skill_",
    "rtc_",
];
/// Fields with the id of another object, apart from those that end in `_id` or `_ids`.
const REFERRING: &[&str] = &[
    "training_file",
    "validation_file",
    "container",
    "conversation",
];

impl Resource {
    /// Answers a request for a collection or one of its objects. `fields` are the fields of a new object that the
    /// request does not set.
    pub(super) fn collection(
        &self,
        call: &Call<'_>,
        kind: &'static Kind,
        parent: Option<&str>,
        rest: &[&str],
        fields: Value,
    ) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                let made = self.make(kind, parent, merged(fields, request), Bytes::new());
                Ok(Reply::json(&made))
            }
            ("GET", []) => listed(call, self.objects.list(kind, parent)),
            ("GET", [id]) => self.show(kind, id).map(|value| Reply::json(&value)),
            ("POST", [id]) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                let changed = self.change(kind, id, |value| {
                    *value = merged(value.take(), with_id(request, id))
                })?;
                Ok(Reply::json(&changed))
            }
            ("DELETE", [id]) => self.delete(kind, id),
            _ => Err(errors::resource_not_found()),
        }
    }

    /// Keeps a new object with these fields. Returns its description.
    pub(super) fn make(
        &self,
        kind: &'static Kind,
        parent: Option<&str>,
        mut value: Value,
        content: Bytes,
    ) -> Value {
        let id = self.id(kind.prefix);
        value["id"] = json!(id);
        value["object"] = json!(kind.object);
        value["created_at"] = json!(now());
        if let Some([first, _]) = kind.statuses {
            value["status"] = json!(first);
        }
        let object = Object {
            kind,
            parent: parent.map(ToOwned::to_owned),
            value: value.clone(),
            content,
        };
        self.objects.insert(&id, object);
        value
    }

    /// The description of an object. Work that was in progress when the object was made is done now.
    pub(super) fn show(&self, kind: &'static Kind, id: &str) -> Result<Value, Failure> {
        self.change(kind, id, |value| {
            if let Some([first, then]) = kind.statuses {
                if value["status"] == first {
                    value["status"] = json!(then);
                }
            }
        })
    }

    pub(super) fn change(
        &self,
        kind: &'static Kind,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Failure> {
        let changed = self.objects.change(kind, id, change);
        changed.ok_or_else(|| errors::object_not_found(kind.noun, id))
    }

    /// Cancels work that is in progress.
    pub(super) fn cancel(&self, kind: &'static Kind, id: &str) -> Result<Reply, Failure> {
        let first = kind.statuses.map(|[first, _]| first);
        let mut is_over = false;
        let value = self.change(kind, id, |value| {
            is_over = value["status"].as_str() != first;
            if !is_over {
                value["status"] = json!("cancelled");
            }
        })?;
        match is_over {
            true => Err(errors::bad_request(&format!(
                "Cannot cancel the {} '{id}': it is {}.",
                kind.noun, value["status"]
            ))),
            false => Ok(Reply::json(&value)),
        }
    }

    pub(super) fn delete(&self, kind: &'static Kind, id: &str) -> Result<Reply, Failure> {
        match self.objects.remove(kind, id) {
            true => Ok(Reply::json(
                &json!({ "id": id, "object": kind.deleted(), "deleted": true }),
            )),
            false => Err(errors::object_not_found(kind.noun, id)),
        }
    }

    /// Refuses an id that is unknown here.
    pub(super) fn is_here(&self, kind: &'static Kind, id: &str) -> Result<(), Failure> {
        match self.objects.get(kind, id) {
            Some(_) => Ok(()),
            None => Err(errors::object_not_found(kind.noun, id)),
        }
    }

    /// Refuses a request that refers to an unknown object.
    pub(super) fn check_references(&self, request: &Map<String, Value>) -> Result<(), Failure> {
        for (key, value) in request.iter().filter(|(key, _)| *key != "metadata") {
            let refers =
                key.ends_with("_id") || key.ends_with("_ids") || REFERRING.contains(&key.as_str());
            self.check_value(key, value, refers)?;
        }
        Ok(())
    }

    fn check_value(&self, key: &str, value: &Value, refers: bool) -> Result<(), Failure> {
        match value {
            Value::String(id) if refers => {
                let kind = REFERRED.iter().find(|prefix| id.starts_with(**prefix));
                match kind {
                    Some(_) if self.objects.has(id) => Ok(()),
                    Some(_) if key == "previous_response_id" => {
                        Err(errors::previous_response_not_found(id))
                    }
                    Some(prefix) => Err(errors::object_not_found(
                        prefix.trim_end_matches(['_', '-']),
                        id,
                    )),
                    None => Ok(()),
                }
            }
            Value::Array(values) => values
                .iter()
                .try_for_each(|value| self.check_value(key, value, refers)),
            // A conversation may be an object with an id.
            Value::Object(fields) if refers => fields
                .iter()
                .try_for_each(|(inner, value)| self.check_value(inner, value, inner == "id")),
            Value::Object(fields) => self.check_references(fields),
            _ => Ok(()),
        }
    }
}

/// The requested page of a list.
pub(super) fn listed(call: &Call<'_>, mut values: Vec<Value>) -> Result<Reply, Failure> {
    if call.query("order").is_some_and(|order| order == "desc") {
        values.reverse();
    }
    if let Some(after) = call.query("after") {
        let at = values
            .iter()
            .position(|value| value["id"] == after.as_str());
        let at =
            at.ok_or_else(|| errors::bad_request(&format!("after: there is no {after:?} here.")))?;
        values.drain(..=at);
    }
    let limit = call.query("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.unwrap_or(usize::MAX);
    let has_more = values.len() > limit;
    values.truncate(limit);
    let id = |value: Option<&Value>| value.map_or(Value::Null, |value| value["id"].clone());
    Ok(Reply::json(&json!({
        "object": "list",
        "first_id": id(values.first()),
        "last_id": id(values.last()),
        "has_more": has_more,
        "data": values,
    })))
}

/// The fields, overridden and extended by those of the request.
pub(super) fn merged(mut fields: Value, request: Map<String, Value>) -> Value {
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(request);
    }
    fields
}

fn with_id(mut request: Map<String, Value>, id: &str) -> Map<String, Value> {
    request.insert("id".to_owned(), json!(id));
    request
}
