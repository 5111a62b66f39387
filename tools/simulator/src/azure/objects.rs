//! Batches, threads, vector stores and the like: objects that live on the resource they were made on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::Method;
use serde_json::{json, Map, Value};

use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

/// The objects of one resource by id.
#[derive(Default)]
pub(super) struct Objects(Mutex<BTreeMap<String, Value>>);

impl Objects {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource {
    pub(super) fn objects(
        &self,
        call: &Call<'_>,
        kind: &str,
        prefix: &str,
        rest: &[&str],
    ) -> Result<Reply, Failure> {
        let missing = |id: &str| errors::object_not_found(kind, id);
        match (call.method.as_str(), rest) {
            ("POST", []) => Ok(self.create(call, kind, prefix)),
            ("GET", []) => Ok(self.list(prefix)),
            ("GET" | "POST", [id]) => {
                let objects = self.objects.lock();
                objects.get(*id).map(Reply::json).ok_or_else(|| missing(id))
            }
            ("DELETE", [id]) => {
                self.objects.lock().remove(*id).ok_or_else(|| missing(id))?;
                Ok(Reply::json(
                    &json!({ "id": id, "object": format!("{kind}.deleted"), "deleted": true }),
                ))
            }
            // What belongs to an object, such as a thread's messages, is where the object is.
            (method, [id, part, ..]) => {
                if !self.objects.lock().contains_key(*id) {
                    return Err(missing(id));
                }
                let kind = format!("{kind}.{}", part.trim_end_matches('s'));
                let prefix = format!("{}_{id}_", part.get(..3).unwrap_or(part));
                Ok(match method == Method::POST.as_str() {
                    true => self.create(call, &kind, &prefix),
                    false => self.list(&prefix),
                })
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    /// The request's own fields, with an id and a time.
    fn create(&self, call: &Call<'_>, kind: &str, prefix: &str) -> Reply {
        let id = self.id(prefix);
        let mut object: Map<String, Value> = serde_json::from_slice(&call.body).unwrap_or_default();
        object.insert("id".to_owned(), json!(id));
        object.insert("object".to_owned(), json!(kind));
        object.insert("created_at".to_owned(), json!(now()));
        object.insert("status".to_owned(), json!("completed"));
        let object = Value::Object(object);
        let reply = Reply::json(&object);
        self.objects.lock().insert(id, object);
        reply
    }

    fn list(&self, prefix: &str) -> Reply {
        let objects = self.objects.lock();
        let data: Vec<_> = objects
            .iter()
            .filter(|(id, _)| id.starts_with(prefix))
            .map(|(_, object)| object)
            .collect();
        Reply::json(&json!({ "object": "list", "data": data, "has_more": false }))
    }
}
