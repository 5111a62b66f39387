//! Credentials of clients, with the router engine.

use mock_host::Headers;

use super::*;
use crate::adapter::credentials::{assert_clean, chat_with_credentials, CREDENTIALS};

#[test]
fn no_credential_of_a_client_reaches_a_backend_on_any_attempt() {
    let gateway = gateway();
    let request = gateway.router.request(chat_with_credentials(), false);
    request.body(BODY, true);
    for status in [500, 429, 200] {
        let attempt = request.attempt();
        assert_clean(&attempt.sent().expect("it left").headers);
        answer(&attempt, status, "x");
    }
    assert_eq!(outcome(&request).0, 200);
}

#[test]
fn no_credential_of_a_client_stands_in_the_trailers() {
    let gateway = gateway();
    let request = gateway.router.request(chat(), false);
    request.body("body", false);
    let mut trailers = Headers::from([("x-checksum", "1234")]);
    for name in CREDENTIALS {
        trailers.add(name, "CLIENT-KEY");
    }
    request.trailers(trailers);
    let kept: Headers = [("x-checksum", "1234")].into();
    for status in [429, 200] {
        let attempt = request.attempt();
        assert_eq!(attempt.sent().unwrap().trailers, Some(kept.clone()));
        answer(&attempt, status, "x");
    }
}
