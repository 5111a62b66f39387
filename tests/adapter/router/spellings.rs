//! Names that Azure knows in upper and lower case, and JSON behind a byte order mark, with the router engine.

use super::*;
use crate::adapter::spellings::{versioned, BODIES, PATHS, V1_CHAT};
use crate::adapter::surface::{aliased, request as headers};

fn with(more: Value) -> Gateway {
    let mut config = routing(json!({}));
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::ready(Setup::new(config.to_string()))
}

#[test]
fn a_path_in_other_letters_is_made_each_backends_own() {
    for (path, own) in PATHS {
        let gateway = with(versioned());
        let request = gateway.router.request(headers("POST", path, "{}"), false);
        request.body("{}", true);
        for own in own {
            let attempt = request.attempt();
            let sent = attempt.sent().expect("it left").headers;
            assert_eq!(sent.get(":path"), Some(own));
            answer(&attempt, 500, "x");
        }
        assert_eq!(outcome(&request).0, 500);
    }
}

#[test]
fn a_model_in_other_letters_is_made_each_backends_own() {
    for (body, name) in BODIES {
        let gateway = with(aliased());
        let named = |name: &str| body.replace("MODEL", name);
        let sent = named(name);
        let request = gateway
            .router
            .request(headers("POST", V1_CHAT, &sent), false);
        let (one, other) = sent.as_bytes().split_at(2);
        request.body(one, false);
        request.body(other, true);
        for own in ["gpt-4o-east", "g", name] {
            let attempt = request.attempt();
            let message = attempt.sent().expect("it left");
            assert_eq!(message.text(), named(own));
            let length = message.headers.get("content-length");
            assert_eq!(length, Some(named(own).len().to_string().as_str()));
            answer(&attempt, 500, "x");
        }
    }
}
