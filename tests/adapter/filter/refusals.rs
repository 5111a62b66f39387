//! Refused host calls that only the filter engine makes.

use mock_host::{status, Fault, LogLevel};

use super::*;

#[test]
fn a_request_that_could_not_be_routed_does_not_leave() {
    for refusal in [status::BAD_ARGUMENT, status::UNIMPLEMENTED] {
        let (host, vm) = ready();
        let function = "proxy_replace_header_map_value";
        host.inject(Fault::of(function).on("x-aoai-cluster").status(refusal));
        let stream = send(&vm);
        assert_eq!(stream.forwarded(), None);
        let answer = stream.answer();
        assert_eq!(answer.status, 500);
        assert_eq!(code(answer.text()), "gateway_error");
        assert_eq!(host.logged(LogLevel::Error).len(), 1);
        assert_eq!(vm.calls(), []);
    }
}

#[test]
fn a_body_that_cannot_be_read_ends_the_request() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_get_buffer_bytes").status(status::UNIMPLEMENTED));
    let stream = send(&vm);
    assert_eq!(stream.answer().status, 500);
}

#[test]
fn a_reply_that_envoy_refuses_is_not_repeated_forever() {
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

#[test]
fn an_answer_whose_status_cannot_be_read_is_replaced() {
    let (host, vm) = ready();
    host.inject(
        Fault::of("proxy_get_header_map_value")
            .on(":status")
            .times(1),
    );
    let stream = get(&vm);
    respond(&stream, 200, "lost");
    assert_eq!(stream.answer().status, 500);
    // The module reads all headers of an answer that may be a stream.
    let stream = send(&vm);
    host.inject(Fault::of("proxy_get_header_map_pairs").times(1));
    respond(&stream, 200, "lost");
    assert_eq!(stream.answer().status, 500);
}
