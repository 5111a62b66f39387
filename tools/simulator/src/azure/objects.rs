//! The objects of a resource: files, threads, batches and the like. Each is found only on the resource that made it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;

/// The most objects that a resource keeps. The oldest are dropped first.
const LIMIT: usize = 10_000;
/// The most bytes of files that a resource keeps. The oldest objects are dropped first.
const BYTES_LIMIT: usize = 256 * 1024 * 1024;

/// A kind of object.
#[derive(Debug, PartialEq)]
pub(super) struct Kind {
    /// The value of the field `object`.
    pub(super) object: &'static str,
    /// The beginning of ids.
    pub(super) prefix: &'static str,
    /// The name in errors.
    pub(super) noun: &'static str,
    /// The end of the field `object` in the answer to a deletion.
    pub(super) deleted_suffix: &'static str,
    /// The status of a new object, and its status from the next request on.
    pub(super) statuses: Option<[&'static str; 2]>,
}

impl Kind {
    pub(super) const fn new(
        object: &'static str,
        prefix: &'static str,
        noun: &'static str,
    ) -> Self {
        Self {
            object,
            prefix,
            noun,
            deleted_suffix: ".deleted",
            statuses: None,
        }
    }

    /// A kind whose objects have a status: `new` when they are made, and `done` from the next request on.
    pub(super) const fn with_statuses(self, new: &'static str, done: &'static str) -> Self {
        Self {
            statuses: Some([new, done]),
            ..self
        }
    }

    /// A kind whose deleted objects keep their name in the field `object`.
    pub(super) const fn without_deleted_suffix(self) -> Self {
        Self {
            deleted_suffix: "",
            ..self
        }
    }

    /// The field `object` of the answer to a deletion.
    pub(super) fn deleted(&self) -> String {
        format!("{}{}", self.object, self.deleted_suffix)
    }
}

/// One object.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) kind: &'static Kind,
    /// The object that it is part of, such as a message's thread.
    pub(super) parent: Option<String>,
    /// The object's description.
    pub(super) value: Value,
    /// The content of a file.
    pub(super) content: Bytes,
}

/// The objects of one resource by id.
#[derive(Default)]
pub(crate) struct Objects {
    /// The name of the resource.
    pub(super) owner: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The objects in the order of their creation.
    objects: BTreeMap<u64, (String, Object)>,
    numbers: HashMap<String, u64>,
    next: u64,
    bytes: usize,
}

impl Kept {
    fn remove(&mut self, number: u64) {
        if let Some((id, object)) = self.objects.remove(&number) {
            self.numbers.remove(&id);
            self.bytes -= object.content.len();
        }
    }

    fn find(&self, kind: &Kind, id: &str) -> Option<u64> {
        let number = self.numbers.get(id)?;
        let (_, object) = self.objects.get(number)?;
        (object.kind == kind).then_some(*number)
    }
}

impl Objects {
    pub(crate) fn of(owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            kept: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, id: &str, object: Object) {
        let mut kept = self.lock();
        let number = kept.next;
        kept.next += 1;
        kept.bytes += object.content.len();
        kept.numbers.insert(id.to_owned(), number);
        kept.objects.insert(number, (id.to_owned(), object));
        while kept.objects.len() > LIMIT || kept.bytes > BYTES_LIMIT {
            let Some(oldest) = kept.objects.keys().next().copied() else {
                return;
            };
            kept.remove(oldest);
        }
    }

    pub(super) fn get(&self, kind: &Kind, id: &str) -> Option<Object> {
        let kept = self.lock();
        let number = kept.find(kind, id)?;
        kept.objects.get(&number).map(|(_, object)| object.clone())
    }

    /// Whether an object of any kind has this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().numbers.contains_key(id)
    }

    /// The description of an object after `change`.
    pub(super) fn change(
        &self,
        kind: &Kind,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Option<Value> {
        let mut kept = self.lock();
        let number = kept.find(kind, id)?;
        let (_, object) = kept.objects.get_mut(&number)?;
        change(&mut object.value);
        Some(object.value.clone())
    }

    /// Removes an object and its parts. Returns whether it existed.
    pub(super) fn remove(&self, kind: &Kind, id: &str) -> bool {
        let mut kept = self.lock();
        let Some(number) = kept.find(kind, id) else {
            return false;
        };
        kept.remove(number);
        let parts = kept.objects.iter();
        let parts = parts.filter(|(_, (_, part))| part.parent.as_deref() == Some(id));
        let parts: Vec<u64> = parts.map(|(number, _)| *number).collect();
        parts.into_iter().for_each(|part| kept.remove(part));
        true
    }

    /// The descriptions of the objects of a kind whose parent is `parent`, oldest first.
    pub(super) fn list(&self, kind: &Kind, parent: Option<&str>) -> Vec<Value> {
        let kept = self.lock();
        let objects = kept.objects.values().map(|(_, object)| object);
        objects
            .filter(|object| object.kind == kind && object.parent.as_deref() == parent)
            .map(|object| object.value.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KIND: Kind = Kind::new("file", "file-", "file");

    fn object(parent: Option<&str>, bytes: usize) -> Object {
        Object {
            kind: &KIND,
            parent: parent.map(ToOwned::to_owned),
            value: Value::Null,
            content: vec![0; bytes].into(),
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let objects = Objects::default();
        for number in 0..=LIMIT {
            objects.insert(&number.to_string(), object(None, 0));
        }
        assert!(!objects.has("0") && objects.has("1"));
        let large = BYTES_LIMIT / 2 + 1;
        objects.insert("large", object(None, large));
        objects.insert("larger", object(None, large));
        assert!(!objects.has("large") && objects.has("larger"));
    }

    #[test]
    fn parts_go_with_the_whole() {
        let objects = Objects::default();
        objects.insert("whole", object(None, 1));
        objects.insert("part", object(Some("whole"), 1));
        assert_eq!(objects.list(&KIND, None).len(), 1);
        assert!(objects.remove(&KIND, "whole"));
        assert!(!objects.has("part"));
        assert_eq!(objects.lock().bytes, 0);
    }
}
