//! The reader of forms, against a plain one that has the whole form. The input's first line is the content type.

use azure_openai_balancer::core::multipart::{Scanner, Value};

use super::same_for_all_cuts;

const NAME: &str = "model";

pub(crate) fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (first, body) = input.split_at(end.map_or(input.len(), |end| end + 1));
    let content_type = String::from_utf8_lossy(first);
    let content_type = content_type.trim_end();
    let Some(scanner) = Scanner::new(content_type, NAME) else {
        assert!(Scanner::before_files(content_type, NAME).is_none());
        return;
    };
    let value = same_for_all_cuts(body, |chunks| read(scanner.clone(), chunks));
    if let Some(value) = &value {
        let text = std::str::from_utf8(&body[value.range.clone()]).ok();
        let is_short = value.range.len() <= 256;
        assert_eq!(value.text.as_deref(), text.filter(|_| is_short));
        assert!(body[value.range.end..].starts_with(b"\r\n--"));
        assert!(body[..value.range.start].ends_with(b"\r\n"));
    }
    let before_files = Scanner::before_files(content_type, NAME).expect("a form as well");
    let first = same_for_all_cuts(body, |chunks| read(before_files.clone(), chunks));
    assert!(first.is_none() || first == value, "{first:?} {value:?}");
    if let Some(expected) = naive(content_type, body) {
        assert_eq!(value.map(|value| value.range.start), expected);
    }
}

fn read(mut scanner: Scanner, chunks: &[&[u8]]) -> Option<Value> {
    for chunk in chunks {
        let was_done = scanner.is_done();
        let before = scanner.value().cloned();
        scanner.push(chunk);
        assert!(!was_done || scanner.value() == before.as_ref());
    }
    scanner.value().cloned()
}

/// The place where the value begins, if there is one; `None` if SDKs would not write such a form.
fn naive(content_type: &str, body: &[u8]) -> Option<Option<usize>> {
    let body = std::str::from_utf8(body).ok()?;
    let boundary = content_type.strip_prefix("multipart/form-data; boundary=")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if boundary.is_empty() || boundary.len() > 70 || !boundary.chars().all(is_plain) {
        return None;
    }
    let delimiter = format!("\r\n--{boundary}");
    let framed = format!("\r\n{body}");
    let mut parts = framed.split(&delimiter);
    if parts.next() != Some("") {
        return None;
    }
    let mut value = None;
    let mut at = delimiter.len();
    let parts: Vec<&str> = parts.collect();
    let (last, parts) = parts.split_last()?;
    if !last.starts_with("--") {
        return None;
    }
    for part in parts {
        let (headers, _) = part.strip_prefix("\r\n")?.split_once("\r\n\r\n")?;
        let mut is_wanted = false;
        for (number, header) in headers.split("\r\n").enumerate() {
            match header.strip_prefix("Content-Disposition: form-data; name=\"") {
                Some(rest) if number == 0 => is_wanted = is_wanted_name(rest)?,
                None if number > 0 && header.starts_with("Content-Type: ") => {}
                _ => return None,
            }
        }
        if is_wanted {
            // The line break before the body is not part of it.
            value = value.or(Some(at + 2 + headers.len() + 4 - 2));
        }
        at += part.len() + delimiter.len();
    }
    Some(value)
}

/// Whether this is the wanted name, after its first quote; `None` if SDKs would not write such a name.
fn is_wanted_name(rest: &str) -> Option<bool> {
    let is_plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.".contains(c))
    };
    let (name, rest) = rest.split_once('"')?;
    let file = match rest {
        "" => None,
        rest => Some(rest.strip_prefix("; filename=\"")?.strip_suffix('"')?),
    };
    let is_plain = is_plain(name) && file.is_none_or(is_plain);
    is_plain.then_some(name == NAME && file.is_none())
}
