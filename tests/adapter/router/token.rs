//! The wait for the first token, and a token that expires between two attempts.

use mock_host::Fault;
use serde_json::json;

use super::*;

fn waiting() -> Gateway {
    Engine::Router.tokenless(3, json!({}))
}

#[test]
fn a_request_without_a_body_waits_too() {
    let gateway = waiting();
    let request = gateway.request(chat(), true);
    gateway.host.advance(millis(100));
    assert_eq!(request.forwarded(), None);
    give_token(&gateway.vm, TOKEN);
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "east", "1", "hello"));
}

#[test]
fn a_request_whose_clients_key_cannot_be_removed_does_not_leave() {
    for name in ["authorization", "api-key"] {
        let gateway = Engine::Router.gateway();
        gateway
            .host
            .inject(Fault::of("proxy_replace_header_map_value").on(name));
        gateway
            .host
            .inject(Fault::of("proxy_remove_header_map_value").on(name));
        let request = gateway.send();
        assert_eq!(request.attempts().len(), 0);
        assert_eq!(request.answer().status, 500);
        assert_eq!(code(request.answer().text()), "gateway_error");
    }
}

#[test]
fn a_retry_that_cannot_be_readdressed_does_not_leave() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    gateway
        .host
        .inject(Fault::of("proxy_replace_header_map_value").on(":authority"));
    answer(&request.attempt(), 429, "busy");
    assert_eq!(request.clusters(), ["aoai_east"]);
    assert!(request.answer().status >= 429);
    assert_eq!(request.answer().headers.get("x-aoai-retry"), None);
}

#[test]
fn a_retry_after_the_token_expired_names_its_own_backend() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    gateway.host.skip(seconds(3601));
    gateway.vm.tick();
    answer(&request.attempt(), 429, "busy");
    let left: Vec<_> = request.attempts();
    for attempt in left.iter().filter(|attempt| attempt.sent().is_some()) {
        let host = attempt.cluster().replace("aoai_", "") + ".openai.azure.com";
        assert_eq!(attempt.header(":authority"), Some(host));
    }
}
