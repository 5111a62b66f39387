//! Random orders of difficult events. Envoy must survive, every request must get an answer in time, and every request
//! that a backend could serve must be served.
//!
//! Two of three backends misbehave, each in its own way for each request: the request's path decides. The third one
//! never does, so every request that can be sent again must be served. Meanwhile tokens are revoked, the token service
//! and backends fail and return, and the configuration changes.
//!
//! `AOAI_NET_SEED` repeats the run with a printed seed. `AOAI_NET_MINUTES` makes each run longer.

use std::env;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{
    cases, chat_request, simulate, simulate_with, Client, Ending, Engine, Gateway, SetOnDrop,
    Update, Upload,
};
use serde_json::{json, Value};
use simulator::{ImdsBehaviour, Simulator};

use crate::faults::{faults, Faults, Kind};
use crate::random::Random;

const SECOND: Duration = Duration::from_secs(1);
/// The number of clients at a time.
const CLIENTS: u64 = 14;
/// `retry.per_try_timeout`.
const PER_TRY: Duration = Duration::from_secs(4);
/// Two attempts that hang, two errors that stall, a token that is renewed twice, and some time for a busy machine.
const LONGEST: Duration = Duration::from_secs(25);

/// Answers that end are shorter than this.
const FLOOD: usize = 500_000;

/// The backends that misbehave. `well` never does.
const BAD: [&str; 2] = ["bad", "worse"];

/// The way in which a client sends its body.
#[derive(Clone, Copy, Debug)]
enum Sends {
    AtOnce,
    Late,
    InPieces,
    /// In chunks, and more than the gateway holds until a body is complete.
    Much,
}

/// The moment at which a client disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Never,
    BeforeTheBody,
    InTheBody,
    AfterTheBody,
    InTheAnswer,
}

/// One request.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    is_stream: bool,
    kinds: [Kind; 2],
    sends: Sends,
    leaves: Leaves,
    /// The time from that moment to the disconnection.
    lingers: Duration,
}

impl Request {
    /// Whether the body is held until the request is served, so that it can be sent again.
    fn is_held(&self) -> bool {
        !matches!(self.sends, Sends::Much)
    }
}

/// The protocol to the backends, and the kind of 401s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// HTTP/1.1, and backends refuse good tokens.
    RefusedTokens,
    /// HTTP/2, and all tokens are revoked now and then.
    RevokedTokens,
}

struct Net {
    seed: u64,
    engine: Engine,
    variant: Variant,
    faults: Faults,
    client: Client,
    is_over: AtomicBool,
    requests: AtomicU64,
    served: AtomicU64,
    cut: AtomicU64,
    left: AtomicU64,
    excused: AtomicU64,
    wrong: Mutex<Vec<String>>,
    /// Times in which events may have been too much for requests in progress.
    hard_times: Mutex<Vec<HardTime>>,
}

/// A time in which requests need not be served.
struct HardTime {
    ended: Option<Instant>,
    whose: Whose,
}

/// The requests that a hard time excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Everyones,
    /// Requests that are sent once, because their body is not held.
    SentOnce,
}

impl Net {
    fn request(&self, random: &mut Random) -> Request {
        let names: Vec<&str> = self.faults.keys().copied().collect();
        let chosen = BAD.map(|_| random.of(&names));
        let deployment = random.of(&["gpt-4o", "gpt-4o-mini", "gpt-5"]);
        let mut path = chat_request().deployment(deployment).path;
        for (backend, fault) in BAD.iter().zip(chosen) {
            path += &format!("&{backend}={fault}&");
        }
        Request {
            path,
            is_stream: random.below(3) == 0,
            kinds: chosen.map(|name| self.faults[name].0),
            sends: random.of(&[
                Sends::AtOnce,
                Sends::AtOnce,
                Sends::Late,
                Sends::InPieces,
                Sends::Much,
            ]),
            leaves: match random.below(8) {
                0 => random.of(&[
                    Leaves::BeforeTheBody,
                    Leaves::InTheBody,
                    Leaves::AfterTheBody,
                    Leaves::InTheAnswer,
                ]),
                _ => Leaves::Never,
            },
            lingers: random.milliseconds(500),
        }
    }

