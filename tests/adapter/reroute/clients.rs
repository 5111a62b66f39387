//! Clients by the names that a filter before this one gave them.

use super::*;

#[test]
fn no_attempt_says_who_the_client_is_and_its_name_is_kept() {
    let mut config = routing(json!({}));
    config["headers"] = json!({"client": "x-aoai-client"});
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    let headers = chat_of(BODY.len()).with("x-aoai-client", "app-1");
    let request = gateway.router.request(headers, false);
    request.body(BODY, true);
    assert_eq!(sent(&request.attempt(), "x-aoai-client"), None);
    answer(&request.attempt(), 429, "busy");
    assert_eq!(sent(&request.attempt(), "x-aoai-client"), None);
    answer(&request.attempt(), 200, "fine");
    assert_eq!(outcome(&request), is(200, "west", "2", "fine"));
    assert_eq!(
        request.property("aoai_client").as_deref(),
        Some(&b"app-1"[..])
    );
    assert_eq!(gateway.counted("aoai.client.app-1.requests"), 1);
}
