//! The tags in an answer, JSON or an event stream, against [`Document`]. A request that repeats the answer gets back
//! the backend's text.

use azure_openai_balancer::core::json::scan::Scan;
use azure_openai_balancer::core::json::tagger::{insert, Tagger};
use azure_openai_balancer::core::splices::Splices;
use azure_openai_balancer::core::state::ids::Tag;
use azure_openai_balancer::core::state::objects::Kind;

use super::json::Document;
use super::same_for_all_cuts;

pub(crate) fn check(input: &[u8]) {
    let tag = Tag::of("west.example");
    let (places, tagged) = same_for_all_cuts(input, |chunks| read(tag, chunks));
    assert!(places.is_sorted_by(|one, next| one < next));
    assert!(places.iter().all(|place| input[*place] == b'"'));
    let mut expected = input.to_vec();
    for place in places.iter().rev() {
        expected.splice(*place..*place, tag.as_str().bytes());
    }
    assert_eq!(tagged, expected);

    let (again, _) = read(Tag::of("east.example"), &[&tagged]);
    assert!(again.is_empty(), "a second balancer changes nothing");

    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Some(document) = Document::read(text) {
        assert_eq!(places, plain(&document).collect::<Vec<_>>());
        check_way_back(tag, input, &tagged);
    } else if let Some(expected) = of_stream(text) {
        assert_eq!(places, expected);
    }
}

fn read(tag: Tag, chunks: &[&[u8]]) -> (Vec<usize>, Vec<u8>) {
    let mut tagger = Tagger::default();
    let (mut offset, mut all, mut tagged) = (0, Vec::new(), Vec::new());
    for chunk in chunks {
        let places = tagger.push(chunk);
        insert(tag, chunk, places, &mut tagged);
        all.extend(places.iter().map(|place| offset + place));
        offset += chunk.len();
    }
    (all, tagged)
}

fn plain(document: &Document) -> impl Iterator<Item = usize> + '_ {
    let values = document.values.iter();
    let plain = values.filter(|(_, kind)| matches!(kind, Kind::Plain(_)));
    plain.map(|(range, _)| range.end)
}

/// The places of tags in an event stream; `None` if a line of it is not one that a server sends.
fn of_stream(text: &str) -> Option<Vec<usize>> {
    let mut places = Vec::new();
    for line in text.split(['\n', '\r']) {
        let at = line.as_ptr() as usize - text.as_ptr() as usize;
        match line.split_once(':') {
            None if line.is_empty() => {}
            Some(("event" | "id" | "retry", value)) => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
                value.trim().chars().all(is_name).then_some(())?;
            }
            Some(("data", " [DONE]")) => {}
            Some(("data", json)) => {
                let document = Document::read(json)?;
                places.extend(plain(&document).map(|place| at + "data:".len() + place));
            }
            _ => return None,
        }
    }
    Some(places)
}

/// A client's copy of the answer loses its tags, and is the backend's text again.
fn check_way_back(tag: Tag, input: &[u8], tagged: &[u8]) {
    let mark = tag.as_str().as_bytes();
    if input.windows(mark.len()).any(|part| part == mark) {
        return;
    }
    let mut scan = Scan::default();
    scan.push(tagged);
    let findings = scan.finish().expect("tags do not break JSON");
    let mut splices = Splices::default();
    for found in findings.tags.iter().filter(|found| found.tag == tag) {
        assert!(splices.cut(found.range()));
    }
    assert_eq!(splices.apply(tagged), input);
}
