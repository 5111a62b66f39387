//! The reader of requests' JSON, and its cuts, against [`Document`].

use azure_openai_balancer::core::json::scan::{Findings, Scan, Tagged};
use azure_openai_balancer::core::splices::Splices;
use azure_openai_balancer::core::state::ids::Tag;
use azure_openai_balancer::core::state::objects::{Kind, Untagged};

use super::json::Document;
use super::{cuts, same_for_all_cuts};

pub(crate) fn check(input: &[u8]) {
    let findings = same_for_all_cuts(input, read);
    let expected = expected(input);
    if let Some(findings) = &findings {
        check_splices(input, findings);
    }
    let Some(expected) = expected else {
        return;
    };
    let mut findings = findings.expect("serde_json takes it for JSON");
    // The plain reader does not look for these.
    findings.cache_key = None;
    (findings.stream_end, findings.fixes_stream_options) = (0, false);
    let name_of = |findings: &Findings| findings.model.as_ref().map(|model| model.range.clone());
    assert_eq!(name_of(&findings), name_of(&expected));
    assert_eq!(findings, expected);
}

fn read(chunks: &[&[u8]]) -> Option<Findings> {
    let mut scan = Scan::default();
    chunks.iter().for_each(|chunk| scan.push(chunk));
    scan.finish()
}

/// The findings of a plain reader, with places in the whole input; `None` if it does not accept the input as JSON.
fn expected(input: &[u8]) -> Option<Findings> {
    let text = std::str::from_utf8(input).ok()?;
    let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mark = text.len() - plain.len();
    let document = Document::read(plain)?;
    let tags = document
        .values
        .iter()
        .filter_map(|(range, kind)| match kind {
            Kind::Tagged(tag) => Some(Tagged {
                tag: *tag,
                start: mark + range.end - Tag::LENGTH,
            }),
            Kind::Plain(_) => None,
        });
    let model = document.model.map(|range| {
        let raw = &plain[range.clone()];
        let name = serde_json::from_str(&format!("\"{raw}\"")).ok();
        azure_openai_balancer::core::json::scan::Model {
            range: mark + range.start..mark + range.end,
            name: name.filter(|_| raw.len() <= 256),
        }
    });
    let is_untagged = |kind: &Kind| *kind == Kind::Plain(Untagged::Home);
    Some(Findings {
        model,
        cache_key: None,
        background: document.background,
        stream: document.stream,
        stream_end: 0,
        fixes_stream_options: false,
        store: document.store,
        for_batch: document.for_batch,
        tags: tags.collect(),
        untagged: document.values.iter().any(|(_, kind)| is_untagged(kind)),
        too_many_tags: false,
    })
}

/// Cuts and replacements change their targets and nothing else.
fn check_splices(input: &[u8], findings: &Findings) {
    const NAME: &str = "another name";
    let mut splices = Splices::default();
    let mut ranges = Vec::new();
    for tagged in &findings.tags {
        assert!(splices.cut(tagged.range()), "tags overlap");
        assert_eq!(Tag::parse(&input[tagged.range()]), Some(tagged.tag));
        ranges.push((tagged.range(), ""));
    }
    if let Some(model) = &findings.model {
        assert!(splices.replace(model.range.clone(), NAME.as_bytes()));
        ranges.push((model.range.clone(), NAME));
    }
    ranges.sort_by_key(|(range, _)| range.start);
    let mut expected = input.to_vec();
    for (range, text) in ranges.into_iter().rev() {
        expected.splice(range, text.bytes());
    }
    for chunks in cuts(input) {
        let (mut offset, mut out) = (0, Vec::new());
        for chunk in chunks {
            splices.apply_chunk(offset, chunk, &mut out);
            offset += chunk.len();
        }
        assert_eq!(
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(&expected)
        );
    }
    assert_eq!(splices.apply(input), expected);
    let grown = input.len().checked_add_signed(splices.delta());
    assert_eq!(grown, Some(expected.len()));
}
