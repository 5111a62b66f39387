//! The surfaces of an Azure OpenAI resource, and the parts of a path that every request needs.

use core::ops::Range;

use super::text::{find, percent_decoded, split, split_once, strip_prefix};

/// The surfaces of an Azure OpenAI resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The v1 API: `/openai/v1/...`.
    V1,
    /// The dated API: `/openai/...?api-version=...`.
    Dated,
    /// Anthropic's API: `/anthropic/v1/...`.
    Anthropic,
}

pub(crate) const ROOT: &str = "/openai/";

pub(crate) const ANTHROPIC: &str = "/anthropic/";

pub(crate) const V1: &str = "v1/";

/// A path, searched once for everything that every request needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path<'p> {
    /// The whole path.
    pub text: &'p str,
    /// The part before the query.
    pub target: &'p str,
    /// The part after the first `?`.
    pub query: Option<&'p str>,
    /// Whether the path contains a dot.
    pub has_dot: bool,
    /// Whether the path contains a percent sign.
    pub has_escape: bool,
    /// Whether the target contains a dot, a percent sign or a backslash, which is rare.
    is_odd: bool,
}

impl<'p> Path<'p> {
    /// Splits and searches `text`.
    pub fn of(text: &'p str) -> Self {
        let (mut mark, mut has_dot, mut has_escape, mut is_odd) = (None, false, false, false);
        let mut start = 0_usize;
        let next = |start| find(text.as_bytes().get(start..)?, [b'?', b'.', b'%', b'\\']);
        while let Some(at) = next(start).map(|at| start.saturating_add(at)) {
            match text.as_bytes().get(at) {
                Some(b'?') => mark = mark.or(Some(at)),
                byte => {
                    has_dot |= byte == Some(&b'.');
                    has_escape |= byte == Some(&b'%');
                    is_odd |= mark.is_none();
                }
            }
            start = at.saturating_add(1);
        }
        let cut = mark.and_then(|at| Some((text.get(..at)?, text.get(at.checked_add(1)?..)?)));
        Self {
            text,
            target: cut.map_or(text, |(target, _)| target),
            query: cut.map(|(_, query)| query),
            has_dot,
            has_escape,
            is_odd,
        }
    }
}

/// The surface of a path. `None` for paths outside Azure OpenAI.
///
/// A path with `..` (`/openai/../admin`) has no surface, because the backend may resolve it differently.
pub fn surface(path: &Path<'_>) -> Option<Surface> {
    let (rest, is_anthropic) = match strip_prefix(path.target, ROOT) {
        Some(rest) => (rest, false),
        None => (strip_prefix(path.target, ANTHROPIC)?, true),
    };
    let climbs = |segment: &str| {
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        decoded == ".." || decoded == "." || decoded.contains("%2f") || decoded.contains('\\')
    };
    if path.is_odd && rest.split('/').any(climbs) {
        return None;
    }
    Some(match strip_prefix(rest, V1) {
        _ if is_anthropic => Surface::Anthropic,
        Some(_) => Surface::V1,
        None => Surface::Dated,
    })
}

/// The ranges of the query parameters with this `name` in `path`, each from its name to the end of its value.
pub fn parameters<'p>(path: &'p str, name: &'p str) -> impl Iterator<Item = Range<usize>> + 'p {
    let (target, query) = split_once(path, b'?').unwrap_or((path, ""));
    let mut end = target.len();
    split(query, b'&').filter_map(move |parameter| {
        let start = end.checked_add(1)?;
        end = start.checked_add(parameter.len())?;
        let found = split_once(parameter, b'=').map_or(parameter, |(name, _)| name);
        let is_named = percent_decoded(found).eq_ignore_ascii_case(name.as_bytes());
        is_named.then_some(start..end)
    })
}

/// The range of the value of the first query parameter with this `name` and a value.
pub(crate) fn query_value(path: &str, name: &str) -> Option<Range<usize>> {
    parameters(path, name).find_map(|parameter| {
        let (name, _) = split_once(path.get(parameter.clone())?, b'=')?;
        let start = parameter.start.checked_add(name.len())?.checked_add(1)?;
        Some(start..parameter.end)
    })
}
