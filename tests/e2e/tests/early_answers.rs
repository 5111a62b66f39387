//! Errors that arrive before the request's body is complete.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use e2e::{cases, chat_request, parallel, simulate_with, Client, Engine, Gateway, Stream, Upload};
use simulator::{Answer, Behaviour, Failure, ImdsBehaviour, Simulator, SlowBody, Unread};

const SECOND: Duration = Duration::from_secs(1);
/// The longest time for an answer. The client sends for 400 ms. The token service, the error's body and the serving
/// backend are slow too.
const LONGEST: Duration = Duration::from_secs(9);
/// The number of requests in progress at a time.
const AT_ONCE: usize = 40;
/// The largest request body that is sent again (`retry.replay_limit`).
const REPLAY_LIMIT: usize = 4 * 1024 * 1024;
/// The largest body that the filter engine holds until it is complete.
const HELD_UNTIL_COMPLETE: usize = 512 * 1024;

/// Errors: the status and code, and whether the headers alone send the request to another backend.
const ERRORS: [(&str, u16, &str, bool); 7] = [
    ("token", 401, "401", true),
    ("role", 401, "PermissionDenied", true),
    ("throttled", 429, "429", true),
    ("broken", 500, "InternalServerError", true),
    ("forbidden", 403, "PermissionDenied", true),
    ("missing", 404, "DeploymentNotFound", true),
    ("bad", 400, "BadRequest", false),
];

/// The backend's treatment of the request's body and of its own.
const MANNERS: [&str; 4] = ["early", "unread", "kept", "slow"];

fn behaviour(status: u16, code: &str, manner: &str) -> Behaviour {
    let mut failure = Failure::coded(status, code, "Said before the body was read.");
    match manner {
        "early" => Answer::EarlyError(failure),
        "slow" => {
            failure.pace = Some(Box::new(SlowBody {
                piece: 40,
                interval_ms: 100,
                ..SlowBody::default()
            }));
            Answer::EarlyError(failure)
        }
        _ => Answer::UnreadError(Unread {
            failure,
            keep: manner == "kept",
        }),
    }
    .into()
}

/// Two resources: `east`, which is preferred and misbehaves as a request's path says, and `west`, which serves.
fn misbehaving() -> Simulator {
    let azure = simulate_with(&["east", "west"], |settings| settings.audit_bodies = false);
    let mut behaviours = Vec::new();
    for (name, status, code, _) in ERRORS {
        for manner in MANNERS {
            let path = format!("/{name}-{manner}-");
            behaviours.push(
                behaviour(status, code, manner)
                    .on_path(&path)
                    .times(1_000_000),
            );
        }
    }
    azure.backend("east").queue(behaviours);
    let pace = SlowBody {
        piece: 20,
        interval_ms: 20,
        ..SlowBody::default()
    };
    azure
        .backend("west")
        .set(Behaviour::error(Failure::paced(200, pace)));
    azure
}

fn gateway(azure: &Simulator, engine: Engine, http2: bool) -> Gateway {
    let mut gateway = Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .workers(2)
        .log_level("info")
        .first_backend_first();
    if http2 {
        gateway = gateway.http2_to_backends();
    }
    let gateway = gateway.start();
    assert_eq!(gateway.chat(&chat_request().deployment("any")).status, 200);
    gateway
}

#[derive(Clone, Copy, Debug)]
enum Tokens {
    Fast,
    Slow,
    Refused,
    Silent,
}

impl Tokens {
    fn set(self, azure: &Simulator) {
        match self {
            Self::Fast => azure.imds().clear(),
            Self::Slow => azure.imds().set(ImdsBehaviour::normal().after_ms(700)),
            Self::Refused => azure.imds().stop(),
            Self::Silent => azure.imds().set(ImdsBehaviour::hang()),
        }
    }
}

/// The pace at which the client sends its body.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// At once, 300 ms after the headers.
    Late,
    /// In pieces, from 300 ms after the headers on.
    InPieces,
    /// In chunks, from 300 ms after the headers on.
    InChunks,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    status: u16,
    is_retried: bool,
    manner: &'static str,
    size: usize,
    pace: Pace,
    number: usize,
}