    /// Whether the request must be served, whatever its two backends do: it can be sent again, and Envoy loses no
    /// answer to it.
    fn must_be_served(&self, request: &Request) -> bool {
        let is_held = request.is_held();
        // The filter engine cannot send such a request again, and a token may be revoked.
        if !is_held && self.variant == Variant::RevokedTokens && self.engine == Engine::Filter {
            return false;
        }
        request.kinds.iter().all(|kind| match kind {
            Kind::Served | Kind::Cut => true,
            Kind::Fails | Kind::Breaks => is_held || self.engine == Engine::Router,
            Kind::FailsByCode => is_held,
            // When the connection breaks, Envoy replaces an answer that the listener's filter holds by its own.
            Kind::BreaksInError => self.engine == Engine::Router,
        })
    }

    fn note(&self, request: &Request, began: Instant, what: &str) {
        // An event in this time excuses the request.
        let hard_times = self.hard_times.lock().unwrap();
        let excuses = |time: &HardTime| {
            let is_concerned = time.whose == Whose::Everyones || !request.is_held();
            is_concerned && time.ended.is_none_or(|ended| ended > began)
        };
        if hard_times.iter().any(excuses) {
            self.excused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.wrong
            .lock()
            .unwrap()
            .push(format!("{what} after {:?}: {request:?}", began.elapsed()));
    }

    fn perform(&self, request: &Request) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        match self.answer(request) {
            Ok(None) => {
                self.left.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some((200, _, Ending::Complete))) => {
                self.served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some((
                200,
                backend,
                Ending::Cut(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
            ))) if BAD.contains(&backend.as_str()) => {
                self.cut.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some((status, _, Ending::Complete)))
                if status != 200 && !self.must_be_served(request) =>
            {
                self.excused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some((status, backend, ending))) => {
                self.note(
                    request,
                    began,
                    &format!("{status} of {backend:?}, {ending:?}"),
                );
            }
            Err(error) => self.note(request, began, &format!("no answer: {error}")),
        }
        if began.elapsed() > LONGEST {
            self.note(request, began, "too late");
        }
    }

    /// The answer's status, its backend, and its end; `None` if the client disconnected before.
    fn answer(&self, request: &Request) -> io::Result<Option<(u16, String, Ending)>> {
        let mut chat = chat_request();
        chat.body["stream"] = request.is_stream.into();
        let size = if matches!(request.sends, Sends::Much) {
            700_000
        } else {
            1_000
        };
        let body = chat.padded(size).bytes();
        let (path, headers) = (&request.path, [("content-type", "application/json")]);
        let mut upload = match request.sends {
            Sends::Much => self.client.upload("POST", path, &headers)?,
            _ => self.client.upload_of(body.len(), "POST", path, &headers)?,
        };
        match request.leaves {
            Leaves::BeforeTheBody => {}
            Leaves::InTheBody => send(&mut upload, request.sends, &body[..body.len() / 2]),
            _ => send(&mut upload, request.sends, &body),
        }
        if !matches!(request.leaves, Leaves::Never | Leaves::InTheAnswer) {
            sleep(request.lingers);
            upload.disconnect();
            return Ok(None);
        }
        let stream = upload.finish()?;
        if request.leaves == Leaves::InTheAnswer {
            sleep(request.lingers / 10);
            stream.disconnect();
            return Ok(None);
        }
        let backend = stream.header("x-sim-backend").unwrap_or_default();
        let (status, backend) = (stream.status, backend.to_owned());
        Ok(Some((status, backend, end_of(stream))))
    }

    fn client(&self, seed: u64) {
        let mut random = Random(seed);
        while !self.is_over.load(Ordering::Relaxed) {
            let request = self.request(&mut random);
            self.perform(&request);
            sleep(random.milliseconds(40));
        }
    }

    fn hard_time_begins(&self, whose: Whose) {
        self.hard_times
            .lock()
            .unwrap()
            .push(HardTime { ended: None, whose });
    }

    /// Ends the last hard time.
    fn hard_time_ends(&self) {
        if let Some(time) = self.hard_times.lock().unwrap().last_mut() {
            time.ended = Some(Instant::now());
        }
    }
}

/// The end of an answer. A flood of an error may reach a client, and has no end.
fn end_of(mut stream: e2e::Stream) -> Ending {
    let (started, mut length) = (stream.started, 0);
    for part in stream.by_ref() {
        length += part.bytes.len();
        if length > FLOOD {
            return Ending::Complete;
        }
        if part.at - started > LONGEST {
            return Ending::Cut(io::ErrorKind::TimedOut);
        }
    }
    stream.ending().cloned().unwrap_or(Ending::Complete)
}

/// Sends a body until the other side stops reading.
fn send(upload: &mut Upload, sends: Sends, body: &[u8]) {
    let (pieces, pause) = match sends {
        Sends::AtOnce => (1, 0),
        Sends::Late => (1, 300),
        Sends::InPieces | Sends::Much => (5, 50),
    };
    for piece in body.chunks(body.len().div_ceil(pieces).max(1)) {
        sleep(Duration::from_millis(pause));
        if upload.chunk(piece).is_err() {
            return;
        }
    }
}

/// The events that affect all requests.
struct Events<'a> {
    net: &'a Net,
    azure: &'a Simulator,
    gateway: &'a mut Gateway,
    random: Random,
    began: Instant,
    revoked: Option<Instant>,
    reloaded: Option<Instant>,
}

