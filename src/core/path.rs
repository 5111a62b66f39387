//! The path of an attempt, derived from the client's path and the backend's names.
//!
//! Azure's dated API has the deployment in the path and its version in the query, as in
//! `/openai/deployments/NAME/chat/completions?api-version=2024-10-21`. The v1 API has neither.

use alloc::borrow::Cow;

use super::config::Backend;
use super::operation::{deployment_name, parameters, Deployment, Surface};
use super::splices::Splices;
use crate::prelude::*;

const API_VERSION: &str = "api-version";

/// The path for `backend`, where the client's `path` is on this surface and has this `deployment`. It has the backend's
/// own deployment name, API version and base path. Everything else stays unchanged, byte for byte. Azure decodes the
/// names of deployments and parameters, and ignores their case.
pub fn on_backend<'p>(
    path: &'p str,
    surface: Option<Surface>,
    deployment: &Deployment,
    backend: &Backend,
) -> Cow<'p, str> {
    let Some(surface) = surface else {
        return path.into();
    };
    let mut splices = Splices::default();
    // The replaced ranges do not overlap, so replacing cannot fail.
    if let Deployment::InPath(range) = deployment {
        let name = deployment_name(path, range.clone()).unwrap_or_default();
        if let Some(alias) = backend.deployments.alias(&name) {
            let _ = splices.replace(range.clone(), alias.as_bytes());
        }
    }
    let mut added = String::new();
    if let (Surface::Dated, Some(version)) = (surface, &backend.api_version) {
        let versioned = format!("{API_VERSION}={version}");
        let mut given = parameters(path, API_VERSION);
        match given.next() {
            Some(range) => {
                let _ = splices.replace(range, versioned.as_bytes());
            }
            None => {
                let separator = if path.contains('?') { '&' } else { '?' };
                added = format!("{separator}{versioned}");
            }
        }
        for range in given {
            // Azure rejects two versions. The separator before it is cut too.
            let _ = splices.cut(range.start.saturating_sub(1)..range.end);
        }
    }
    if splices.is_empty() && added.is_empty() && base_path(surface, backend).is_none() {
        return path.into();
    }
    let spliced = String::from_utf8(splices.apply(path.as_bytes()));
    // The replaced parts are whole characters, so the result is valid UTF-8.
    let path = spliced.unwrap_or_else(|_| path.to_owned());
    let base = base_path(surface, backend).unwrap_or_default();
    [base, &path, &added].concat().into()
}

/// The base path of a surface on this backend. Claude is served by the host, not by one of its projects.
fn base_path(surface: Surface, backend: &Backend) -> Option<&str> {
    const PROJECTS: &str = "/api/projects/";
    let base = backend.base_path.as_deref()?;
    let is_below = surface != Surface::Anthropic || !base.starts_with(PROJECTS);
    is_below.then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{surface, Operation, Path};

    fn on_backend<'p>(path: &'p str, backend: &Backend) -> Cow<'p, str> {
        let parts = Path::of(path);
        let operation = Operation::read("POST", &parts);
        super::on_backend(path, surface(&parts), &operation.deployment, backend)
    }

    fn backend(aliases: &[(&str, &str)], api_version: Option<&str>, base: Option<&str>) -> Backend {
        let mut backend = Backend {
            api_version: api_version.map(str::to_owned),
            base_path: base.map(str::to_owned),
            ..Backend::default()
        };
        for (name, own) in aliases {
            backend.deployments.add(name, own);
        }
        backend
    }

    #[test]
    fn claude_is_not_below_a_project() {
        let path = "/anthropic/v1/messages?beta=true";
        let project = backend(&[], Some("9"), Some("/api/projects/p"));
        assert_eq!(on_backend(path, &project), path);
        let gateway = backend(&[], None, Some("/gateway"));
        assert_eq!(on_backend(path, &gateway), ["/gateway", path].concat());
    }

    #[test]
    fn paths_stay_unchanged_without_own_names() {
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
    fn only_the_deployment_segment_changes() {
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
                "/openai/deployments/gpt4o-eu/x",
            ),
            (
                "/OpenAI/Deployments/gpt%2D4O/Chat/Completions?a=%2D",
                "/OpenAI/Deployments/gpt4o-eu/Chat/Completions?a=%2D",
            ),
            (
                "/openai/realtime?Deployment=GPT-4o&x=1",
                "/openai/realtime?Deployment=gpt4o-eu&x=1",
            ),
            (
                "/openai/deployments/GPT-4o-Mini/x",
                "/openai/deployments/GPT-4o-Mini/x",
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
            (
                "/openai/x?a=1&API-Version=1&b=2",
                "/openai/x?a=1&api-version=2025-01-01&b=2",
            ),
            (
                "/openai/x?api%2dversion=1",
                "/openai/x?api-version=2025-01-01",
            ),
            (
                "/openai/x?api-version&a=1",
                "/openai/x?api-version=2025-01-01&a=1",
            ),
            (
                "/openai/x?Api-Version=1&a=2&api-version=3&API-VERSION=4",
                "/openai/x?api-version=2025-01-01&a=2",
            ),
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
            ("/openai/../x", "/openai/../x"),
        ] {
            assert_eq!(on_backend(path, &versioned), expected, "{path}");
        }
    }

    #[test]
    fn paths_get_name_version_and_base_together() {
        let backend = backend(&[("d", "longer")], Some("9"), Some("/api/projects/p"));
        assert_eq!(
            on_backend("/openai/deployments/d/x?api-version=2024-10-21&y", &backend),
            "/api/projects/p/openai/deployments/longer/x?api-version=9&y"
        );
        assert_eq!(
            on_backend("/openai/v1/responses", &backend),
            "/api/projects/p/openai/v1/responses"
        );
        assert_eq!(
            on_backend(
                "/openai/realtime?API-Version=1&deployment=D&api-version=2",
                &backend
            ),
            "/api/projects/p/openai/realtime?api-version=9&deployment=longer"
        );
    }
}
