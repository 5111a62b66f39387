//! Writing JSON for people to read, inside a YAML file.

use serde_json::Value;

use crate::yaml::{indented, is_printable};

/// The longest value on one line. A list or map of lists or maps takes several lines.
const ONE_LINE: usize = 120;

/// A JSON value, indented by two, with small lists and maps on one line, and a line break at the end.
///
/// A map starts with its `name`, where readers look for it. No text can end a YAML literal block.
pub(crate) fn pretty(value: &Value) -> String {
    let mut out = written(value);
    out.push('\n');
    out
}

fn written(value: &Value) -> String {
    let (open, parts, close) = match value {
        Value::Object(map) => {
            let (first, rest): (Vec<_>, Vec<_>) = map.iter().partition(|(key, _)| *key == "name");
            let parts: Vec<String> = first
                .into_iter()
                .chain(rest)
                .map(|(key, value)| format!("{}: {}", string(key), written(value)))
                .collect();
            ('{', parts, '}')
        }
        Value::Array(items) => ('[', items.iter().map(written).collect(), ']'),
        Value::String(text) => return string(text),
        plain => return plain.to_string(),
    };
    let line = format!("{open}{}{close}", parts.join(", "));
    if line.len() <= ONE_LINE && !holds_containers(value) {
        return line;
    }
    format!("{open}\n{}\n{close}", indented(&parts.join(",\n"), 2))
}

fn holds_containers(value: &Value) -> bool {
    let is_container = |v: &Value| v.is_array() || v.is_object();
    match value {
        Value::Object(map) => map.values().any(is_container),
        Value::Array(items) => items.iter().any(is_container),
        _ => false,
    }
}

/// A JSON string, which also escapes everything that YAML does not allow in a file.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in Value::from(text).to_string().chars() {
        if is_printable(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn small_things_share_a_line_and_the_name_comes_first() {
        let text = pretty(&json!({
            "backends": [{"cluster": "a", "name": "b"}, {"cluster": "c", "name": "d"}],
            "empty": [],
            "statuses": [429, 503],
        }));
        assert_eq!(
            text,
            r#"{
  "backends": [
    {"name": "b", "cluster": "a"},
    {"name": "d", "cluster": "c"}
  ],
  "empty": [],
  "statuses": [429, 503]
}
"#
        );
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = json!({
            "text": "quote \" backslash \\ newline \n nul \0 del \u{7f} nel \u{85} ls \u{2028} bom \u{feff} \u{1fffe} crab 🦀",
            "long": "x".repeat(2 * ONE_LINE),
            "list": [[], {}, [1, 2.5, -3], {"a": {"b": null, "c": [true]}}],
        });
        let text = pretty(&value);
        assert!(text.chars().all(|c| c == '\n' || is_printable(c)), "{text}");
        let back: Value = serde_json::from_str(&text).expect("well-formed JSON");
        assert_eq!(back, value);
    }
}