type Event<'a> = fn(&mut Events<'a>);

impl<'a> Events<'a> {
    fn next(&mut self) {
        let mut events: Vec<(&str, Event<'a>)> = vec![
            ("tokens are revoked", Self::revoke),
            (
                "tokens are revoked, the token service is slow",
                Self::slow_revoke,
            ),
            (
                "tokens are revoked, the token service is away",
                Self::revoke_without_service,
            ),
            ("the token service is slow", Self::slow_tokens),
            ("the token service is away", Self::no_tokens),
            ("the token service is silent", Self::silent_tokens),
            ("another configuration", Self::reload),
            ("a wrong configuration", Self::wrong_reload),
            ("a backend is away", Self::stop_a_backend),
        ];
        if !self.may_revoke() {
            events.drain(..3);
        }
        let (what, event) = self.random.of(&events);
        let began = Instant::now();
        event(self);
        eprintln!(
            "{:6.2?} {what}, for {:.2?}",
            self.began.elapsed(),
            began.elapsed()
        );
        sleep(Duration::from_millis(300) + self.random.milliseconds(1200));
    }

    /// Whether a token that is revoked now is renewed. That is true once in 30 s. It is also true after every worker
    /// had time to see each backend accept the last token, which a worker forgets with its configuration.
    fn may_revoke(&self) -> bool {
        let passed = |since: Option<Instant>, time| since.is_none_or(|at| at.elapsed() > time);
        let are_accepted = passed(self.revoked, 5 * SECOND) && passed(self.reloaded, 5 * SECOND);
        self.net.variant == Variant::RevokedTokens
            && (are_accepted || passed(self.revoked, 40 * SECOND))
    }

    fn revoke(&mut self) {
        self.azure.imds().revoke_all();
        self.revoked = Some(Instant::now());
    }

    fn slow_revoke(&mut self) {
        self.azure.imds().set(ImdsBehaviour::normal().after_ms(400));
        self.revoke();
        sleep(SECOND);
        self.azure.imds().clear();
    }

    /// No backend can serve until the token service is back.
    fn revoke_without_service(&mut self) {
        let imds = self.azure.imds();
        self.net.hard_time_begins(Whose::Everyones);
        match self.random.below(3) {
            0 => imds.stop(),
            1 => imds.set(ImdsBehaviour::hang()),
            _ => imds.set(ImdsBehaviour::status(500)),
        }
        self.revoke();
        sleep(self.random.milliseconds(2000));
        let imds = self.azure.imds();
        imds.clear();
        imds.restart().unwrap();
        // `well` refused the revoked token too, and may be in cooldown for that.
        let is_served_by_well = |gateway: &Gateway| {
            let answer = gateway.chat(&chat_request());
            answer.status == 200 && answer.header("x-sim-backend") == Some("well")
        };
        self.gateway.wait_for(
            |gateway| (0..3).any(|_| is_served_by_well(gateway)),
            60 * SECOND,
            "a good token",
        );
        self.net.hard_time_ends();
    }

    fn slow_tokens(&mut self) {
        self.azure.imds().set(ImdsBehaviour::normal().after_ms(400));
        sleep(self.random.milliseconds(1500));
        self.azure.imds().clear();
    }

    fn no_tokens(&mut self) {
        self.settle_tokens();
        self.azure.imds().stop();
        sleep(self.random.milliseconds(1500));
        self.azure.imds().restart().unwrap();
    }

    fn silent_tokens(&mut self) {
        self.settle_tokens();
        self.azure.imds().set(ImdsBehaviour::hang());
        sleep(self.random.milliseconds(1500));
        self.azure.imds().clear();
    }

