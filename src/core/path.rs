//! What a backend calls things: the path of an attempt, made from the client's.
//!
//! Azure's dated API names the deployment in the path and its own version in the query,
//! `/openai/deployments/NAME/chat/completions?api-version=2024-10-21`; the v1 API names neither.

use std::borrow::Cow;
use std::ops::Range;

use super::config::Backend;

const V1: &str = "/openai/v1/";
const API_VERSION: &str = "api-version";

/// The path that `backend` is to be asked for, where the client asked for `path`: its own name for the deployment, its own
/// version of the API, below its own base path. All else stays as it is, byte for byte.
pub fn on_backend<'p>(path: &'p str, backend: &Backend) -> Cow<'p, str> {
    let mut path = Cow::Borrowed(path);
    // From the back, so that what is in front stays where it is.
    if let Some(version) = backend.api_version.as_deref().filter(|_| is_dated(&path)) {
        path = match api_version(&path) {
            Some(range) => splice(&path, range, version),
            None => {
                let separator = if path.contains('?') { '&' } else { '?' };
                format!("{path}{separator}{API_VERSION}={version}").into()
            }
        };
    }
    let alias = deployment(&path).and_then(|range| {
        let name = path.get(range.clone())?;
        Some((range, backend.deployments.aliases.get(name)?))
    });
    if let Some((range, alias)) = alias {
        path = splice(&path, range, alias);
    }
    match &backend.base_path {
        Some(base) => format!("{base}{path}").into(),
        None => path,
    }
}

/// Where a path of the dated API names the deployment.
pub fn deployment(path: &str) -> Option<Range<usize>> {
    const BEFORE: &str = "/deployments/";
    let target = path.split_once('?').map_or(path, |(target, _)| target);
    let start = target.find(BEFORE)?.checked_add(BEFORE.len())?;
    let rest = target.get(start..)?;
    let length = rest.find('/').unwrap_or(rest.len());
    (length > 0).then(|| start..start.saturating_add(length))
}

fn is_dated(path: &str) -> bool {
    path.starts_with("/openai/") && !path.starts_with(V1)
}

/// Where a query says the version of the API.
fn api_version(path: &str) -> Option<Range<usize>> {
    let (target, query) = path.split_once('?')?;
    let mut start = target.len().checked_add(1)?;
    for parameter in query.split('&') {
        if let Some(value) = parameter
            .strip_prefix(API_VERSION)
            .and_then(|rest| rest.strip_prefix('='))
        {
            let end = start.checked_add(parameter.len())?;
            return Some(end.checked_sub(value.len())?..end);
        }
        start = start.checked_add(parameter.len())?.checked_add(1)?;
    }
    None
}

fn splice<'p>(path: &str, range: Range<usize>, with: &str) -> Cow<'p, str> {
    let mut path = path.to_owned();
    path.replace_range(range, with);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(aliases: &[(&str, &str)], api_version: Option<&str>, base: Option<&str>) -> Backend {
        let mut backend = Backend {
            api_version: api_version.map(str::to_owned),
            base_path: base.map(str::to_owned),
            ..Backend::default()
        };
        let aliases = aliases.iter();
        backend.deployments.aliases = aliases
            .map(|(client, backend)| ((*client).to_owned(), (*backend).to_owned()))
            .collect();
        backend
    }

    #[test]
    fn a_backend_without_names_of_its_own_is_asked_as_the_client_asks() {
        let plain = backend(&[], None, None);
        for path in [
            "/openai/deployments/a/x?api-version=1",
            "/",
            "",
            "*",
            "/openai/deployments//?&",
        ] {
            assert!(matches!(on_backend(path, &plain), Cow::Borrowed(same) if same == path));
        }
    }

    #[test]
    fn only_the_deployments_segment_changes() {
        let aliased = backend(&[("gpt-4o", "gpt4o-eu"), ("a", "gpt-4o")], None, None);
        for (path, expected) in [
            (
                "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&x=gpt-4o",
                "/openai/deployments/gpt4o-eu/chat/completions?api-version=2024-10-21&x=gpt-4o",
            ),
            ("/openai/deployments/gpt-4o", "/openai/deployments/gpt4o-eu"),
            (
                "/openai/deployments/gpt-4o?a=/b/",
                "/openai/deployments/gpt4o-eu?a=/b/",
            ),
            (
                "/openai/deployments/a/gpt-4o",
                "/openai/deployments/gpt-4o/gpt-4o",
            ),
            (
                "/openai/deployments/gpt-4o-mini/x",
                "/openai/deployments/gpt-4o-mini/x",
            ),
            (
                "/openai/deployments/GPT-4o/x",
                "/openai/deployments/GPT-4o/x",
            ),
            ("/openai/v1/models/gpt-4o", "/openai/v1/models/gpt-4o"),
            (
                "/openai/files?x=/deployments/gpt-4o/",
                "/openai/files?x=/deployments/gpt-4o/",
            ),
        ] {
            assert_eq!(on_backend(path, &aliased), expected, "{path}");
        }
    }

    #[test]
    fn only_the_dated_apis_version_changes() {
        let versioned = backend(&[], Some("2025-01-01"), None);
        for (path, expected) in [
            (
                "/openai/x?api-version=1",
                "/openai/x?api-version=2025-01-01",
            ),
            (
                "/openai/x?a=1&api-version=&b=2",
                "/openai/x?a=1&api-version=2025-01-01&b=2",
            ),
            ("/openai/x", "/openai/x?api-version=2025-01-01"),
            ("/openai/x?a=1", "/openai/x?a=1&api-version=2025-01-01"),
            (
                "/openai/x?xapi-version=1&api-versions=2",
                "/openai/x?xapi-version=1&api-versions=2&api-version=2025-01-01",
            ),
            (
                "/openai/v1/x?api-version=preview",
                "/openai/v1/x?api-version=preview",
            ),
            ("/openai/v1/x", "/openai/v1/x"),
            ("/health", "/health"),
        ] {
            assert_eq!(on_backend(path, &versioned), expected, "{path}");
        }
    }

    #[test]
    fn all_at_once() {
        let backend = backend(&[("d", "longer")], Some("9"), Some("/api/projects/p"));
        assert_eq!(
            on_backend("/openai/deployments/d/x?api-version=2024-10-21&y", &backend),
            "/api/projects/p/openai/deployments/longer/x?api-version=9&y"
        );
        assert_eq!(
            on_backend("/openai/v1/responses", &backend),
            "/api/projects/p/openai/v1/responses"
        );
    }

    #[test]
    fn the_deployment_is_found_where_there_is_one() {
        for (path, name) in [
            ("/openai/deployments/gpt-4o/chat?x", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o?x", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o", Some("gpt-4o")),
            ("/openai/deployments/ü/x", Some("ü")),
            ("/openai/deployments/", None),
            ("/openai/deployments//x", None),
            ("/openai/deployments?x=/deployments/y", None),
            ("/openai/v1/chat/completions", None),
        ] {
            let found = deployment(path).and_then(|range| path.get(range));
            assert_eq!(found, name, "{path}");
        }
    }
}
