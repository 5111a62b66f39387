//! The reader of reported tokens: its result does not depend on the chunks, and on a plain document it is that of
//! serde_json.

use azure_openai_balancer::core::stream_start::Failure;
use azure_openai_balancer::core::usage::{Usage, UsageReader};
use serde_json::{Map, Value};

use super::same_for_all_cuts;

/// The number of bytes that the reader keeps of an event stream with short frames. The result for a longer stream
/// depends on its frames.
const KEPT_OF_SHORT_FRAMES: usize = 1024;

pub(crate) fn check(input: &[u8]) {
    if input.len() > KEPT_OF_SHORT_FRAMES {
        let _ = read(UsageReader::default(), &input.chunks(7).collect::<Vec<_>>());
        return;
    }
    let (usage, _) = same_for_all_cuts(input, |chunks| read(UsageReader::default(), chunks));
    let mut whole = UsageReader::default();
    whole.take_whole(input);
    assert_eq!(whole.finish(), usage, "whole");
    if let Some(expected) = naive(input) {
        assert_eq!(usage, expected);
    }
}

/// The tokens reported in these chunks, and the error at their end.
fn read(mut reader: UsageReader, chunks: &[&[u8]]) -> (Option<Usage>, Option<Failure>) {
    for chunk in chunks {
        if let Some(wanted) = reader.wanted(chunk.len()) {
            reader.take(chunk[wanted].to_vec());
        }
    }
    let usage = reader.finish();
    (usage, reader.failure())
}

/// The tokens that a plain document reports; `None` if the document is ambiguous.
fn naive(input: &[u8]) -> Option<Option<Usage>> {
    let text = std::str::from_utf8(input).ok()?;
    if text.contains('\\') || text.matches("\"usage\"").count() != 1 {
        return None;
    }
    let document: Value = serde_json::from_str(text).ok()?;
    let usage = document.get("usage")?.as_object()?;
    let details = ["prompt_tokens_details", "completion_tokens_details"];
    let [prompt_details, completion_details] = details.map(|key| usage.get(key));
    let known = |key: &String| {
        let numbers = ["prompt_tokens", "completion_tokens", "total_tokens"];
        numbers.contains(&key.as_str()) || details.contains(&key.as_str())
    };
    if !usage.keys().all(known) || text.matches("_tokens").count() != keys(usage) {
        return None;
    }
    number(usage.get("total_tokens"))?;
    let prompt = number(usage.get("prompt_tokens"))?;
    let completion = number(usage.get("completion_tokens"))?;
    let cached = number(detail(prompt_details, "cached_tokens")?)?;
    let reasoning = number(detail(completion_details, "reasoning_tokens")?)?;
    let found = Usage {
        prompt,
        completion,
        cached: cached.unwrap_or_default(),
        reasoning: reasoning.unwrap_or_default(),
    };
    Some((prompt.is_some() || completion.is_some()).then_some(found))
}

/// The number of keys in the object and the objects in it. If the text has more, some keys are repeated.
fn keys(object: &Map<String, Value>) -> usize {
    let inner = object.values().filter_map(Value::as_object);
    object.len() + inner.map(Map::len).sum::<usize>()
}

/// The value of a detail that is alone in its object; `None` if ambiguous.
fn detail<'v>(details: Option<&'v Value>, key: &str) -> Option<Option<&'v Value>> {
    let Some(details) = details else {
        return Some(None);
    };
    let details = details.as_object()?;
    (details.keys().all(|other| other == key)).then(|| details.get(key))
}

/// A whole number, as the core reads it; `None` if ambiguous.
fn number(value: Option<&Value>) -> Option<Option<u32>> {
    match value {
        None => Some(None),
        Some(value) => {
            let number = value.as_u64()?;
            Some(Some(u32::try_from(number).unwrap_or(u32::MAX)))
        }
    }
}
