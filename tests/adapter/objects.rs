//! Objects that live on one backend: they are found there again, and no object is made twice.

use serde_json::json;

use super::engines::*;
use super::surface::{aliased, reached, tag, V1_CHAT};

cases! {
    fn objects_are_found_on_the_backend_that_made_them(engine) {
        let gateway = engine.fleet(3, json!({}));
        gateway.get();
        let body = r#"{"model":"gpt","input":"resp_1"}"#;
        let request = gateway.ask("POST", "/openai/v1/responses", body);
        assert_eq!(
            reached(&request.attempt()),
            (WEST.into(), "/openai/v1/responses".into(), body.into())
        );
        request.attempt().respond(
            200,
            [
                ("content-type", "application/json"),
                ("content-length", "47"),
            ],
            false,
        );
        request
            .attempt()
            .response_body(r#"{"id":"resp_1","output":["#, false);
        request
            .attempt()
            .response_body(r#"{"id":"msg_2"}],"text":"resp_1"}"#, true);
        let got = request.answer();
        let id = format!("resp_1{}", tag("west"));
        assert_eq!(
            got.text(),
            format!(r#"{{"id":"{id}","output":[{{"id":"msg_2{}"}}],"text":"resp_1"}}"#, tag("west"))
        );
        assert_eq!(got.headers.get("content-length"), None);

        for _ in 0..3 {
            let request = gateway.ask("GET", &format!("/openai/v1/responses/{id}?after={id}"), "");
            let path = "/openai/v1/responses/resp_1?after=resp_1";
            assert_eq!(
                reached(&request.attempt()),
                (WEST.into(), path.into(), String::new())
            );
            answer(&request.attempt(), 200, "fine");
        }
        let body = format!(r#"{{"model":"gpt","previous_response_id":"{id}"}}"#);
        let request = gateway.ask("POST", "/openai/v1/responses", &body);
        let sent = r#"{"model":"gpt","previous_response_id":"resp_1"}"#;
        assert_eq!(
            reached(&request.attempt()),
            (WEST.into(), "/openai/v1/responses".into(), sent.into())
        );
    }

    fn items_and_encrypted_content_go_back_to_their_resource(engine) {
        let gateway = engine.fleet(3, json!({}));
        let path = "/openai/v1/responses";
        gateway.get();
        let request = gateway.ask("POST", path, r#"{"model":"gpt","store":false}"#);
        let attempt = request.attempt();
        assert_eq!(attempt.cluster(), WEST);
        attempt.respond(200, [("content-type", "application/json")], false);
        attempt.response_body(r#"{"id":"resp_1","output":[{"id":"rs_1","encrypted_content":"gAA"#, false);
        attempt.response_body(r#"AA==","summary":[]},{"id":"fc_1","call_id":"call_1"}]}"#, true);
        let west = tag("west");
        assert_eq!(
            request.answer().text(),
            format!(r#"{{"id":"resp_1{west}","output":[{{"id":"rs_1{west}","encrypted_content":"gAAAA=={west}","summary":[]}},{{"id":"fc_1{west}","call_id":"call_1"}}]}}"#)
        );
        for item in [
            r#"{"type":"item_reference","id":"rs_1TAG"}"#,
            r#"{"type":"reasoning","id":"rs_1TAG","encrypted_content":"gAAAA==TAG","summary":[]}"#,
            r#"{"type":"reasoning","encrypted_content" : "gAAAA\u003d=TAG"}"#,
            r#"{"type":"compaction","encrypted_content":"gAAAA==TAG"}"#,
            r#"{"id":"msg_7","content":"x"},{"id":"fc_1TAG","type":"function_call","arguments":"{\"id\":\"rs_1\"}"}"#,
        ] {
            let body = format!(r#"{{"model":"gpt","input":[{item},{{"role":"user"}}]}}"#);
            for _ in 0..2 {
                let request = gateway.ask("POST", path, &body.replace("TAG", &west));
                let sent = body.replace("TAG", "");
                assert_eq!(reached(&request.attempt()), (WEST.into(), path.into(), sent), "{item}");
                answer(&request.attempt(), 200, "fine");
            }
        }
    }

    fn an_item_has_one_id_in_all_events_of_a_stream(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.ask("POST", "/openai/v1/responses", r#"{"stream":true}"#);
        let attempt = request.attempt();
        attempt.respond(200, [("content-type", "text/event-stream")], false);
        let events = [
            r#"{"type":"response.output_item.added","item":{"id":"rs_1TAG","type":"reasoning","encrypted_content":"gATAG"}}"#,
            r#"{"type":"response.reasoning_summary_text.delta","item_id":"rs_1TAG","delta":"rs_1"}"#,
            r#"{"type":"response.output_item.done","item":{"id":"rs_1TAG","type":"reasoning","encrypted_content":"gAAATAG"}}"#,
            r#"{"type":"response.function_call_arguments.delta","item_id":"fc_1TAG","delta":"{\"id\":\"fc_1\"}"}"#,
            r#"{"type":"response.completed","response":{"id":"resp_1TAG","output":[{"id":"rs_1TAG"},{"id":"fc_1TAG"}]}}"#,
        ];
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let plain = stream.replace("TAG", "");
        for (at, chunk) in plain.as_bytes().chunks(50).enumerate() {
            attempt.response_body(chunk, (at + 1) * 50 >= plain.len());
        }
        assert_eq!(request.answer().text(), stream.replace("TAG", &tag("east")));
    }

    fn only_reasoning_without_a_tag_goes_home(engine) {
        let gateway = engine.fleet(3, json!({"state": {"home": "north"}}));
        let path = "/openai/v1/responses";
        let mut places = Vec::new();
        for item in [
            r#"{"id":"msg_1"}"#,
            r#"{"id":"fc_1"}"#,
            r#"{"id":"__fake_id__"}"#,
            r#"{"type":"item_reference","id":"rs_1"}"#,
            r#"{"type":"reasoning","encrypted_content":"gAAAA"}"#,
        ] {
            let request = gateway.ask("POST", path, &format!(r#"{{"input":[{item}]}}"#));
            places.push(request.attempt().cluster());
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(places, [EAST, WEST, NORTH, NORTH, NORTH]);
    }

    fn ids_in_events_are_tagged_beside_a_model_with_other_names(engine) {
        let gateway = engine.fleet(3, aliased());
        answer(&gateway.send().attempt(), 200, "fine");
        let path = "/openai/v1/responses";
        let request = gateway.ask("POST", path, r#"{"model":"gpt"}"#);
        let attempt = request.attempt();
        assert_eq!(attempt.cluster(), WEST);
        attempt.respond(200, [("content-type", "text/event-stream")], false);
        attempt.response_body(
            "event: response.created\ndata: {\"response\":{\"id\":\"resp",
            false,
        );
        attempt.response_body("_1\"}}\n\n", true);
        let id = format!("resp_1{}", tag("west"));
        let events =
            format!("event: response.created\ndata: {{\"response\":{{\"id\":\"{id}\"}}}}\n\n");
        assert_eq!(outcome(&request), is(200, "west", "1", &events));

        let body = format!(r#"{{"previous_response_id":"{id}","model":"gpt"}}"#);
        let request = gateway.ask("POST", path, &body);
        let sent = r#"{"previous_response_id":"resp_1","model":"g"}"#;
        assert_eq!(
            reached(&request.attempt()),
            (WEST.into(), path.into(), sent.into())
        );
        answer(&request.attempt(), 429, "x");
        assert_eq!(request.attempts().len(), 1, "no other backend knows it");
        assert_eq!(outcome(&request), is(429, "west", "1", "x"));
        let path = format!("{path}/{id}");
        for _ in 0..2 {
            let request = gateway.ask("GET", &path, "");
            assert_eq!(request.attempt().cluster(), WEST);
            request.attempt().respond(429, [], true);
            assert_eq!(outcome(&request).0, 429);
        }
        let request = gateway.ask("GET", &path, "");
        assert!(request.attempts().is_empty());
        assert_eq!(outcome(&request).0, 429);
    }

    fn ids_in_an_answer_that_was_sent_again_are_tagged_too(engine) {
        for (path, id) in [
            ("/openai/v1/responses", "resp_1"),
            ("/openai/v1/files", "file-1"),
        ] {
            let gateway = engine.fleet(2, json!({}));
            let request = gateway.ask("POST", path, r#"{"purpose":"batch"}"#);
            answer(&request.attempt(), 429, "x");
            let json = [("content-type", "application/json; charset=utf-8")];
            request.attempt().respond(200, json, false);
            let body = |id: &str| format!(r#"{{"id":"{id}"}}"#);
            request.attempt().response_body(body(id), true);
            let tagged = body(&format!("{id}{}", tag("west")));
            assert_eq!(outcome(&request), is(200, "west", "2", &tagged));
        }
    }

    fn answers_with_ids_are_requested_unencoded(engine) {
        let gateway = engine.fleet(2, json!({}));
        for (path, expected) in [("/openai/v1/responses", None), (V1_CHAT, Some("gzip"))] {
            let request = gateway.request(
                request_of("POST", path, "{}").with("accept-encoding", "gzip"),
                false,
            );
            request.body("{}", true);
            for status in [500, 200] {
                let accepted = request.attempt().header("accept-encoding");
                assert_eq!(accepted.as_deref(), expected, "{path}");
                answer(&request.attempt(), status, "x");
            }
        }
    }

    fn the_contents_of_files_are_not_changed(engine) {
        let gateway = engine.fleet(2, json!({}));
        let path = format!("/openai/v1/files/file-1{}/content", tag("east"));
        let request = gateway.ask("GET", &path, "");
        assert_eq!(
            reached(&request.attempt()).1,
            "/openai/v1/files/file-1/content"
        );
        let content = r#"{"id":"resp_1"}"#;
        request
            .attempt()
            .respond(200, [("content-type", "application/json")], false);
        request.attempt().response_body(content, true);
        assert_eq!(request.answer().text(), content);
    }

    fn a_request_that_continues_takes_no_turn(engine) {
        let gateway = engine.fleet(2, json!({}));
        let continued = format!(r#"{{"previous_response_id":"resp_1{}"}}"#, tag("west"));
        let mut made = Vec::new();
        for _ in 0..4 {
            let request = gateway.ask("POST", "/openai/v1/responses", "{}");
            made.push(request.attempt().cluster());
            answer(&request.attempt(), 200, "fine");
            let request = gateway.ask("POST", "/openai/v1/responses", &continued);
            assert_eq!(request.attempt().cluster(), WEST);
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(made, [EAST, WEST, EAST, WEST]);
    }

    fn a_throttled_backends_object_is_requested_nowhere_else(engine) {
        let gateway = engine.fleet(2, json!({}));
        let path = format!("/openai/v1/responses/resp_1{}", tag("west"));
        let request = gateway.ask("GET", &path, "");
        request.attempt().respond(429, [("retry-after", "7")], true);
        let answer = request.answer();
        assert_eq!(
            (answer.status, answer.headers.get("retry-after")),
            (429, Some("7")),
            "its own"
        );
        assert_eq!(request.attempts().len(), 1);
        let trial = gateway.ask("GET", &path, "");
        assert_eq!(trial.attempt().cluster(), WEST);
        let request = gateway.ask("GET", &path, "");
        let answer = request.answer();
        assert_eq!(
            (answer.status, code(answer.text())),
            (429, "backend_throttled".into())
        );
        assert_eq!(answer.headers.get("retry-after"), Some("7"));
        assert!(request.forwarded().is_none());
        assert_eq!(gateway.get().attempt().cluster(), EAST);
    }

    fn objects_of_two_backends_cannot_be_used_together(engine) {
        let gateway = engine.fleet(3, json!({}));
        let body = format!(
            r#"{{"previous_response_id":"resp_1{}","tools":[{{"vector_store_ids":["vs_1{}"]}}]}}"#,
            tag("west"),
            tag("north")
        );
        let request = gateway.ask("POST", "/openai/v1/responses", &body);
        let answer = request.answer();
        assert_eq!(
            (answer.status, code(answer.text())),
            (400, "objects_on_different_backends".into())
        );
        let body = format!(
            r#"{{"input":[{{"id":"rs_1{}"}},{{"encrypted_content":"gAAAA{}"}}]}}"#,
            tag("west"),
            tag("north")
        );
        let request = gateway.ask("POST", "/openai/v1/responses", &body);
        let text = request.answer().text().to_owned();
        assert!(text.contains("omit items of responses that came from another resource"), "{text}");
    }

    fn any_backend_of_a_resource_serves_its_objects(engine) {
        let gateway = engine.fleet(3, json!({"backends": [
            {"name": "east", "cluster": EAST, "host": "h.openai.azure.com", "deployments": {"gpt": "ptu"}},
            {"name": "west", "cluster": WEST, "host": "h.openai.azure.com", "priority": 1, "deployments": {"gpt": "paygo"}},
            {"name": "north", "cluster": NORTH, "host": "north.openai.azure.com"},
        ]}));
        let path = "/openai/v1/responses";
        let tag = tag("h");
        let next = format!(r#"{{"model":"gpt","previous_response_id":"resp_1{tag}"}}"#);
        let sent = |model: &str| format!(r#"{{"model":"{model}","previous_response_id":"resp_1"}}"#);
        let request = gateway.ask("POST", path, &next);
        assert_eq!(reached(&request.attempt()), (EAST.into(), path.into(), sent("ptu")), "the priority");
        answer(&request.attempt(), 429, "x");
        let second = request.attempt();
        assert_eq!(reached(&second), (WEST.into(), path.into(), sent("paygo")), "not another resource");
        second.respond(200, [("content-type", "application/json")], false);
        second.response_body(r#"{"id":"resp_2"}"#, true);
        assert_eq!(outcome(&request), is(200, "west", "2", &format!(r#"{{"id":"resp_2{tag}"}}"#)));
        // A cooldown of one backend does not affect the other.
        for _ in 0..3 {
            let request = gateway.ask("POST", path, &next);
            assert_eq!(request.attempt().cluster(), WEST);
            answer(&request.attempt(), 200, "fine");
        }
    }

    fn equal_backends_of_a_resource_take_turns_with_its_objects(engine) {
        let gateway = engine.fleet(3, json!({"backends": [
            {"name": "east", "cluster": EAST, "host": "h.openai.azure.com"},
            {"name": "west", "cluster": WEST, "host": "h.openai.azure.com"},
            {"name": "north", "cluster": NORTH, "host": "north.openai.azure.com"},
        ]}));
        let mut asked = Vec::new();
        for _ in 0..6 {
            let request = gateway.ask("GET", &format!("/openai/v1/responses/resp_1{}", tag("h")), "");
            asked.push(request.attempt().cluster());
            answer(&request.attempt(), 200, "fine");
        }
        let east = asked.iter().filter(|cluster| *cluster == EAST).count();
        let west = asked.iter().filter(|cluster| *cluster == WEST).count();
        assert_eq!((east, west), (3, 3), "{asked:?}");
    }

    fn ids_of_a_single_resource_are_not_tagged(engine) {
        let gateway = engine.fleet(2, json!({"backends": [
            {"name": "east", "cluster": EAST, "host": "h.openai.azure.com"},
            {"name": "west", "cluster": WEST, "host": "h.openai.azure.com", "priority": 1},
        ]}));
        let body = format!(r#"{{"previous_response_id":"resp_1{}"}}"#, tag("h"));
        let request = gateway.ask("POST", "/openai/v1/responses", &body);
        let attempt = request.attempt();
        assert_eq!(reached(&attempt).2, r#"{"previous_response_id":"resp_1"}"#);
        attempt.respond(200, [("content-type", "application/json")], false);
        attempt.response_body(r#"{"id":"resp_2"}"#, true);
        assert_eq!(request.answer().text(), r#"{"id":"resp_2"}"#);
    }

    fn a_batchs_file_goes_in_turn_and_any_other_home(engine) {
        let gateway = engine.fleet(3, json!({"state": {"home": "north"}}));
        let part = |name: &str, value: &str| {
            format!("--B\r\ncontent-disposition: form-data; name={name}\r\n\r\n{value}\r\n")
        };
        let upload = |pieces: &[String]| {
            let length = pieces.iter().map(String::len).sum::<usize>().to_string();
            let headers = request_of("POST", "/openai/v1/files", "")
                .replaced("content-type", "multipart/form-data; boundary=B")
                .replaced("content-length", &length);
            let request = gateway.request(headers, false);
            let (last, first) = pieces.split_last().unwrap();
            first.iter().for_each(|piece| {
                request.body(piece, false);
            });
            request.body(last, true);
            let attempt = request.attempt();
            assert_eq!(reached(&attempt).2, pieces.concat());
            answer(&attempt, 200, "fine");
            attempt.cluster()
        };
        let file = part("file; filename=a", "text");
        let end = "--B--\r\n".to_owned();
        let batch: Vec<_> = (0..4).map(|_| upload(&[part("purpose", "batch"), file.clone(), end.clone()])).collect();
        assert_eq!(batch, [EAST, WEST, NORTH, EAST]);
        for purpose in ["assistants", "fine-tune", "user_data"] {
            assert_eq!(upload(&[part("purpose", purpose) + &file, end.clone()]), NORTH, "{purpose}");
        }
        assert_eq!(upload(&[file, part("purpose", "batch") + &end]), NORTH, "behind the file");
    }

    fn a_realtime_call_stays_where_it_was_made(engine) {
        let gateway = engine.fleet(2, json!({}));
        let calls = "/openai/v1/realtime/calls";
        for (refused, home, cluster) in [(false, "east", EAST), (true, "east", EAST)] {
            let request = gateway.ask("POST", calls, "v=0");
            if refused {
                // It is west's turn.
                answer(&request.attempt(), 429, "x");
            }
            let attempt = request.attempt();
            assert_eq!(attempt.cluster(), cluster);
            let location = format!("{calls}/rtc_1");
            let headers = [("location", location.as_str()), ("content-type", "application/sdp")];
            attempt.respond(201, headers, false);
            attempt.response_body("v=0 rtc_1", true);
            let got = request.answer();
            let id = format!("rtc_1{}", tag(home));
            let expected = format!("{calls}/{id}");
            assert_eq!(got.headers.get("location"), Some(expected.as_str()));
            assert_eq!((got.status, got.text()), (201, "v=0 rtc_1"));
            for _ in 0..2 {
                let path = format!("{calls}/{id}/hangup");
                let request = gateway.ask("POST", &path, "");
                let sent = format!("{calls}/rtc_1/hangup");
                assert_eq!(reached(&request.attempt()), (cluster.into(), sent, String::new()));
                answer(&request.attempt(), 200, "fine");
            }
            let socket = request_of("GET", &format!("/openai/v1/realtime?call_id={id}"), "");
            let socket = socket.with("upgrade", "websocket").with("connection", "Upgrade");
            let request = gateway.request(socket, false);
            let attempt = request.attempt();
            assert_eq!(attempt.cluster(), cluster);
            assert_eq!(reached(&attempt).1, "/openai/v1/realtime?call_id=rtc_1");
        }
    }

    fn a_session_key_is_sent_to_the_resource_that_made_it(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.ask("POST", "/openai/v1/realtime/client_secrets", r#"{"session":{}}"#);
        let attempt = request.attempt();
        attempt.respond(200, [("content-type", "application/json")], false);
        attempt.response_body(r#"{"value":"ek_1","session":{"id":"sess_1","instructions":"ek_1"}}"#, true);
        let tag = tag("east");
        assert_eq!(
            request.answer().text(),
            format!(r#"{{"value":"ek_1{tag}","session":{{"id":"sess_1{tag}","instructions":"ek_1"}}}}"#)
        );
        let bearer = format!("Bearer ek_1{tag}");
        for path in ["/openai/v1/realtime/calls", "/openai/v1/realtime/calls?model=m"] {
            for refusal in [200, 401] {
                let headers = request_of("POST", path, "v=0").replaced("authorization", &bearer);
                let request = gateway.request(headers, false);
                request.body("v=0", true);
                let attempt = request.attempt();
                assert_eq!(attempt.cluster(), EAST);
                assert_eq!(attempt.header("authorization").as_deref(), Some("Bearer ek_1"));
                answer(&attempt, refusal, "x");
                assert_eq!((request.attempts().len(), request.answer().status), (1, refusal));
            }
        }
        // A client that sends refused keys harms no other client.
        let others: Vec<_> = (0..2).map(|_| {
            let request = gateway.get();
            let cluster = request.attempt().cluster();
            answer(&request.attempt(), 200, "fine");
            cluster
        }).collect();
        assert!(others.contains(&EAST.to_owned()), "{others:?}");
        let headers = request_of("POST", V1_CHAT, "{}").replaced("authorization", &bearer);
        let request = gateway.request(headers, false);
        request.body("{}", true);
        let shown = request.attempt().header("authorization").unwrap();
        assert!(!shown.contains("ek_"), "a chat is no session: {shown}");
    }

    fn a_call_without_a_tag_is_at_home(engine) {
        let gateway = engine.fleet(3, json!({"state": {"home": "north"}}));
        for path in ["/openai/v1/realtime/calls/rtc_1/accept", "/openai/v1/dashboard/webhook_endpoints", "/openai/v1/evals", "/openai/v1/skills"] {
            let request = gateway.ask("POST", path, "{}");
            assert_eq!(reached(&request.attempt()), (NORTH.into(), path.into(), "{}".into()));
            answer(&request.attempt(), 200, "fine");
        }
    }

    fn a_websocket_for_responses_is_refused_where_ids_are_tagged(engine) {
        let upgrade = || {
            let path = "/openai/v1/responses?x=1";
            let request = request_of("GET", path, "");
            request.with("upgrade", "websocket").with("connection", "Upgrade")
        };
        let gateway = engine.fleet(3, json!({}));
        let request = gateway.request(upgrade(), false);
        let answer = request.answer();
        assert_eq!((answer.status, code(answer.text())), (426, "websocket_not_supported".into()));
        assert!(request.attempts().is_empty());
        let gateway = engine.fleet(3, json!({"state": {"ids": "plain", "home": "west"}}));
        for _ in 0..2 {
            let request = gateway.request(upgrade(), false);
            assert_eq!(request.attempt().cluster(), WEST, "with all other responses");
        }
        let gateway = engine.fleet(1, json!({}));
        assert_eq!(gateway.request(upgrade(), false).attempt().cluster(), EAST);
    }

    fn objects_without_a_known_tag_are_at_home(engine) {
        let gateway = engine.fleet(3, json!({"state": {"home": "north"}}));
        for (method, path, body) in [
            ("GET", "/openai/v1/responses/resp_1", ""),
            ("GET", "/openai/v1/files", ""),
            ("POST", "/openai/assistants?api-version=1", "{}"),
            (
                "POST",
                "/openai/v1/responses",
                r#"{"previous_response_id":"resp_1"}"#,
            ),
            // A tag that belongs to no backend.
            ("GET", "/openai/v1/responses/resp_1.b000000", ""),
        ] {
            let request = gateway.ask(method, path, body);
            assert_eq!(
                reached(&request.attempt()),
                (NORTH.into(), path.into(), body.into())
            );
            answer(&request.attempt(), 200, "fine");
        }
        let gateway = engine.fleet(3, json!({"state": {"ids": "plain"}}));
        for _ in 0..3 {
            let request = gateway.ask("POST", "/openai/v1/responses", "{}");
            assert_eq!(request.attempt().cluster(), EAST);
            request
                .attempt()
                .respond(200, [("content-type", "application/json")], false);
            request.attempt().response_body(r#"{"id":"resp_1"}"#, true);
            assert_eq!(request.answer().text(), r#"{"id":"resp_1"}"#);
        }
    }

    fn creations_are_not_retried_after_ambiguous_failures(engine) {
        for (path, body, status, again) in [
            ("/openai/v1/files", r#"{"purpose":"batch"}"#, 429, true),
            ("/openai/v1/files", r#"{"purpose":"batch"}"#, 503, true),
            ("/openai/v1/files", r#"{"purpose":"batch"}"#, 500, false),
            ("/openai/v1/files", r#"{"purpose":"batch"}"#, 408, false),
            ("/openai/v1/batches", "{}", 500, false),
            ("/openai/v1/responses", r#"{"background":true}"#, 500, false),
            ("/openai/v1/responses", r#"{"background":false}"#, 500, true),
            (V1_CHAT, "{}", 500, true),
        ] {
            let gateway = engine.fleet(2, json!({}));
            let request = gateway.ask("POST", path, body);
            answer(&request.attempt(), status, "x");
            let made = request.attempts().len();
            assert_eq!(made, 1 + usize::from(again), "{path} {body} {status}");
            if !again {
                assert_eq!(outcome(&request), is(status, "east", "1", "x"));
            }
            let counted = gateway.counted("aoai.no_retry.not_repeatable");
            assert_eq!(counted, u64::from(!again), "{path} {body} {status}");
        }
        let gateway = engine.fleet(2, json!({"retry": {"repeat_creations": true}}));
        let request = gateway.ask("POST", "/openai/v1/files", r#"{"purpose":"batch"}"#);
        answer(&request.attempt(), 500, "x");
        assert_eq!(request.attempts().len(), 2);
    }
}
