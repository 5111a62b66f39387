//! Faults of backends, for the tests that try many of them.

use std::collections::BTreeMap;

use simulator::{Answer, Behaviour, Break, Failure, SlowBody, Stream};

/// Faults by their names.
pub type Faults = BTreeMap<&'static str, (Kind, Behaviour)>;

/// The effect of a fault on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is served.
    Served,
    /// The answer begins and breaks off.
    Cut,
    /// The next backend gets the request.
    Fails,
    /// The next backend gets the request if the filter can read the error's body, for which it holds the answer.
    FailsByCode,
    /// The next backend gets the request by the status. The connection ends while the filter awaits the error's body or
    /// a stream's first content.
    BreaksInError,
    /// The next backend gets the request by the status, and the connection ends.
    Breaks,
}

fn paced(status: u16, pace: SlowBody) -> Behaviour {
    Behaviour::error(Failure::paced(status, pace))
}

fn coded(status: u16, code: &str) -> Failure {
    Failure::coded(status, code, "As the net wants it.")
}

fn breaking(bytes: usize, how: Break) -> SlowBody {
    SlowBody {
        break_after: Some(bytes),
        how,
        ..SlowBody::default()
    }
}

fn cut_stream(frames: u32, how: Break) -> Behaviour {
    Behaviour::stream(Stream {
        break_after: Some(frames),
        how,
        ..Stream::default()
    })
}

fn failed_stream() -> Stream {
    Stream::failed_chat("server_error", "As the net wants it.")
}

/// A stream whose first content comes at the end of the hold, or just before.
fn late_content() -> Behaviour {
    Behaviour::stream(Stream {
        events: 3,
        interval_ms: 490,
        ..Stream::default()
    })
}

/// All faults, by name.
pub fn faults() -> Faults {
    use Kind::{Breaks, BreaksInError, Cut, Fails, FailsByCode, Served};
    let slow = SlowBody {
        piece: 30,
        interval_ms: 50,
        chunked: true,
        ..SlowBody::default()
    };
    let endless = |piece, interval_ms| SlowBody {
        piece,
        interval_ms,
        endless: true,
        ..SlowBody::default()
    };
    let list = [
        ("none", Served, Behaviour::normal()),
        ("late", Served, Behaviour::normal().after_ms(400)),
        ("slow", Served, Behaviour::slow_body(SlowBody::default())),
        (
            "cut-body",
            Cut,
            Behaviour::slow_body(breaking(50, Break::Close)),
        ),
        ("cut-stream", Cut, cut_stream(4, Break::Close)),
        // The stream is held until its first content.
        ("no-stream", BreaksInError, cut_stream(0, Break::Close)),
        ("late-content", Served, late_content()),
        ("failed-stream", Fails, Behaviour::stream(failed_stream())),
        (
            "failed-stream-closes",
            BreaksInError,
            Behaviour::stream(Stream {
                break_after: Some(1),
                how: Break::Close,
                ..failed_stream()
            }),
        ),
        (
            "created-closes",
            BreaksInError,
            Behaviour::stream(Stream {
                break_after: Some(2),
                how: Break::Close,
                ..Stream::created_response()
            }),
        ),
        ("throttled", Fails, Behaviour::throttled(1)),
        (
            "throttled-late",
            Fails,
            Behaviour::throttled(1).after_ms(500),
        ),
        ("throttled-early", Fails, Behaviour::early(429)),
        ("throttled-unread", Fails, Behaviour::unread(429)),
        ("throttled-kept", Fails, Behaviour::unread_kept(429)),
        ("throttled-stalled", Fails, Behaviour::stalled(429)),
        ("throttled-slow", Fails, paced(429, slow.clone())),
        ("failing", Fails, Behaviour::internal_error()),
        ("failing-early", Fails, Behaviour::early(500)),
        ("failing-unread", Fails, Behaviour::unread(503)),
        ("failing-kept", Fails, Behaviour::unread_kept(502)),
        ("failing-stalled", Fails, Behaviour::stalled(503)),
        ("failing-endless", Fails, paced(500, endless(1, 20))),
        ("failing-flood", Fails, paced(500, endless(1000, 1))),
        (
            "failing-closed",
            BreaksInError,
            paced(500, breaking(50, Break::Close)),
        ),
        ("token", Fails, Behaviour::unauthorized_token()),
        (
            "token-late",
            Fails,
            Behaviour::unauthorized_token().after_ms(300),
        ),
        ("token-early", Fails, Behaviour::early(401)),
        ("token-unread", Fails, Behaviour::unread(401)),
        ("token-kept", Fails, Behaviour::unread_kept(401)),
        ("token-stalled", Fails, Behaviour::stalled(401)),
        ("token-slow", Fails, paced(401, slow)),
        (
            "token-closed",
            BreaksInError,
            paced(401, breaking(50, Break::Close)),
        ),
        ("role", Fails, Behaviour::permission_denied()),
        (
            "forbidden",
            FailsByCode,
            Behaviour::error(coded(403, "PermissionDenied")),
        ),
        (
            "forbidden-early",
            FailsByCode,
            Answer::EarlyError(coded(403, "PermissionDenied")).into(),
        ),
        ("missing", FailsByCode, Behaviour::deployment_not_found()),
        (
            "missing-early",
            FailsByCode,
            Answer::EarlyError(coded(404, "DeploymentNotFound")).into(),
        ),
        ("hangs", Fails, Behaviour::hang()),
        ("resets", Breaks, Behaviour::reset()),
        ("resets-late", Breaks, Behaviour::reset().after_ms(200)),
        ("closes", Breaks, Behaviour::close()),
        (
            "half-head",
            Breaks,
            Behaviour::half_head(500, Break::Silence),
        ),
        (
            "half-head-closes",
            Breaks,
            Behaviour::half_head(429, Break::Close),
        ),
        (
            "half-head-resets",
            Breaks,
            Behaviour::half_head(200, Break::Reset),
        ),
        (
            "failing-resets",
            BreaksInError,
            paced(503, breaking(20, Break::Reset)),
        ),
    ];
    list.into_iter()
        .map(|(name, kind, behaviour)| (name, (kind, behaviour)))
        .collect()
}
