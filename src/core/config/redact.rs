//! Formats values for error messages, without secrets.

use core::fmt;

use crate::prelude::*;
use serde_json::Value;

/// The longest value in a message, in characters.
const LONGEST: usize = 60;

/// A run of this many letters and digits counts as a key: keys of Azure OpenAI have 32 or 84. Names have separators.
const KEY_LENGTH: usize = 32;

/// The value as JSON on one line, without parts that may be secrets.
pub fn redacted(value: &Value) -> String {
    let mut text = without_secrets(&value.to_string());
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// A text in quotes, without parts that may be secrets.
pub(super) fn redacted_text(text: &str) -> impl fmt::Display {
    redacted(&Value::from(text))
}

/// `text` with `***` for each part that may be a secret. These are runs of letters and digits as long as a key, and the
/// user and password of a URL.
pub fn without_secrets(text: &str) -> String {
    let text = without_users(text);
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let run = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match run.len() >= KEY_LENGTH {
            true => out.push_str("***"),
            false => out.push_str(run),
        }
        out.push_str(piece.strip_prefix(run).unwrap_or_default());
    }
    out
}

fn without_users(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(['/', '"', ' ']).unwrap_or(part.len());
        let (authority, rest) = part.split_at_checked(end).unwrap_or((part, ""));
        let host = authority.rsplit_once('@').map(|(_, host)| host);
        out.push_str("://");
        out.push_str(if host.is_some() { "***@" } else { "" });
        out.push_str(host.unwrap_or(authority));
        out.push_str(rest);
    }
    out
}

/// Whether a text is the name of an environment variable, and not a key in place of one.
pub(super) fn is_variable_name(text: &str) -> bool {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(is_name)
        && text.split('_').all(|part| part.len() < KEY_LENGTH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "3f9c0b1d5e7a4286b1c2d3e4f5a60718";

    #[test]
    fn parts_that_may_be_keys_are_redacted() {
        for (value, text) in [
            (json!("ftp://x"), r#""ftp://x""#.to_owned()),
            (json!(KEY), r#""***""#.to_owned()),
            (json!(["my-app", KEY]), r#"["my-app","***"]"#.to_owned()),
            (json!({"key": KEY.repeat(2)}), r#"{"key":"***"}"#.to_owned()),
            (json!(&KEY[1..]), format!("{:?}", &KEY[1..])),
            (json!("a".repeat(31)), format!("{:?}", "a".repeat(31))),
            (
                json!(format!("https://user:pa55@host/x?code={KEY}")),
                r#""https://***@host/x?code=***""#.to_owned(),
            ),
            (json!("mailto@host"), r#""mailto@host""#.to_owned()),
            (
                json!("25d6a2ab-0b1d-4c55-9b4f-0f1f3f1f4f1f"),
                r#""25d6a2ab-0b1d-4c55-9b4f-0f1f3f1f4f1f""#.to_owned(),
            ),
        ] {
            assert_eq!(redacted(&value), text, "{value}");
        }
    }

    #[test]
    fn long_values_are_truncated() {
        let text = redacted(&json!("ä b ".repeat(100)));
        assert_eq!(text.chars().count(), LONGEST + 1, "{text}");
        assert!(text.ends_with('…'));
    }

    #[test]
    fn keys_are_not_names_of_variables() {
        let long_name = "CONTOSO_RESEARCH_AZURE_OPENAI_SWEDENCENTRAL_API_KEY";
        for name in ["K", "_x", "EAST_KEY", "east_key_2", long_name] {
            assert!(is_variable_name(name), "{name}");
        }
        let hexadecimal = "af9c0b1d5e7a4286b1c2d3e4f5a60718";
        let longer = "Ab1".repeat(28);
        for other in [
            KEY,
            hexadecimal,
            &longer,
            "2EAST",
            "EAST-KEY",
            "EAST KEY",
            "$EAST_KEY",
            "${EAST_KEY}",
            "sk-proj-abc",
            "ä",
            "",
        ] {
            assert!(!is_variable_name(other), "{other}");
        }
    }
}
