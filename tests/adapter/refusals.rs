//! Host calls that Envoy refuses: no trap, no hanging stream, no leaked credential.

use mock_host::{status, Fault, LogLevel};

use serde_json::json;

use super::engines::*;

cases! {
    fn a_request_that_could_not_be_edited_does_not_leave(engine) {
        for (function, header) in [
            ("proxy_remove_header_map_value", "api-key"),
            ("proxy_replace_header_map_value", "authorization"),
            ("proxy_replace_header_map_value", ":authority"),
        ] {
            for refusal in [status::BAD_ARGUMENT, status::UNIMPLEMENTED] {
                let gateway = engine.gateway();
                gateway
                    .host
                    .inject(Fault::of(function).on(header).status(refusal));
                let request = gateway.send();
                assert_eq!(request.forwarded(), None, "{function} {header}");
                let answer = request.answer();
                assert_eq!(answer.status, 500);
                assert_eq!(code(answer.text()), "gateway_error");
                assert_eq!(gateway.host.logged(LogLevel::Error).len(), 1);
                assert!(request.attempts().is_empty());
                assert_eq!(gateway.vm.calls(), []);
            }
        }
    }

    fn a_waiting_request_that_could_not_be_edited_does_not_leave(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway
            .host
            .inject(Fault::of("proxy_remove_header_map_value").on("api-key"));
        let request = gateway.send();
        gateway.host.advance(millis(1));
        give_token(&gateway.vm, TOKEN);
        assert_eq!(request.forwarded(), None);
        assert_eq!(request.answer().status, 500);
    }

    fn a_request_whose_headers_cannot_be_read_does_not_leave(engine) {
        let gateway = engine.gateway();
        gateway
            .host
            .inject(Fault::of("proxy_get_header_map_pairs").status(status::UNIMPLEMENTED));
        let request = gateway.send();
        assert_eq!(request.forwarded(), None);
        assert_eq!(request.answer().status, 500);
    }

    fn an_answer_whose_status_cannot_be_read_is_replaced(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        // The status is read with all headers of an answer that may be a stream.
        gateway
            .host
            .inject(Fault::of("proxy_get_header_map_pairs").times(1));
        attempt.respond(200, [("content-type", "application/json")], false);
        let answer = request.answer();
        assert_eq!(answer.status, 500);
        assert_eq!(code(answer.text()), "gateway_error");
        assert_eq!(request.attempts().len(), 1);
        assert_eq!(gateway.host.logged(LogLevel::Error).len(), 1);
    }

    fn an_answer_that_cannot_be_signed_passes_all_the_same(engine) {
        let gateway = engine.gateway();
        gateway
            .host
            .inject(Fault::of("proxy_replace_header_map_value").on("x-aoai-backend"));
        for body in ["found", ""] {
            let request = gateway.send();
            answer(&request.attempt(), 200, body);
            let answer = request.answer();
            assert_eq!((answer.status, answer.text()), (200, body));
        }
        assert_eq!(gateway.host.logged(LogLevel::Error).len(), 2);
    }

    fn a_turn_is_drawn_again_when_another_worker_was_quicker(engine) {
        let gateway = engine.gateway();
        let contention = Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH);
        gateway.host.inject(contention.times(5));
        assert_eq!(gateway.get().attempt().cluster(), EAST);
        assert_eq!(gateway.get().attempt().cluster(), WEST);
        assert_quiet(&gateway.host);
    }

    fn without_shared_data_a_worker_deals_alone(engine) {
        let gateway = engine.gateway();
        gateway
            .host
            .inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
        let clusters: Vec<_> = (0..3).map(|_| gateway.get().attempt().cluster()).collect();
        assert_eq!(clusters, CLUSTERS);
        assert!(!gateway.host.logged(LogLevel::Warn).is_empty());
    }

    fn a_token_is_stored_although_other_workers_are_quicker(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let contention = Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH);
        gateway.host.inject(contention.times(3));
        gateway.host.advance(millis(1));
        gateway.host.heal();
        gateway.host.inject(
            Fault::of("proxy_set_shared_data")
                .status(status::CAS_MISMATCH)
                .times(3),
        );
        give_token(&gateway.vm, TOKEN);
        assert!(gateway.get().forwarded().is_some());
        assert_eq!(gateway.counted("aoai.identity.fetches"), 1);
    }

    fn a_token_service_whose_cluster_is_missing_is_named(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.host.inject(Fault::of("proxy_http_call").on("imds"));
        gateway.host.advance(seconds(10));
        let errors = gateway.host.logged(LogLevel::Error);
        assert_eq!(errors.len(), 1, "once: {errors:?}");
        assert!(errors[0].contains("identity.cluster"), "{errors:?}");
        assert_eq!(gateway.get().answer().status, 503);
    }
}
