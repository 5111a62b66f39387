//! A property of the reader of tokens: it finds the tokens that a JSON parser finds, wherever the answer is cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use azure_openai_balancer::core::usage::{Usage, UsageReader, TAIL};
use proptest::prelude::*;
use serde_json::{json, Map, Value};

/// The tokens found in a body that passes in frames of this size.
fn found(body: &[u8], size: usize) -> Option<Usage> {
    let mut reader = UsageReader::default();
    for frame in body.chunks(size) {
        if let Some(wanted) = reader.wanted(frame.len()) {
            reader.take(frame[wanted].to_vec());
        }
    }
    reader.finish()
}

/// Values that may stand beside the tokens.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u32>().prop_map(Value::from),
        "[a-z\"\\\\{}:,]{0,8}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!(1.5)),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\_]{0,6}", inner, 0..3)
                .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_numbers_are_those_that_serde_json_finds(
        tokens in prop::collection::vec((0..4_usize, any::<u32>()), 0..4),
        others in prop::collection::btree_map("[a-z\"\\\\]{0,6}", values(), 0..4),
        pretty: bool,
        size in 1..400_usize,
    ) {
        let mut map: Map<_, _> = others.into_iter().collect();
        for (name, value) in tokens {
            match name {
                0 => drop(map.insert("prompt_tokens".into(), value.into())),
                1 => drop(map.insert("completion_tokens".into(), value.into())),
                2 => drop(map.insert("prompt_tokens_details".into(), json!({"cached_tokens": value}))),
                _ => drop(map.insert("completion_tokens_details".into(), json!({"reasoning_tokens": value}))),
            }
        }
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let top = |name: &str| map.get(name).and_then(number);
        let below = |name: &str, inner: &str| map.get(name).and_then(|it| number(&it[inner]));
        let expected = Usage {
            prompt: top("prompt_tokens"),
            completion: top("completion_tokens"),
            cached: below("prompt_tokens_details", "cached_tokens").unwrap_or_default(),
            reasoning: below("completion_tokens_details", "reasoning_tokens").unwrap_or_default(),
        };
        let known = expected.prompt.is_some() || expected.completion.is_some();
        let body = json!({"a": "\"usage\":{\"prompt_tokens\":1}", "usage": map, "z": null});
        let body = match pretty {
            true => serde_json::to_string_pretty(&body).unwrap(),
            false => body.to_string(),
        };
        prop_assert_eq!(found(body.as_bytes(), size), known.then_some(expected));
    }

    #[test]
    fn any_bytes_are_read_to_their_end(
        body in prop::collection::vec(prop_oneof![
            Just(b"\"usage\":{".to_vec()),
            Just(b"\"prompt_tokens\":1".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ], 0..50),
        size in 1..100_usize,
    ) {
        let body = [b"{".to_vec(), body.concat()].concat();
        let last = body.len().saturating_sub(TAIL);
        let expected = Usage::last_in(&body[last..]);
        prop_assert_eq!(found(&body, size), expected);
    }
}
