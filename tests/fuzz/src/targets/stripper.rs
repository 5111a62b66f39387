//! The removal of tokens from event streams, against a plain implementation on the whole text.

use azure_openai_balancer::core::stripper::Stripper;
use serde_json::Value;

use super::same_for_all_cuts;

pub(crate) fn check(input: &[u8]) {
    let stripped = same_for_all_cuts(input, strip);
    let whole = Stripper::of_whole(input);
    assert_eq!(whole.as_deref().unwrap_or(input), stripped, "whole");
    assert!(is_part(&stripped, input), "something was added");
    if let Some(expected) = naive(input) {
        let documents = String::from_utf8_lossy(&stripped);
        assert_eq!(
            events(&documents).map(document).collect::<Vec<_>>(),
            expected
        );
    }
}

/// The client's part of a stream in these chunks.
fn strip(chunks: &[&[u8]]) -> Vec<u8> {
    let mut stripper = Stripper::default();
    let mut got = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        let changed = stripper.push(chunk, number + 1 == chunks.len());
        got.extend_from_slice(changed.unwrap_or(chunk));
    }
    got
}

/// Whether `part` is `whole` without some of its bytes.
fn is_part(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|other| other == byte))
}

fn events(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").filter(|event| !event.is_empty())
}

fn document(event: &str) -> Option<Value> {
    serde_json::from_str(event.strip_prefix("data:")?).ok()
}

/// The stream's documents without the effects of the requested tokens. `None` if serde_json and the core may read the
/// text differently: keys with escapes, or repeated keys.
fn naive(input: &[u8]) -> Option<Vec<Option<Value>>> {
    let text = std::str::from_utf8(input).ok()?;
    if text.contains(['\r', '\\']) || !text.ends_with("\n\n") {
        return None;
    }
    let mut documents = Vec::new();
    for event in events(text) {
        let is_twice = |key: &str| event.matches(key).count() > 1;
        if event.contains('\n') || is_twice("\"usage\"") || is_twice("\"choices\"") {
            return None;
        }
        let mut document = document(event)?;
        let object = document.as_object_mut()?;
        let has_no_choices = object.get("choices") == Some(&Value::Array(Vec::new()));
        match object.get("usage") {
            Some(Value::Object(_)) if has_no_choices => continue,
            // Without another key, the document would not be a chat's.
            Some(Value::Null) if object.len() > 1 => drop(object.remove("usage")),
            _ => {}
        }
        documents.push(Some(document));
    }
    Some(documents)
}
