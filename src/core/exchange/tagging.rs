//! Adds tags to the ids in an answer, so that later requests with these ids reach the right backend.

use crate::json::tagger::{insert, Tagger};
use crate::prelude::*;
use crate::state::ids::Tag;
use crate::state::objects::is_object_id;

/// The tagger of one answer.
pub(super) struct Tagging {
    tag: Tag,
    tagger: Tagger,
    /// The last chunk with its tags. The memory is reused, because nearly every event of a stream has an id.
    tagged: Vec<u8>,
}

/// The most memory that is kept between chunks, in bytes.
const KEPT: usize = 16 * 1024;

/// `location` with a tag after the id at its end. `None` without such an id.
pub(super) fn tagged_location(tag: Tag, location: &str) -> Option<String> {
    let end = location.find(['?', '#']).unwrap_or(location.len());
    let (path, rest) = location.split_at_checked(end)?;
    let id = path.rsplit('/').next()?;
    is_object_id(id.as_bytes()).then(|| [path, tag.as_str(), rest].concat())
}

impl Tagging {
    /// The tagger of an answer with this `status` and type. `None` if such answers have no ids.
    pub(super) fn of(
        tag: Tag,
        status: u16,
        content_type: Option<&str>,
        is_encoded: bool,
    ) -> Option<Self> {
        let media = content_type.unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        let known = ["application/json", "text/event-stream"];
        let has_ids = (200..300).contains(&status)
            && known.iter().any(|known| media.eq_ignore_ascii_case(known));
        (has_ids && !is_encoded).then(|| Self {
            tag,
            tagger: Tagger::default(),
            tagged: Vec::new(),
        })
    }

    /// The next bytes with their ids tagged. `None` if they contain no id.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        let places = self.tagger.push(chunk);
        if places.is_empty() {
            return None;
        }
        self.tagged.clear();
        self.tagged.shrink_to(KEPT);
        insert(self.tag, chunk, places, &mut self.tagged);
        Some(&self.tagged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_at_the_end_of_a_location_is_tagged() {
        let tag = Tag::of("host");
        for (location, expected) in [
            (
                "/openai/v1/realtime/calls/rtc_1",
                Some("/openai/v1/realtime/calls/rtc_1T"),
            ),
            (
                "https://h/calls/rtc_1?x=rtc_2",
                Some("https://h/calls/rtc_1T?x=rtc_2"),
            ),
            ("rtc_1#a", Some("rtc_1T#a")),
            ("/calls/rtc_1/", None),
            ("/calls/1", None),
            ("/calls/rtc_1.b123456", None),
            ("", None),
        ] {
            let expected = expected.map(|location| location.replace('T', tag.as_str()));
            assert_eq!(tagged_location(tag, location), expected, "{location}");
        }
    }
}
