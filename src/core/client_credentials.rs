//! Names of the headers and query parameters in which clients send credentials. None of them may reach a backend.

/// Whether a header of this name carries a client's credential.
///
/// These are the headers whose names end with the word `authorization`, `api-key`, `apikey`, `subscription-key` or `access-token`,
/// and `cookie`. The openai SDKs send `authorization` or `api-key`, Anthropic's `x-api-key`, Google's `x-goog-api-key`, API
/// Management's clients `ocp-apim-subscription-key`, other gateways' `apikey` or `x-NAME-api-key`; proxies are sent
/// `proxy-authorization`, and those that sign users in add `x-forwarded-access-token`. No API of Azure OpenAI takes a header of
/// these names for anything else.
///
/// A cookie belongs to the gateway's site, or was set by another backend: SDKs keep cookies. Azure OpenAI needs none.
#[inline]
pub fn is_credential_header(name: &[u8]) -> bool {
    // This is asked of every header of every request: of most the last letter is enough to see.
    match name {
        b"cookie" => true,
        [.., b'y' | b'n'] => is_credential(name),
        _ => false,
    }
}

/// Whether a query parameter of this name, decoded, carries a client's credential.
///
/// The names are those of headers, in upper or lower case, and `key`. A WebSocket of a browser has no headers of its own, so
/// openai's SDK sends `api-key` or `Authorization` in the query there.
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

/// The last four letters of a name as a number, the same for upper and lower case.
const fn end(letters: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*letters) | u32::from_le_bytes([0x20; 4])
}

/// Whether `name` is this word, or ends with it behind a mark. Upper and lower case are the same, `_` and `-` as well.
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
    fn headers_with_credentials_are_known_by_their_last_word() {
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
    fn other_headers_are_not_taken_for_credentials() {
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
    fn parameters_with_credentials_are_known_in_any_case() {
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
