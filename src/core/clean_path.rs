//! Removes the parts of a path that no backend may get: the client's credentials and the tags of ids.

use super::client_credentials::is_credential_parameter;
use super::operation::Path;
use super::state::ids::{split as split_id, Tags};
use super::text::{percent_decoded, split, split_once};
use crate::prelude::*;

/// `path` without query parameters that carry credentials. `None` if it has none, as usual.
pub(super) fn without_credentials(path: &Path<'_>) -> Option<String> {
    let parameters = split(path.query?, b'&');
    let is_credential = |parameter: &&str| {
        let name = split_once(parameter, b'=').map_or(*parameter, |(name, _)| name);
        // The backend decodes names, so they are compared decoded.
        match path.has_escape {
            true => is_credential_parameter(&percent_decoded(name)),
            false => is_credential_parameter(name.as_bytes()),
        }
    };
    if !parameters
        .clone()
        .any(|parameter| is_credential(&parameter))
    {
        return None;
    }
    let mut clean = path.target.to_owned();
    let mut separator = '?';
    for parameter in parameters.filter(|parameter| !is_credential(parameter)) {
        clean.push(separator);
        clean.push_str(parameter);
        separator = '&';
    }
    Some(clean)
}

/// `path` without tags of ids, and the backends that the tags name. `None` if it has none, as usual.
pub(super) fn without_tags(path: &Path<'_>, tags: &Tags) -> Option<(String, Vec<usize>)> {
    // Every tag has a dot, and most paths have none.
    if !path.has_dot {
        return None;
    }
    let (mut clean, mut backends) = (String::new(), Vec::new());
    // A tag is at the end of a segment or of a query value.
    for part in path.text.split_inclusive(['/', '?', '&', '=', '#']) {
        let (text, separator) = match part.char_indices().last() {
            Some((at, '/' | '?' | '&' | '=' | '#')) => part.split_at_checked(at)?,
            _ => (part, ""),
        };
        let known = split_id(text).and_then(|(id, tag)| Some((id, tags.backend_of(tag)?)));
        match known {
            Some((id, backend)) => {
                clean.push_str(id);
                backends.push(backend);
            }
            None => clean.push_str(text),
        }
        clean.push_str(separator);
    }
    (!backends.is_empty()).then_some((clean, backends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ids::Tag;

    #[test]
    fn only_credentials_are_removed_from_the_query() {
        for (path, clean) in [
            ("/p?api-version=1", None),
            ("/p", None),
            ("/p?", None),
            ("/p?api-keys=1&xapi-key=2", None),
            ("/p?x=api-key", None),
            ("/p?api-key=K", Some("/p")),
            ("/p?api-key=K&api-version=1", Some("/p?api-version=1")),
            ("/p?api-version=1&api-key=K", Some("/p?api-version=1")),
            ("/p?a=1&api-key=K&b=%20&c", Some("/p?a=1&b=%20&c")),
            ("/p?a=1&API-Key=K", Some("/p?a=1")),
            ("/p?a=1&api%2Dkey=K", Some("/p?a=1")),
            ("/p?a=1&%61pi%2dkey", Some("/p?a=1")),
            ("/p?api-key=K&api-key=L", Some("/p")),
            ("/p?subscription-key=K&a=1", Some("/p?a=1")),
            ("/p?Authorization=Bearer%20K&a=1", Some("/p?a=1")),
            ("/p?a=1&access_token=K", Some("/p?a=1")),
            ("/p?key=K&Key=K&%6Bey&monkey=1", Some("/p?monkey=1")),
            ("/p?x-api-key=K&api_key=K&apikey", Some("/p")),
            ("/p?%zz=1&%=2&api-key=K", Some("/p?%zz=1&%=2")),
        ] {
            assert_eq!(
                without_credentials(&Path::of(path)).as_deref(),
                clean,
                "{path}"
            );
        }
    }

    #[test]
    fn tags_are_removed_and_name_backends() {
        let hosts = ["a.example", "b.example"];
        let tags = Tags::new(hosts).unwrap();
        let [a, b] = hosts.map(|host| Tag::of(host).as_str().to_owned());
        for (path, expected) in [
            (
                format!("/openai/v1/responses/resp_1{a}"),
                Some(("/openai/v1/responses/resp_1", vec![0])),
            ),
            (
                format!("/openai/files/file-1{b}/content?api-version=1"),
                Some(("/openai/files/file-1/content?api-version=1", vec![1])),
            ),
            (
                format!("/openai/files?after=file-1{b}&limit=2"),
                Some(("/openai/files?after=file-1&limit=2", vec![1])),
            ),
            (
                format!("/openai/threads/thread_1{a}/runs/run_2?x=resp_3{b}"),
                Some(("/openai/threads/thread_1/runs/run_2?x=resp_3", vec![0, 1])),
            ),
            (format!("/x{a}y/z"), None),
            ("/openai/files/file-1.b000000".to_owned(), None),
            ("/ü?é=ö".to_owned(), None),
            (String::new(), None),
        ] {
            let found = without_tags(&Path::of(&path), &tags);
            let found = found
                .as_ref()
                .map(|(clean, on)| (clean.as_str(), on.clone()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
