//! Host calls that Envoy refuses: no trap, no hanging stream, no credential let through.

use mock_host::{status, Fault, Host, LogLevel};

use super::support::*;

#[test]
fn a_request_that_could_not_be_edited_does_not_leave() {
    for (function, header) in [
        ("proxy_remove_header_map_value", "api-key"),
        ("proxy_replace_header_map_value", "authorization"),
        ("proxy_replace_header_map_value", ":authority"),
        ("proxy_replace_header_map_value", "x-aoai-cluster"),
    ] {
        for refusal in [status::BAD_ARGUMENT, status::UNIMPLEMENTED] {
            let (host, vm) = ready();
            host.inject(Fault::of(function).on(header).status(refusal));
            let stream = send(&vm);
            assert_eq!(stream.forwarded(), None, "{function} {header}");
            let answer = stream.answer();
            assert_eq!(answer.status, 500);
            assert_eq!(code(answer.text()), "gateway_error");
            assert_eq!(host.logged(LogLevel::Error).len(), 1);
            assert_eq!(vm.calls(), []);
        }
    }
}

#[test]
fn a_waiting_request_that_could_not_be_edited_does_not_leave_either() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    host.inject(Fault::of("proxy_remove_header_map_value").on("api-key"));
    let stream = send(&vm);
    host.advance(millis(1));
    give_token(&vm, TOKEN);
    assert_eq!(stream.forwarded(), None);
    assert_eq!(stream.answer().status, 500);
}

#[test]
fn a_request_whose_headers_cannot_be_read_does_not_leave() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_get_header_map_pairs").status(status::UNIMPLEMENTED));
    let stream = send(&vm);
    assert_eq!(stream.forwarded(), None);
    assert_eq!(stream.answer().status, 500);
}

#[test]
fn a_body_that_cannot_be_read_ends_the_request() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_get_buffer_bytes").status(status::UNIMPLEMENTED));
    let stream = send(&vm);
    assert_eq!(stream.answer().status, 500);
}

#[test]
fn an_answer_whose_status_cannot_be_read_is_replaced() {
    let (host, vm) = ready();
    host.inject(
        Fault::of("proxy_get_header_map_value")
            .on(":status")
            .times(1),
    );
    let stream = send(&vm);
    respond(&stream, 200, "lost");
    assert_eq!(stream.answer().status, 500);
}

#[test]
fn an_answer_that_cannot_be_signed_passes_all_the_same() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_replace_header_map_value").on("x-aoai-backend"));
    for body in ["found", ""] {
        let stream = send(&vm);
        respond(&stream, 200, body);
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (200, body));
    }
    assert_eq!(host.logged(LogLevel::Error).len(), 2);
}

#[test]
fn a_turn_is_drawn_again_when_another_worker_was_quicker() {
    let (host, vm) = ready();
    let contention = Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH);
    host.inject(contention.times(5));
    assert_eq!(routed_to(&get(&vm)), "aoai_east");
    assert_eq!(routed_to(&get(&vm)), "aoai_west");
    assert_quiet(&host);
}

#[test]
fn without_shared_data_a_worker_deals_alone() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
    let clusters: Vec<_> = (0..3).map(|_| routed_to(&get(&vm))).collect();
    assert_eq!(clusters, ["aoai_east", "aoai_west", "aoai_north"]);
    assert!(!host.logged(LogLevel::Warn).is_empty());
}

#[test]
fn a_token_is_stored_although_other_workers_are_quicker() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let contention = Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH);
    host.inject(contention.times(3));
    host.advance(millis(1));
    host.heal();
    host.inject(
        Fault::of("proxy_set_shared_data")
            .status(status::CAS_MISMATCH)
            .times(3),
    );
    give_token(&vm, TOKEN);
    assert!(get(&vm).forwarded().is_some());
    assert_eq!(counted(&host, "aoai.identity.fetches"), 1);
}

#[test]
fn a_token_service_whose_cluster_does_not_exist_is_named_in_the_log() {
    let host = Host::new();
    host.inject(Fault::of("proxy_http_call").on("imds"));
    let vm = host.vm(CONFIG);
    host.advance(seconds(10));
    let errors = host.logged(LogLevel::Error);
    assert_eq!(errors.len(), 1, "once: {errors:?}");
    assert!(errors[0].contains("identity.cluster"), "{errors:?}");
    assert_eq!(get(&vm).answer().status, 503);
}

#[test]
fn a_reply_that_envoy_refuses_is_not_tried_for_ever() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_send_local_response").status(status::UNIMPLEMENTED));
    let stream = send(&vm);
    stream.respond_locally(
        503,
        "upstream_reset_before_response_started{connection_failure}",
    );
    vm.answer_locally(&vm.call(), 503);
    vm.answer_locally(&vm.call(), 503);
    assert_eq!(stream.answered(), None);
    stream.disconnect();
    host.advance(seconds(1));
    assert_eq!(vm.calls(), []);
}
