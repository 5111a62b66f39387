//! A key and a token in turn: the router sends the same header map again, with what the attempt before made of it.

use super::*;

fn keyed(keyed: usize) -> Gateway {
    let mut config = routing(json!({}));
    config["backends"].as_array_mut().unwrap().truncate(2);
    config["backends"][keyed]["api_key_env"] = json!("KEY");
    let setup = Setup::new(config.to_string()).env("KEY", "THE-KEY");
    Gateway::ready(setup)
}

fn shown(attempt: &Attempt) -> [Option<String>; 2] {
    [sent(attempt, "api-key"), sent(attempt, "authorization")]
}

#[test]
fn what_the_attempt_before_was_shown_is_gone() {
    let key = || [Some("THE-KEY".to_owned()), None];
    let token = || [None, Some("Bearer TOKEN-ONE".to_owned())];
    for (first, expected) in [(0, [key(), token()]), (1, [token(), key()])] {
        let gateway = keyed(first);
        let request = gateway.send();
        assert_eq!(shown(&request.attempt()), expected[0]);
        answer(&request.attempt(), 500, "x");
        assert_eq!(shown(&request.attempt()), expected[1]);
        answer(&request.attempt(), 200, "fine");
        assert_eq!(outcome(&request), is(200, "west", "2", "fine"));
        // And after an attempt without an answer.
        let request = gateway.send();
        let before = shown(&request.attempt());
        request.attempt().fail();
        assert_ne!(shown(&request.attempt()), before);
        answer(&request.attempt(), 200, "fine");
    }
}

#[test]
fn paths_are_the_backends_own_on_every_attempt() {
    let mut config = routing(json!({}));
    config["backends"][0]["deployments"] = json!({"gpt-4o": "eastern"});
    config["backends"][1]["base_path"] = json!("/api/projects/p");
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    let request = gateway.send();
    let mut paths = Vec::new();
    for status in [500, 500, 200] {
        let attempt = request.attempt();
        paths.push(sent(&attempt, ":path").unwrap());
        answer(&attempt, status, "x");
    }
    assert_eq!(
        paths,
        [
            PATH.replace("gpt-4o", "eastern"),
            format!("/api/projects/p{PATH}"),
            PATH.to_owned(),
        ]
    );
}

#[test]
fn a_key_is_shown_to_no_other_backend_although_there_is_no_token_any_more() {
    let gateway = {
        let mut config = routing(json!({}));
        config["backends"].as_array_mut().unwrap().truncate(2);
        config["backends"][0]["api_key_env"] = json!("KEY");
        let setup = Setup::new(config.to_string()).env("KEY", "THE-KEY");
        Gateway::start(setup, Setup::new(UPSTREAM))
    };
    gateway.host.advance(millis(1));
    give_token_for(&gateway.vm, TOKEN, seconds(10));
    let request = gateway.send();
    assert_eq!(request.attempt().cluster(), "aoai_east");
    // While the backend with the key is silent, the token expires, and there is no other one.
    gateway.host.skip(seconds(11));
    gateway.vm.tick();
    request.attempt().fail();
    for attempt in request.attempts() {
        if attempt.cluster() != "aoai_east" && attempt.sent().is_some() {
            assert_ne!(sent(&attempt, "api-key").as_deref(), Some("THE-KEY"));
        }
    }
}