/// Every error in every manner, with bodies of each size at each pace.
fn all_cases(bodies: &[(usize, Pace)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, status, _, is_retried) in ERRORS {
        for manner in MANNERS {
            for (size, pace) in bodies {
                cases.push(Case {
                    name,
                    status,
                    is_retried,
                    manner,
                    size: *size,
                    pace: *pace,
                    number: cases.len(),
                });
            }
        }
    }
    cases
}

/// A small body, and a body that no engine holds until it is complete.
const TWO_BODIES: [(usize, Pace); 2] = [(1_000, Pace::Late), (1_000_000, Pace::InChunks)];

impl Case {
    fn path(&self) -> String {
        let deployment = format!("{}-{}-{}", self.name, self.manner, self.number);
        chat_request().deployment(&deployment).path
    }

    fn body(&self) -> Vec<u8> {
        const START: &[u8] = br#"{"messages":[{"role":"user","content":""#;
        const END: &[u8] = br#""}]}"#;
        if self.size == 0 {
            return Vec::new();
        }
        let filler = vec![b'x'; self.size - START.len() - END.len()];
        [START, &filler, END].concat()
    }

    fn begin(&self, client: &Client) -> Upload {
        let (path, headers) = (self.path(), [("content-type", "application/json")]);
        let begun = match self.pace {
            Pace::InChunks => client.upload("POST", &path, &headers),
            _ => client.upload_of(self.size, "POST", &path, &headers),
        };
        begun.unwrap()
    }

    /// Sends the body until the other side stops reading.
    fn send(&self, upload: &mut Upload, body: &[u8]) {
        let (pieces, pause) = match self.pace {
            Pace::Late => (1, 300),
            _ => (8, 40),
        };
        for piece in body.chunks(body.len().div_ceil(pieces).max(1)) {
            sleep(Duration::from_millis(pause));
            if upload.chunk(piece).is_err() {
                return;
            }
        }
    }

    fn answer(&self, client: &Client) -> io::Result<Stream> {
        let mut upload = self.begin(client);
        self.send(&mut upload, &self.body());
        upload.finish()
    }

    /// Whether the other backend must serve the request.
    ///
    /// A body that the gateway holds until it is complete can be sent again. Envoy's router keeps a copy of other
    /// bodies, but an early answer to such a request is not held. The status alone decides.
    fn must_be_served(&self, engine: Engine) -> bool {
        let is_held = match (self.pace, engine) {
            (Pace::InChunks, _) => false,
            (_, Engine::Router) => self.size <= REPLAY_LIMIT,
            _ => self.size <= HELD_UNTIL_COMPLETE,
        };
        let has_copy = engine == Engine::Router && self.size <= REPLAY_LIMIT;
        let needs_code = matches!(self.status, 403 | 404);
        self.is_retried && (is_held || has_copy && !needs_code)
    }

    fn is_right(&self, engine: Engine, status: u16) -> bool {
        if self.must_be_served(engine) {
            return status == 200;
        }
        // A close with unread bytes resets the connection, and the reset may overtake the answer. A request may also
        // begin on a connection that its backend was about to close.
        let is_cut = self.manner == "unread" && status == 200 || status == 503;
        status == self.status || is_cut || self.is_retried && status == 200
    }
}

/// Calls `act` for each case, some at a time. Returns the errors.
fn for_each(cases: &[Case], act: impl Fn(&Case) -> Result<(), String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let wrong = parallel(AT_ONCE, |_| {
        let mut wrong = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(what) = act(case) {
                wrong.push(format!("{case:?}: {what}"));
            }
        }
        wrong
    });
    wrong.concat()
}

/// Requests met every kind of error in every manner.
fn assert_all_met(azure: &Simulator) {
    let requests = azure.backend("east").requests();
    for (name, ..) in ERRORS {
        for manner in MANNERS {
            let path = format!("/{name}-{manner}-");
            let mut met = requests.iter().filter(|r| r.path.contains(&path));
            assert!(met.next().is_some(), "{path} was never asked for");
        }
    }
}

const SIZES: [usize; 6] = [0, 1_000, 64_000, 1_000_000, 4_000_000, 5_000_000];
const PACES: [Pace; 3] = [Pace::Late, Pace::InPieces, Pace::InChunks];

