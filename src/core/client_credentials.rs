//! The names of headers and query parameters in which clients send credentials. None of them may reach a backend.

/// Whether a header of this name carries a client's credential.
///
/// These are `cookie` and the headers whose names end with `authorization`, `api-key`, `apikey`, `subscription-key` or
/// `access-token`. No API of Azure OpenAI uses headers with these names for anything else.
///
/// - The openai SDKs send `authorization` or `api-key`.
/// - Anthropic's SDK sends `x-api-key`, and Google's `x-goog-api-key`.
/// - API Management's clients send `ocp-apim-subscription-key`.
/// - Other gateways use `apikey` or `x-NAME-api-key`.
/// - Proxies get `proxy-authorization`, and those with a sign-in add `x-forwarded-access-token`.
///
/// A cookie belongs to the gateway's site, or another backend has set it, since SDKs keep cookies. Azure OpenAI needs
/// none.
#[inline]
pub fn is_credential_header(name: &[u8]) -> bool {
    // Every header of every request is looked up here. The last letter rules out most headers.
    match name {
        b"cookie" => true,
        [.., b'y' | b'n'] => is_credential(name),
        _ => false,
    }
}

/// Whether a query parameter with this decoded name carries a client's credential.
///
/// The names are those of headers in any case, and `key`. Browsers cannot set headers of a WebSocket, so openai's SDK
/// sends `api-key` or `Authorization` in the query there.
pub(super) fn is_credential_parameter(name: &[u8]) -> bool {
    is_credential(name) || name.eq_ignore_ascii_case(b"key")
}

#[inline(never)]
fn is_credential(name: &[u8]) -> bool {
    const KEY: u32 = end(b"-key");
    const OTHER_KEY: u32 = end(b"_key");
    const API_KEY: u32 = end(b"ikey");
    const AUTHORIZATION: u32 = end(b"tion");
    const TOKEN: u32 = end(b"oken");
    let words: &[&[u8]] = match name.last_chunk().map(end) {
        Some(KEY | OTHER_KEY) => &[b"api-key", b"subscription-key"],
        Some(API_KEY) => &[b"apikey"],
        Some(AUTHORIZATION) => &[b"authorization"],
        Some(TOKEN) => &[b"access-token"],
        _ => return false,
    };
    words.iter().any(|word| ends_with_word(name, word))
}

/// The last four letters of a name as a number, regardless of case.
const fn end(letters: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*letters) | u32::from_le_bytes([0x20; 4])
}

/// Whether `name` is this word, or ends with it after a separator. Ignores case and the difference between `_` and `-`.
fn ends_with_word(name: &[u8], word: &[u8]) -> bool {
    let at = name.len().checked_sub(word.len());
    let Some((before, end)) = at.and_then(|at| name.split_at_checked(at)) else {
        return false;
    };
    let same = |(byte, expected): (&u8, &u8)| match byte {
        b'_' => *expected == b'-',
        byte => byte.to_ascii_lowercase() == *expected,
    };
    end.iter().zip(word).rev().all(same)
        && before
            .last()
            .is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_headers_are_recognized_by_their_last_word() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cf-aig-authorization",
            "api-key",
            "x-api-key",
            "x-goog-api-key",
            "x-litellm-api-key",
            "api_key",
            "x_api-key",
            "apikey",
            "ocp-apim-subscription-key",
            "subscription-key",
            "access-token",
            "x-forwarded-access-token",
            "x-ms-token-aad-access-token",
            "cookie",
        ] {
            assert!(is_credential_header(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn other_headers_are_not_credentials() {
        for name in [
            "",
            "n",
            "y",
            "-",
            ":authority",
            "idempotency-key",
            "key",
            "x-api-key-hint",
            "api-keys",
            "xapi-key",
            "myapikey",
            "token",
            "sec-websocket-key",
            "x-stainless-runtime-version",
            "content-encoding",
            "connection",
            "preauthorization",
            "cookies",
            "x-no-cookie",
            "traceparent",
        ] {
            assert!(!is_credential_header(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn credential_parameters_are_recognized_in_any_case() {
        for name in [
            "api-key",
            "API-Key",
            "api_key",
            "apikey",
            "subscription-key",
            "Subscription-Key",
            "Authorization",
            "access_token",
            "key",
            "KEY",
        ] {
            assert!(is_credential_parameter(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "api-version",
            "deployment",
            "model",
            "after",
            "metadata[key]",
            "call_id",
            "keys",
        ] {
            assert!(!is_credential_parameter(name.as_bytes()), "{name}");
        }
    }
}
