//! The names of the headers that the filter reads and writes.

use super::fields::{headers, plugin};
use super::reader::Object;
use crate::prelude::*;

/// The names of the headers that the filter reads and writes, in lower case. `None` disables a header.
#[derive(Clone, Debug)]
pub struct HeaderNames {
    /// The request header that names the cluster for the route.
    pub cluster: String,
    /// The response header that names the backend.
    pub backend: Option<String>,
    /// The response header that counts the attempts.
    pub attempts: Option<String>,
    /// The response header that explains the attempts.
    pub why: Option<String>,
    /// The request header in which an earlier filter put the client's name.
    pub client: Option<String>,
}

#[inline(never)]
pub(super) fn read_headers(root: &mut Object<'_>) -> Option<HeaderNames> {
    let mut object = root.object_or_empty(&plugin::HEADERS)?;
    let cluster = object.text(&headers::CLUSTER);
    let backend = object.text_or_null(&headers::BACKEND);
    let attempts = object.text_or_null(&headers::ATTEMPTS);
    let why = object.text_or_null(&headers::WHY);
    let client = object.text_or_null(&headers::CLIENT);
    object.finish();
    Some(HeaderNames {
        cluster: cluster.unwrap_or_default(),
        backend,
        attempts,
        why,
        client,
    })
}