fn serves(engine: Engine, http2: bool, tokens: Tokens, cases: &[Case]) {
    let azure = misbehaving();
    let gateway = gateway(&azure, engine, http2);
    tokens.set(&azure);
    let client = gateway.client().give_up_after(LONGEST);
    let wrong = for_each(cases, |case| {
        let answer = case.answer(&client).map_err(|error| error.to_string())?;
        let took = answer.head_at - answer.started;
        if case.is_right(engine, answer.status) && took < LONGEST {
            return Ok(());
        }
        Err(format!("{} after {took:?}", answer.status))
    });
    gateway.assert_unharmed();
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        cases.len()
    );
    gateway.assert_quiet_within(5 * SECOND);
    assert_all_met(&azure);
}

/// The moments at which the client disconnects.
const LEAVES: [Leave; 4] = [
    Leave::BeforeTheBody,
    Leave::InTheBody,
    Leave::AfterTheBody,
    Leave::InTheAnswer,
];

#[derive(Clone, Copy)]
enum Leave {
    BeforeTheBody,
    /// With half of the body sent.
    InTheBody,
    AfterTheBody,
    /// With the answer's head read.
    InTheAnswer,
}

impl Leave {
    /// Begins the request, and disconnects some time later.
    fn from(self, client: &Client, case: &Case, later: Duration) {
        let mut upload = case.begin(client);
        let body = case.body();
        match self {
            Self::BeforeTheBody => {}
            Self::InTheBody => case.send(&mut upload, &body[..body.len() / 2]),
            Self::AfterTheBody => case.send(&mut upload, &body),
            Self::InTheAnswer => {
                case.send(&mut upload, &body);
                // Other tests show that there is an answer.
                drop(upload.finish());
                return;
            }
        }
        sleep(later);
        upload.disconnect();
    }
}

fn survives_leaving(engine: Engine, http2: bool) {
    let azure = misbehaving();
    let gateway = gateway(&azure, engine, http2);
    Tokens::Slow.set(&azure);
    let client = gateway.client().give_up_after(LONGEST);
    let cases = all_cases(&TWO_BODIES);
    for leave in LEAVES {
        let wrong = for_each(&cases, |case| {
            let later = Duration::from_millis(case.number as u64 * 37 % 500);
            leave.from(&client, case, later);
            Ok(())
        });
        assert!(wrong.is_empty());
        gateway.assert_unharmed();
    }
    gateway.assert_quiet_within(5 * SECOND);
    azure.imds().clear();
    assert_eq!(gateway.chat(&chat_request().deployment("any")).status, 200);
    assert_all_met(&azure);
}

cases! {
    fn case_57_clients_that_leave_early_errors_over_http_1(engine) {
        survives_leaving(engine, false);
    }

    fn case_57_clients_that_leave_early_errors_over_http_2(engine) {
        survives_leaving(engine, true);
    }

    fn case_57_early_errors_over_http_1_with_a_fast_token_service(engine) {
        let bodies: Vec<_> = SIZES.into_iter().flat_map(|size| PACES.map(|pace| (size, pace))).collect();
        serves(engine, false, Tokens::Fast, &all_cases(&bodies));
    }

    fn case_57_early_errors_over_http_1_with_a_slow_token_service(engine) {
        serves(engine, false, Tokens::Slow, &all_cases(&TWO_BODIES));
    }

    fn case_57_early_errors_over_http_1_with_a_dead_token_service(engine) {
        serves(engine, false, Tokens::Refused, &all_cases(&TWO_BODIES));
    }

    fn case_57_early_errors_over_http_1_with_a_silent_token_service(engine) {
        serves(engine, false, Tokens::Silent, &all_cases(&TWO_BODIES));
    }

    fn case_57_early_errors_over_http_2(engine) {
        serves(engine, true, Tokens::Fast, &all_cases(&TWO_BODIES));
    }

    fn case_57_early_errors_over_http_2_with_a_slow_token_service(engine) {
        serves(engine, true, Tokens::Slow, &all_cases(&TWO_BODIES));
    }

    fn case_57_early_errors_over_http_2_with_a_dead_token_service(engine) {
        serves(engine, true, Tokens::Refused, &all_cases(&TWO_BODIES));
    }
}
