//! Request bodies reach every attempt byte for byte, however they arrive. A body that is too large gets one attempt.

use mock_host::Setup;
use serde_json::json;

use super::engines::*;

/// Frames whose bytes differ from their neighbours', so that a lost or repeated byte shows.
pub(crate) fn frames(sizes: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut next = 0_u32;
    let frames: Vec<Vec<u8>> = sizes
        .iter()
        .map(|size| {
            let frame = (0..*size).map(|_| {
                next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (next >> 24) as u8
            });
            frame.collect()
        })
        .collect();
    let whole = frames.concat();
    (frames, whole)
}

/// The backend fails, and the next backend gets the body too.
fn assert_replayed(request: &Request, body: &[u8]) {
    assert!(request.attempt().sent().unwrap().body == body);
    answer(&request.attempt(), 500, "");
    assert_eq!(request.attempts().len(), 2);
    let sent = request.attempt().sent().unwrap();
    assert!(sent.body == body, "the copy is not the body");
}

/// A request without a token. `before` frames arrive, then the token, then the other frames.
pub(crate) fn across_a_token(engine: Engine, setup: Setup, announced: bool, before: usize) {
    let (frames, body) = frames(&[5000, 1, 300, 20]);
    let gateway = engine.start(setup);
    let headers = if announced {
        chat_of(body.len())
    } else {
        chat()
    };
    let request = gateway.request(headers, false);
    for (index, frame) in frames.iter().enumerate() {
        if index == before {
            gateway.host.advance(millis(1));
            give_token(&gateway.vm, TOKEN);
        }
        request.body(frame, index + 1 == frames.len());
    }
    if before == frames.len() {
        assert_eq!(request.forwarded(), None);
        gateway.host.advance(millis(1));
        give_token(&gateway.vm, TOKEN);
    }
    let attempt = request.attempt();
    let sent = attempt.sent().expect("the request went on");
    assert_eq!(
        attempt.header("authorization").as_deref(),
        Some("Bearer TOKEN-ONE")
    );
    assert!(sent.complete);
    assert_eq!(
        sent.body.len(),
        body.len(),
        "{before} frames before the token"
    );
    assert_replayed(&request, &body);
    assert_quiet(&gateway.host);
}

fn limited(engine: Engine) -> Gateway {
    engine.fleet(3, json!({"retry": {"replay_limit": "8B"}}))
}

cases! {
    fn the_end_may_come_in_an_empty_frame(engine) {
        for headers in [chat(), chat_of(4)] {
            let gateway = engine.gateway();
            let request = gateway.request(headers, false);
            request.body("body", false);
            request.body("", true);
            assert!(request.attempt().sent().unwrap().complete);
            assert_replayed(&request, b"body");
        }
    }

    fn a_body_is_whole_whenever_the_token_comes(engine) {
        for before in 0..=4 {
            for announced in [false, true] {
                let setup = Setup::new(engine.config(3, json!({})));
                across_a_token(engine, setup, announced, before);
            }
        }
    }

    fn a_body_is_whole_where_envoy_loses_no_frames_too(engine) {
        for before in 0..=4 {
            for announced in [false, true] {
                let setup = Setup::new(engine.config(3, json!({}))).loses_frames(false);
                across_a_token(engine, setup, announced, before);
            }
        }
    }

    fn a_body_ended_by_trailers_is_replayed_with_them(engine) {
        for headers in [chat(), chat_of(4)] {
            let gateway = engine.gateway();
            let request = gateway.request(headers, false);
            request.body("body", false);
            request.trailers([("x-checksum", "1234"), ("api-key", "CLIENT-KEY")]);
            for status in [500, 200] {
                let sent = request.attempt().sent().unwrap();
                assert!(sent.complete);
                assert_eq!(sent.body, b"body");
                let trailers = sent.trailers.unwrap();
                assert_eq!(trailers.get("x-checksum"), Some("1234"));
                assert_eq!(trailers.get("api-key"), None);
                answer(&request.attempt(), status, "fine");
            }
            assert_eq!(outcome(&request), is(200, "west", "2", "fine"));
        }
    }

    fn a_body_over_the_limit_gets_one_attempt_and_it_is_counted(engine) {
        let gateway = limited(engine);
        let ask = || {
            let request = gateway.request(chat_of(9), false);
            request.body("12345", false);
            request.body("6789", true);
            assert_eq!(request.attempt().sent().unwrap().body, b"123456789");
            request
        };
        answer(&ask().attempt(), 200, "fine");
        assert_eq!(
            gateway.counted("aoai.no_retry.body_too_large"),
            0,
            "nothing called for it"
        );
        let request = ask();
        answer(&request.attempt(), 500, "failed");
        assert_eq!(request.attempts().len(), 1);
        assert_eq!(outcome(&request), is(500, "west", "1", "failed"));
        assert_eq!(gateway.counted("aoai.no_retry.body_too_large"), 1);
    }

    fn a_body_of_unknown_length_over_the_limit_gets_one_attempt(engine) {
        // Neither engine holds the larger body until it is complete.
        for (limit, frames) in [("8B", [5, 4]), ("1MiB", [600_000, 600_000])] {
            let gateway = engine.fleet(3, json!({"retry": {"replay_limit": limit}}));
            let request = gateway.request(chat(), false);
            request.body(vec![b'x'; frames[0]], false);
            request.body(vec![b'x'; frames[1]], true);
            let sent = request.attempt().sent().unwrap().body.len();
            assert_eq!(sent, frames[0] + frames[1]);
            answer(&request.attempt(), 500, "failed");
            assert_eq!(request.attempts().len(), 1);
            assert_eq!(outcome(&request), is(500, "east", "1", "failed"));
            drop(request);
            assert_eq!(gateway.counted("aoai.no_retry.body_too_large"), 1);
        }
    }

    fn needed_bodies_that_are_not_read_are_counted(engine) {
        let v1 = "/openai/v1/chat/completions";
        let body = json!({"model": "gpt", "messages": []}).to_string();
        let plain = json!({"messages": []}).to_string();
        for (is_shown, unread) in [(true, 0), (false, 3)] {
            let config = engine.config(3, super::surface::aliased());
            let gateway = engine.ready(Setup::new(config).allow_on_headers_stop_iteration(is_shown));
            for _ in 0..3 {
                let request = gateway.ask("POST", v1, &body);
                gateway.host.advance(millis(2100));
                answer(&request.attempt(), 200, "fine");
            }
            // The path names the deployment.
            let request = gateway.ask("POST", "/openai/deployments/gpt/chat/completions", &plain);
            answer(&request.attempt(), 200, "fine");
            assert_eq!(gateway.counted("aoai.bodies_unread"), unread, "shown: {is_shown}");
        }
    }

    fn a_body_at_the_limit_is_replayed(engine) {
        for headers in [chat(), chat_of(8)] {
            let gateway = limited(engine);
            let request = gateway.request(headers, false);
            request.body("12345678", true);
            assert_replayed(&request, b"12345678");
        }
    }
}