    /// A revoked token must be renewed before the token service may fail.
    fn settle_tokens(&self) {
        if self.revoked.is_some_and(|at| at.elapsed() < 3 * SECOND) {
            sleep(3 * SECOND);
        }
    }

    fn reload(&mut self) {
        let mut plugin = self.gateway.plugin();
        plugin["retry"]["statuses"] =
            json!([408, 429, 500, 502, 503, 504, 505 + self.random.below(50)]);
        plugin["policy"] = json!(self.random.of(&["round_robin", "least_throttled"]));
        assert_eq!(self.gateway.update(plugin), Update::Accepted);
        self.reloaded = Some(Instant::now());
    }

    fn wrong_reload(&mut self) {
        let good = self.gateway.plugin();
        let mut wrong = good.clone();
        wrong["retry"]["max_attempts"] = Value::Null;
        assert!(matches!(self.gateway.update(wrong), Update::Rejected(_)));
        assert_eq!(self.gateway.update(good), Update::Accepted);
        self.reloaded = Some(Instant::now());
    }

    fn stop_a_backend(&mut self) {
        let name = self.random.of(&BAD);
        let backend = self.azure.backend(name);
        let is_hard = self.net.engine == Engine::Filter;
        if is_hard {
            // Answers that the filter engine holds are lost with their connections, as in `Kind::BreaksInError`.
            self.net.hard_time_begins(Whose::Everyones);
        }
        backend.stop();
        if is_hard {
            self.net.hard_time_ends();
            // The filter engine cannot send a request to another backend if it has not held the body.
            self.net.hard_time_begins(Whose::SentOnce);
        }
        sleep(self.random.milliseconds(600));
        backend.restart().unwrap();
        if is_hard {
            self.net.hard_time_ends();
        }
    }
}

fn seed() -> u64 {
    match env::var("AOAI_NET_SEED") {
        Ok(seed) => seed.parse().expect("AOAI_NET_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |time| time.as_secs()),
    }
}

fn length() -> Duration {
    match env::var("AOAI_NET_MINUTES") {
        Ok(minutes) => SECOND.mul_f64(
            60.0 * minutes
                .parse::<f64>()
                .expect("AOAI_NET_MINUTES is a number"),
        ),
        Err(_) => 25 * SECOND,
    }
}

fn simulated(faults: &Faults) -> Simulator {
    let azure = simulate_with(&[BAD[0], "well", BAD[1]], |settings| {
        settings.audit_bodies = false
    });
    for name in BAD {
        let lines = faults.iter().map(|(fault, (_, behaviour))| {
            let behaviour = behaviour.clone().on_path(&format!("&{name}={fault}&"));
            behaviour.times(u32::MAX)
        });
        azure.backend(name).queue(lines.collect());
    }
    azure
}

fn gateway(azure: &Simulator, engine: Engine, variant: Variant) -> Gateway {
    let mut gateway = Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .workers(2)
        .log_level("info")
        .plugin(move |p| {
            p["cooldown"] = match variant {
                Variant::RefusedTokens => Value::Null,
                // The cooldowns are short, so that the misbehaving backends get requests.
                Variant::RevokedTokens => json!({
                    "throttled": "100ms", "shortest": "0s", "longest": "1s", "failing": "200ms", "misconfigured": "1s",
                }),
            };
            p["retry"] = json!({"max_attempts": 5, "per_try_timeout": "4s", "budget": null});
        });
    if variant == Variant::RevokedTokens {
        gateway = gateway.http2_to_backends();
    }
    gateway.start()
}

fn cast(engine: Engine, variant: Variant) {
    let seed = seed();
    eprintln!("AOAI_NET_SEED={seed}");
    let mut faults = faults();
    let http2 = variant == Variant::RevokedTokens;
    if http2 {
        // Some faults end the connection, and with it other requests on it. Others refuse good tokens.
        faults.retain(|name, (kind, _)| {
            *kind != Kind::Breaks && *name != "failing-resets" && !name.starts_with("token")
        });
    }
    let azure = simulated(&faults);
    let mut gateway = gateway(&azure, engine, variant);
    assert_eq!(gateway.chat(&chat_request()).status, 200);
    let net = Net {
        seed,
        engine,
        variant,
        faults,
        client: gateway.client().give_up_after(LONGEST),
        is_over: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        served: AtomicU64::new(0),
        cut: AtomicU64::new(0),
        left: AtomicU64::new(0),
        excused: AtomicU64::new(0),
        wrong: Mutex::default(),
        hard_times: Mutex::default(),
    };
    let end = Instant::now() + length();
    scope(|scope| {
        let net = &net;
        for number in 0..CLIENTS {
            scope.spawn(move || net.client(seed.wrapping_mul(1000) + number));
        }
        let mut events = Events {
            net,
            azure: &azure,
            gateway: &mut gateway,
            random: Random(seed),
            began: Instant::now(),
            revoked: None,
            reloaded: None,
        };
        // A panic among the events ends the clients too.
        let _end = SetOnDrop(&net.is_over);
        while Instant::now() < end {
            events.next();
        }
    });
    net.judge(&gateway);
}

impl Net {
    fn judge(&self, gateway: &Gateway) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let wrong = self.wrong.lock().unwrap();
        let (requests, excused) = (count(&self.requests), count(&self.excused));
        eprintln!(
            "{:?}, {:?}: {requests} requests: {} served, {} cut, {} left, {excused} excused, {} wrong",
            self.engine,
            self.variant,
            count(&self.served),
            count(&self.cut),
            count(&self.left),
            wrong.len(),
        );
        gateway.assert_unharmed();
        assert!(
            wrong.is_empty(),
            "AOAI_NET_SEED={}: {:#?}",
            self.seed,
            &wrong[..wrong.len().min(20)]
        );
        assert!(count(&self.served) * 2 > requests, "most are served");
        gateway.assert_quiet_within(PER_TRY + 6 * SECOND);
        for _ in 0..30 {
            assert_eq!(
                gateway.chat(&chat_request()).status,
                200,
                "afterwards all is well"
            );
        }
    }
}

