//! Requests whose paths are not Azure OpenAI's.

use super::fields::plugin;
use super::reader::{refused, Object, Problems};
use crate::prelude::*;

/// The treatment of requests whose paths are not Azure OpenAI's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OtherPaths {
    /// The filter answers them with 404.
    #[default]
    Refuse,
    /// The filter sends them to a backend and does not retry them.
    Pass,
    /// The filter sends requests below these paths, such as `/providers/`, to a backend. It answers others with 404.
    Below(Vec<String>),
}

impl OtherPaths {
    /// Whether the filter sends a request for `path` to a backend. `path` is not one of Azure OpenAI's.
    pub fn pass(&self, path: &str) -> bool {
        let roots = match self {
            Self::Refuse => return false,
            Self::Pass => return true,
            Self::Below(roots) => roots,
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        // Azure ignores the case of the fixed parts of a path.
        let is_below = |root: &String| {
            let start = path.as_bytes().get(..root.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(root.as_bytes()))
        };
        // A backend may resolve such a path to one outside the root.
        let leads_out = path.contains(['\\', '%']) || path.split('/').any(|part| part == "..");
        !leads_out && roots.iter().any(is_below)
    }
}

#[inline(never)]
pub(super) fn read_other_paths(root: &mut Object<'_>, problems: &Problems) -> OtherPaths {
    let field = plugin::OTHER_PATHS;
    let Some(value) = root.value(field.name) else {
        return OtherPaths::Refuse;
    };
    match value.as_str() {
        Some("refuse") => return OtherPaths::Refuse,
        Some("pass") => return OtherPaths::Pass,
        _ => {}
    }
    let mut roots = Vec::new();
    for (path, value) in root.list(field.name, value, field.form) {
        match value.as_str().filter(|text| is_root(text)) {
            Some(text) => roots.push(text.to_owned()),
            None => {
                let form = r#"the beginning of a path, from "/" to "/", such as "/providers/""#;
                problems.add(&path, refused(value, form));
            }
        }
    }
    OtherPaths::Below(roots)
}

/// Whether a text is an absolute path that ends in a slash.
fn is_root(text: &str) -> bool {
    let inner = text
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'));
    inner.is_some_and(|inner| inner.split('/').all(is_segment))
}

/// Whether a text is a segment of a path that needs no decoding.
fn is_segment(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(is_plain)
}
