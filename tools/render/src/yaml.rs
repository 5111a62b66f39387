//! Writes YAML by hand, safely.
//!
//! The configuration is a text with comments, which no serializer writes. So this module has only the needs of such a
//! text: quoted strings, list items and indentation.

use std::fmt::Write as _;
use std::path::Path;

/// `text` as a double-quoted YAML string on one line.
///
/// Everything that a reader could misunderstand is escaped: quotes, backslashes, control characters, Unicode's line
/// breaks, the byte order mark.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// A block of lines as one list item: its first line after a dash, the others below it.
pub fn item(text: &str) -> String {
    format!("- {}", indented(text, 2).trim_start())
}

/// `text` with every line that is not empty moved `spaces` to the right.
pub fn indented(text: &str, spaces: usize) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        if !line.trim().is_empty() {
            out.extend(std::iter::repeat_n(' ', spaces));
        }
        out.push_str(line);
    }
    out
}

/// The folder of a file. A bare name is in Envoy's own folder.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Whether YAML allows the character unescaped, on the same line.
pub(crate) fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
        && !matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff)
}

#[cfg(test)]
mod tests {
    use saphyr::{LoadableYamlNode, Yaml};

    use super::*;

    fn parse(text: &str) -> Yaml<'_> {
        let mut documents = Yaml::load_from_str(text).expect("well-formed YAML");
        assert_eq!(documents.len(), 1, "one document");
        documents.remove(0)
    }

    #[test]
    fn a_quoted_string_reads_back_as_itself() {
        for text in [
            "",
            "plain",
            "yes",
            "~",
            "1.5",
            "a: b",
            "a #b",
            "- a",
            "%{x}",
            "@type",
            "say \"hi\"",
            "back\\slash",
            "two\nlines",
            "\ttab\r",
            "nul\0bell\u{7}",
            "del\u{7f}nel\u{85}",
            "ls\u{2028}ps\u{2029}bom\u{feff}",
            "umlaut ä, snow ☃, crab 🦀",
            "beyond \u{1fffe}",
            "}\"\n- injected: true",
        ] {
            let written = quoted(text);
            assert_eq!(written.lines().count(), 1, "{written}");
            let yaml = format!("value: {written}\n");
            assert_eq!(parse(&yaml)["value"].as_str(), Some(text), "{yaml}");
        }
    }

    #[test]
    fn an_item_keeps_its_lines_together() {
        let list = format!("{}{}", item("a: 1\nb:\n  c: 2\n"), item("a: 3\n"));
        let yaml = parse(&list);
        assert_eq!(yaml[0]["b"]["c"].as_integer(), Some(2));
        assert_eq!(yaml[1]["a"].as_integer(), Some(3));
    }

    #[test]
    fn a_bare_name_is_a_file_of_the_current_folder() {
        assert_eq!(folder_of(Path::new("a.yaml")), Path::new("."));
        assert_eq!(folder_of(Path::new("/etc/a.yaml")), Path::new("/etc"));
    }

    #[test]
    fn indenting_leaves_empty_lines_empty() {
        assert_eq!(indented("a\n\nb\n", 2), "  a\n\n  b\n");
    }
}