cases! {
    fn a_net_of_faults_over_http_1(engine) {
        cast(engine, Variant::RefusedTokens);
    }

    fn a_net_of_faults_and_revoked_tokens_over_http_2(engine) {
        cast(engine, Variant::RevokedTokens);
    }

    fn tokens_revoked_under_load_cost_no_request(engine) {
        let azure = simulate(&["east", "west", "north"]);
        azure.imds().set(ImdsBehaviour::normal().after_ms(300));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        let client = gateway.client();
        let chat = chat_request();
        scope(|scope| {
            // Twelve a second for ten seconds, each by its own client.
            let requests: Vec<_> = (0..120_u32)
                .map(|number| {
                    let (client, chat) = (&client, &chat);
                    scope.spawn(move || {
                        sleep(SECOND * number / 12);
                        client.send("POST", &chat.path, &[], &chat.bytes()).map(|answer| answer.status)
                    })
                })
                .collect();
            sleep(3 * SECOND);
            azure.imds().revoke_all();
            for (number, request) in requests.into_iter().enumerate() {
                let status = request.join().unwrap();
                assert!(matches!(status, Ok(200)), "request {number}: {status:?}");
            }
        });
        gateway.assert_unharmed();
        assert_eq!(azure.imds().tokens().len(), 2);
        let refused = azure.requests().iter().filter(|request| request.status == Some(401)).count();
        assert!(refused > 0, "the old token was refused");
    }
}

mod router_engine_alone {
    use super::*;

    e2e::cases! { router:
    fn an_upload_that_meets_a_revoked_token_waits_for_the_next_one(engine) {
        let azure = simulate(&["east", "west"]);
        azure.imds().set(ImdsBehaviour::normal().after_ms(300));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let chat = chat_request();
        assert_eq!(gateway.chat(&chat).status, 200);
        azure.imds().revoke_all();
        let client = gateway.client();
        let headers = [("content-type", "application/json")];
        let path = chat.path.clone();
        let body = chat.padded(700_000).bytes();
        let mut upload = client.upload("POST", &path, &headers).unwrap();
        send(&mut upload, Sends::Much, &body);
        let answer = upload.finish().unwrap().read_to_end();
        assert_eq!((answer.status, &answer.ending), (200, &Ending::Complete));
        gateway.assert_unharmed();
        let served = azure.requests().into_iter().filter(|request| request.body_len == body.len() as u64);
        let served: Vec<_> = served.filter(|request| request.body_complete && request.status == Some(200)).collect();
        assert_eq!(served.len(), 1, "{served:?}");
        assert_eq!(served[0].body[..], body[..]);
    }
    }
}
