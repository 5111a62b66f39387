//! Credentials of clients, anywhere in a request: none reaches a backend.

use mock_host::Headers;

use super::engines::*;

/// Headers and trailers in which clients send credentials.
const CREDENTIALS: [&str; 10] = [
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

/// Query parameters in which clients send credentials.
const PARAMETERS: &str =
    "api-key=CLIENT-KEY&Authorization=Bearer%20CLIENT-KEY&access_token=CLIENT-KEY&key=CLIENT-KEY";

/// A client's chat request with every kind of credential.
fn chat_with_credentials() -> Headers {
    let path = PATH.replace('?', &format!("?{PARAMETERS}&"));
    let mut headers = chat_of(BODY.len()).replaced(":path", &path);
    for name in CREDENTIALS {
        headers.add(name, "CLIENT-KEY");
    }
    headers
}

/// The backend gets the gateway's credential alone, and the path without the client's.
fn assert_clean(headers: &Headers) {
    let all = format!("{headers:?}");
    for (name, value) in headers.iter() {
        let secret = value.windows(6).any(|part| part == b"CLIENT");
        assert!(!secret, "{name}: {all}");
    }
    assert_eq!(headers.get("authorization"), Some("Bearer TOKEN-ONE"));
    assert_eq!(headers.get(":path"), Some(PATH));
    assert_eq!(headers.get("x-stainless-lang"), Some("python"));
}

cases! {
    fn no_credential_of_a_client_reaches_a_backend_on_any_attempt(engine) {
        let gateway = engine.gateway();
        let request = gateway.request(chat_with_credentials(), false);
        request.body(BODY, true);
        assert_clean(&request.forwarded().unwrap().headers);
        for status in [500, 429, 200] {
            let attempt = request.attempt();
            assert_clean(&attempt.sent().unwrap().headers);
            answer(&attempt, status, "x");
        }
        assert_eq!(outcome(&request).0, 200);

        let gateway = engine.gateway();
        let request = gateway.request(chat_with_credentials(), false);
        request.body(BODY, true);
        for _ in 0..3 {
            let attempt = request.attempt();
            assert_clean(&attempt.sent().unwrap().headers);
            attempt.fail();
        }
        assert_eq!(outcome(&request).0, 503);
    }

    fn no_credential_of_a_client_stands_in_the_trailers(engine) {
        let gateway = engine.gateway();
        let request = gateway.request(chat(), false);
        request.body("body", false);
        let mut trailers = Headers::from([("x-checksum", "1234")]);
        for name in CREDENTIALS {
            trailers.add(name, "CLIENT-KEY");
        }
        request.trailers(trailers);
        let kept: Headers = [("x-checksum", "1234")].into();
        for status in [500, 429, 200] {
            let sent = request.attempt().sent().unwrap();
            assert_eq!((sent.text(), &sent.trailers), ("body", &Some(kept.clone())));
            answer(&request.attempt(), status, "x");
        }
        assert_eq!(outcome(&request), is(200, "north", "3", "x"));
    }

    fn a_websocket_session_carries_no_credential_of_the_client(engine) {
        let gateway = engine.gateway();
        let path = format!("/openai/v1/realtime?{PARAMETERS}&model=gpt-4o");
        let headers = chat_with_credentials()
            .replaced(":method", "GET")
            .replaced(":path", &path)
            .with("upgrade", "websocket");
        let forwarded = gateway
            .request(headers, false)
            .attempt()
            .sent()
            .unwrap()
            .headers;
        assert_eq!(
            forwarded.get(":path"),
            Some("/openai/v1/realtime?model=gpt-4o")
        );
        assert!(!format!("{forwarded:?}").contains("CLIENT-KEY"));
        assert_eq!(forwarded.get("cookie"), None);
        assert_eq!(forwarded.get("x-api-key"), None);
    }
}
