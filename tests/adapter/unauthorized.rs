//! 401: a token that is not accepted is renewed, a role that is missing is not.

use mock_host::{Host, Vm};

use super::support::*;

#[test]
fn a_refused_token_is_fetched_anew_and_the_same_backend_tried_once_more() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    assert_eq!(stream.answered(), None);
    host.advance(millis(1));
    give_token(&vm, SECOND_TOKEN);
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_east");
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
    assert_eq!(call.body, BODY.as_bytes());
    vm.answer(&call, 200, [], "welcome");
    let answer = stream.answer();
    assert_eq!(answer.text(), "welcome");
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("2"));
    drop(stream);
    assert_eq!(counted(&host, "aoai.identity.fetches"), 2);
    assert_eq!(counted(&host, "aoai.backend.east.outcome.bad_token"), 1);
    assert_quiet(&host);
}

/// Two workers with the same token.
fn two_workers() -> (Host, Vm, Vm) {
    let (host, first) = ready();
    let second = host.vm(CONFIG);
    host.advance(millis(20));
    (host, first, second)
}

#[test]
fn a_token_that_another_worker_has_renewed_is_used_at_once() {
    let (host, first, second) = two_workers();
    let stream = send(&first);
    respond(&stream, 401, &error("401"));
    // Only the first worker's time passes: the second one still has the old token.
    first.tick();
    give_token(&first, SECOND_TOKEN);
    let late = send(&second);
    let forwarded = late.forwarded().unwrap();
    assert_eq!(
        forwarded.headers.get("authorization"),
        Some("Bearer TOKEN-ONE")
    );
    let cluster = routed_to(&late);
    respond(&late, 401, &error("401"));
    let call = second.call();
    assert_eq!(call.cluster, cluster);
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
    host.advance(seconds(1));
    assert_eq!(fetches(&first).len() + fetches(&second).len(), 0);
}

#[test]
fn a_renewal_by_another_worker_reaches_the_one_that_waits() {
    let (_host, first, second) = two_workers();
    let stream = send(&first);
    respond(&stream, 401, &error("401"));
    second.tick();
    // The second worker does not need to look, its own token is fine for it; the first one's next tick does.
    first.tick();
    give_token(&first, SECOND_TOKEN);
    let call = first.call();
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
}

#[test]
fn when_no_newer_token_is_to_be_had_the_next_backend_is_tried() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    host.advance(millis(1));
    vm.answer(&fetch(&vm), 500, [], "");
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_west");
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-ONE"));
    vm.answer(&call, 200, [], "from west");
    assert_eq!(stream.answer().text(), "from west");
}

#[test]
fn a_renewal_that_takes_too_long_leads_to_the_next_backend() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    host.advance(millis(5100));
    let calls = vm.calls();
    let clusters: Vec<_> = calls.iter().map(|call| call.cluster.as_str()).collect();
    assert_eq!(clusters, ["imds", "aoai_west"]);
    vm.answer(&calls[1], 200, [], "from west");
    assert_eq!(stream.answer().text(), "from west");
}

#[test]
fn a_renewed_token_that_is_refused_too_leads_to_the_next_backend() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    host.advance(millis(1));
    give_token(&vm, SECOND_TOKEN);
    vm.answer(&vm.call(), 401, [], error("401"));
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_west");
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
    host.advance(seconds(1));
    assert_eq!(fetches(&vm), [], "one renewal for a request");
}

#[test]
fn a_missing_role_leads_to_the_next_backend_and_the_token_stays() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("PermissionDenied"));
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_west");
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-ONE"));
    vm.answer(&call, 200, [], "from west");
    assert_eq!(stream.answer().text(), "from west");
    drop(stream);
    host.advance(seconds(2));
    assert_eq!(fetches(&vm), []);
    assert_eq!(
        counted(&host, "aoai.backend.east.outcome.permission_denied"),
        1
    );
}

#[test]
fn many_refusals_at_once_fetch_one_token() {
    let (host, vm) = ready();
    let streams: Vec<_> = (0..20).map(|_| send(&vm)).collect();
    for stream in &streams {
        respond(stream, 401, &error("401"));
    }
    host.advance(millis(100));
    give_token(&vm, SECOND_TOKEN);
    let calls = vm.calls();
    assert_eq!(calls.len(), 20);
    for call in calls {
        assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
        vm.answer(&call, 200, [], "ok");
    }
    for stream in streams {
        assert_eq!(stream.answer().status, 200);
    }
    assert_eq!(counted(&host, "aoai.identity.fetches"), 2);
}

#[test]
fn it_is_the_token_of_the_last_attempt_that_was_refused() {
    let (host, vm) = ready();
    let stream = send(&vm);
    host.advance(seconds(3301));
    give_token(&vm, SECOND_TOKEN);
    respond(&stream, 500, "");
    let call = vm.call();
    assert_eq!(call.headers.get("authorization"), Some("Bearer TOKEN-TWO"));
    vm.answer(&call, 401, [], error("401"));
    assert_eq!(vm.calls(), [], "the second token is not tried again");
    host.advance(millis(1));
    give_token(&vm, "TOKEN-THREE");
    let call = vm.call();
    assert_eq!(
        call.headers.get("authorization"),
        Some("Bearer TOKEN-THREE")
    );
}

#[test]
fn a_wait_for_a_newer_token_ends_in_time_although_other_streams_move_the_timer() {
    let (host, vm) = ready();
    let first = send(&vm);
    respond(&first, 401, &error("401"));
    host.advance(millis(400));
    let second = send(&vm);
    respond(&second, 401, &error("401"));
    host.advance(millis(4650));
    let retries = vm.calls().into_iter().filter(|c| c.cluster != "imds");
    assert_eq!(retries.count(), 1, "the first one's five seconds are over");
}
