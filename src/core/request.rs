//! What the filter needs to know of a client's request, read from its headers in one pass.

use std::borrow::Cow;

use super::path;
use super::shared::fingerprint;

/// Headers that carry a client's credentials: the openai SDKs send `api-key` or `authorization`, API Management's clients
/// `ocp-apim-subscription-key`. None of them may reach a backend.
const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "api-key", "ocp-apim-subscription-key"];

/// Query parameters that carry a client's credentials, in lower case.
const CREDENTIAL_PARAMETERS: [&str; 2] = ["api-key", "subscription-key"];

/// The facts of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `:path` without the client's credentials, if it had any.
    pub clean_path: Option<String>,
    /// The deployment the path names, as a fingerprint.
    pub deployment: Option<u64>,
    /// The size of the body, where the client announced it.
    pub content_length: Option<u64>,
    /// The client asks to switch to another protocol.
    pub upgrade: bool,
    /// All header values are UTF-8, the only form in which a call of the filter's own can carry them.
    pub headers_are_utf8: bool,
    credential_headers: u8,
}

impl Request {
    /// Reads the facts from the request's headers, names in lower case.
    pub fn read<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut request = Self {
            headers_are_utf8: true,
            ..Self::default()
        };
        for (name, value) in headers {
            let text = std::str::from_utf8(value);
            request.headers_are_utf8 &= text.is_ok();
            match name {
                b":path" => {
                    request.clean_path = text.ok().and_then(without_credentials);
                    request.deployment = text.ok().and_then(deployment_in).map(deployment_id);
                }
                b"content-length" => {
                    request.content_length = text.ok().and_then(|text| text.parse().ok());
                }
                b"upgrade" => request.upgrade = true,
                name => {
                    for (bit, credential) in CREDENTIAL_HEADERS.iter().enumerate() {
                        if name == credential.as_bytes() {
                            request.credential_headers |= 1 << bit;
                        }
                    }
                }
            }
        }
        request
    }

    /// The path without the client's credentials, where `original` is the one with them.
    pub fn path<'a>(&'a self, original: &'a str) -> &'a str {
        self.clean_path.as_deref().unwrap_or(original)
    }

    /// The headers of this request that carry a client's credentials.
    pub fn credential_headers(&self) -> impl Iterator<Item = &'static str> + use<'_> {
        CREDENTIAL_HEADERS
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| self.credential_headers & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

/// The deployment that `path` names.
pub fn deployment_in(path: &str) -> Option<&str> {
    path.get(path::deployment(path)?)
}

/// What stands for a deployment's name, so that nothing needs to be compared or kept by letters.
pub fn deployment_id(name: &str) -> u64 {
    fingerprint([name].into_iter())
}

/// Whether `name`, in lower case, is a header that carries a client's credentials.
pub(super) fn is_credential_header(name: &str) -> bool {
    CREDENTIAL_HEADERS.contains(&name)
}

/// `path` without the query parameters that carry credentials; `None` if it has none, which is the usual case.
fn without_credentials(path: &str) -> Option<String> {
    let (target, query) = path.split_once('?')?;
    if !query.split('&').any(is_credential_parameter) {
        return None;
    }
    let mut clean = target.to_owned();
    let mut separator = '?';
    for parameter in query.split('&').filter(|p| !is_credential_parameter(p)) {
        clean.push(separator);
        clean.push_str(parameter);
        separator = '&';
    }
    Some(clean)
}

fn is_credential_parameter(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    // The backend would decode the name, so it is compared decoded.
    let name = percent_decoded(name);
    CREDENTIAL_PARAMETERS
        .iter()
        .any(|credential| name.eq_ignore_ascii_case(credential.as_bytes()))
}

fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match (byte, hex) {
            (b'%', Some(value)) => {
                decoded.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &[u8])]) -> Request {
        Request::read(
            headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), *value)),
        )
    }

    #[test]
    fn a_request_without_credentials_is_left_alone() {
        let request = read(&[
            (":method", b"POST"),
            (
                ":path",
                b"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            ),
            ("content-length", b"123"),
            ("x-api-key-hint", b"none"),
        ]);
        assert_eq!(request.clean_path, None);
        assert_eq!(request.content_length, Some(123));
        assert_eq!(request.credential_headers().count(), 0);
        assert!(request.headers_are_utf8 && !request.upgrade);
    }

    #[test]
    fn the_deployment_is_the_one_the_path_names() {
        let of =
            |path: &str| Request::read([(&b":path"[..], path.as_bytes())].into_iter()).deployment;
        assert_eq!(of("/openai/deployments/a/x"), Some(deployment_id("a")));
        assert_ne!(deployment_id("a"), deployment_id("b"));
        assert_eq!(of("/openai/v1/responses"), None);
    }

    #[test]
    fn every_credential_header_is_found() {
        let request = read(&[
            ("ocp-apim-subscription-key", b"k"),
            ("api-key", b"k"),
            ("authorization", b"Bearer k"),
        ]);
        let names: Vec<_> = request.credential_headers().collect();
        assert_eq!(names, CREDENTIAL_HEADERS);
        assert_eq!(
            read(&[("api-key", b"k")]).credential_headers().next(),
            Some("api-key")
        );
    }

    #[test]
    fn credentials_leave_the_query_and_nothing_else_does() {
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
            ("/p?%zz=1&%=2&api-key=K", Some("/p?%zz=1&%=2")),
        ] {
            assert_eq!(without_credentials(path).as_deref(), clean, "{path}");
        }
    }

    #[test]
    fn upgrades_and_odd_bytes_are_noticed() {
        assert!(read(&[("upgrade", b"websocket")]).upgrade);
        assert!(!read(&[("x-name", b"caf\xe9")]).headers_are_utf8);
        assert_eq!(read(&[("content-length", b"many")]).content_length, None);
    }
}
