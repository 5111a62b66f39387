//! Credentials of clients, wherever they stand in a request: none reaches a backend. With the filter engine.

use mock_host::Headers;

use super::support::*;

/// Headers and trailers in which clients send credentials.
pub(crate) const CREDENTIALS: [&str; 10] = [
    "authorization",
    "api-key",
    "ocp-apim-subscription-key",
    "x-api-key",
    "x-goog-api-key",
    "apikey",
    "proxy-authorization",
    "x-forwarded-access-token",
    "cookie",
    "cookie",
];

/// Query parameters in which clients send them.
pub(crate) const PARAMETERS: &str =
    "api-key=CLIENT-KEY&Authorization=Bearer%20CLIENT-KEY&access_token=CLIENT-KEY&key=CLIENT-KEY";

/// A client's chat request with every credential there is.
pub(crate) fn chat_with_credentials() -> Headers {
    let path = PATH.replace('?', &format!("?{PARAMETERS}&"));
    let mut headers = chat_of(BODY.len()).replaced(":path", &path);
    for name in CREDENTIALS {
        headers.add(name, "CLIENT-KEY");
    }
    headers
}

/// What a backend is sent has one credential, the gateway's, and the path as it is without the client's.
pub(crate) fn assert_clean(headers: &Headers) {
    let all = format!("{headers:?}");
    for (name, value) in headers.iter() {
        let secret = value.windows(6).any(|part| part == b"CLIENT");
        assert!(!secret, "{name}: {all}");
    }
    assert_eq!(headers.get("authorization"), Some("Bearer TOKEN-ONE"));
    assert_eq!(headers.get(":path"), Some(PATH));
    assert_eq!(headers.get("x-stainless-lang"), Some("python"));
}

#[test]
fn no_credential_of_a_client_reaches_a_backend_on_any_attempt() {
    let (_host, vm) = ready();
    let stream = vm.request(chat_with_credentials(), false);
    stream.body(BODY, true);
    assert_clean(&stream.forwarded().unwrap().headers);
    respond(&stream, 500, "x");
    assert_clean(&vm.call().headers);
    vm.answer_locally(&vm.call(), 503);
    assert_clean(&vm.call().headers);
}

#[test]
fn no_credential_of_a_client_stands_in_the_trailers() {
    let (_host, vm) = ready();
    let stream = vm.request(chat(), false);
    stream.body("body", false);
    let mut trailers = Headers::from([("x-checksum", "1234")]);
    for name in CREDENTIALS {
        trailers.add(name, "CLIENT-KEY");
    }
    stream.trailers(trailers);
    let kept: Headers = [("x-checksum", "1234")].into();
    assert_eq!(stream.forwarded().unwrap().trailers, Some(kept.clone()));
    respond(&stream, 500, "x");
    assert_eq!(vm.call().trailers, kept);
}

#[test]
fn a_websocket_session_carries_no_credential_of_the_client() {
    let (_host, vm) = ready();
    let path = format!("/openai/v1/realtime?{PARAMETERS}&model=gpt-4o");
    let headers = chat_with_credentials()
        .replaced(":method", "GET")
        .replaced(":path", &path)
        .with("upgrade", "websocket");
    let forwarded = vm.request(headers, false).forwarded().unwrap().headers;
    assert_eq!(
        forwarded.get(":path"),
        Some("/openai/v1/realtime?model=gpt-4o")
    );
    assert!(!format!("{forwarded:?}").contains("CLIENT-KEY"));
    assert_eq!(forwarded.get("cookie"), None);
    assert_eq!(forwarded.get("x-api-key"), None);
}
