//! Tagging the ids in an answer, so that what a client asks for by them later comes to the backend where it lives.

use super::header_map::HeaderMap;
use super::host::{self, Buffer, HostError, Map};
use crate::core::json::tagger::{insert, Tagger};
use crate::core::state::ids::Tag;

/// The tagging of one answer.
pub(super) struct Tagging {
    tag: Tag,
    tagger: Tagger,
}

impl Tagging {
    /// Begins, in a callback of the answer's headers; `None` if the answer is none that has ids to tag.
    pub(super) fn begin(tag: Tag, status: u16) -> Result<Option<Self>, HostError> {
        let header = |name| host::header(Map::ResponseHeaders, name);
        let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap_or_default());
        let content_type = text(header("content-type")?).unwrap_or_default();
        if !has_ids(status, &content_type) || header("content-encoding")?.is_some() {
            return Ok(None);
        }
        // Envoy frames the answer anew.
        host::remove_header(Map::ResponseHeaders, "content-length")?;
        let tagger = Tagger::default();
        Ok(Some(Self { tag, tagger }))
    }

    /// The next `size` bytes, in a callback of the answer's body.
    pub(super) fn pass(&mut self, size: usize) -> Result<(), HostError> {
        if size == 0 {
            return Ok(());
        }
        let chunk = host::buffer(Buffer::ResponseBody, 0, size)?;
        let places = self.tagger.push(&chunk);
        if places.is_empty() {
            return Ok(());
        }
        host::replace_buffer(Buffer::ResponseBody, &insert(self.tag, &chunk, places))
    }

    /// The body of an answer that is at hand as a whole, with its ids tagged; `None` if it has none.
    #[inline(never)]
    pub(super) fn whole(
        tag: Tag,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let content_type = headers.get("content-type").unwrap_or_default();
        if !has_ids(status, content_type) || headers.get("content-encoding").is_some() {
            return None;
        }
        let mut tagger = Tagger::default();
        let places = tagger.push(body);
        (!places.is_empty()).then(|| insert(tag, body, places))
    }
}

fn has_ids(status: u16, content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    (200..300).contains(&status)
        && ["application/json", "text/event-stream"]
            .iter()
            .any(|known| media.eq_ignore_ascii_case(known))
}
