//! Answers of filters between this one and the router: the client gets them, and no backend is blamed.

use super::support::*;

#[test]
fn a_refusal_of_another_filter_is_passed_on() {
    for (status, details) in [
        (401, "jwt_authn_access_denied{Jwt_is_missing}"),
        (403, "ext_authz_denied"),
        (403, "rbac_access_denied_matched_policy[none]"),
        (429, "request_rate_limited"),
        (429, "local_rate_limited"),
        (503, "fault_filter_abort"),
        (500, "ext_proc_error_grpc_error"),
        (404, "route_not_found"),
    ] {
        let (host, vm) = ready();
        // As failures, this many would put every backend into cooldown.
        for _ in 0..20 {
            let stream = send(&vm);
            stream.respond_locally(status, details);
            let answer = stream.answer();
            assert_eq!((answer.status, &*answer.details), (status, details));
            assert_eq!(answer.headers.get("x-aoai-backend"), None);
        }
        assert_eq!(vm.calls(), [], "{details}");
        host.advance(seconds(2));
        for backend in ["east", "west", "north"] {
            let state = format!("aoai.backend.{backend}.state");
            assert_eq!(host.statistic(&state), 0, "{details}");
        }
        assert_quiet(&host);
    }
}

#[test]
fn the_routers_own_answer_is_a_failure() {
    for (status, details) in [
        (
            503,
            "upstream_reset_before_response_started{connection_failure}",
        ),
        (503, "no_healthy_upstream"),
        (503, "maintenance_mode"),
        (504, "upstream_per_try_timeout"),
        (504, "response_timeout"),
    ] {
        let (_host, vm) = ready();
        let stream = send(&vm);
        stream.respond_locally(status, details);
        vm.answer(&vm.call(), 200, [], "served");
        assert_eq!(stream.answer().text(), "served", "{details}");
    }
}

#[test]
fn a_client_that_is_too_slow_is_counted_as_gone() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond_locally(408, "stream_idle_timeout");
    assert_eq!(stream.answer().status, 408);
    assert_eq!(vm.calls(), []);
    host.advance(seconds(2));
    assert_eq!(host.statistic("aoai.client_gone"), 1);
}
