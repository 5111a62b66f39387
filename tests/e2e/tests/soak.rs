//! Case 55: any number of requests, under random faults, reloads, token rotations and clients that disconnect.
//!
//! Two of four backends misbehave, each in its own way for each request. The others never do, so every request that can
//! be sent again must be served. `cargo xtask soak` runs a million requests. Without its variables these tests take
//! some seconds.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{
    cases, chat_request, module, simulate_with, Client, Connection, Ending, Engine, Gateway,
    SetOnDrop, Update,
};
use serde_json::json;
use simulator::{ImdsBehaviour, Simulator};

use crate::faults::{faults, Faults, Kind};
use crate::random::Random;

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: u64 = 64;
const BAD: [&str; 2] = ["bad", "worse"];
const GOOD: [&str; 2] = ["well", "fine"];
/// Two attempts that hang, and some time for a busy machine.
const LONGEST: Duration = Duration::from_secs(20);
/// The number of requests on one connection.
const KEPT: u64 = 20;
/// The client's credential, which must appear nowhere.
const CREDENTIAL: &str = "CLIENT-SECRET";
/// The time in which every backend gets requests and every worker sees each backend accept the last token.
const BETWEEN_ROTATIONS: Duration = Duration::from_secs(6);
/// The growth of memory allowed after warming up, for fragmentation.
const GROWTH: u64 = 24 << 20;

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

/// The end of the run.
struct Goal {
    requests: u64,
    time: Duration,
    seed: u64,
}

impl Goal {
    fn of_environment() -> Self {
        let asked = variable("AOAI_SOAK_REQUESTS");
        let time = match (variable("AOAI_SOAK_SECONDS"), asked) {
            (Some(seconds), _) => SECOND * u32::try_from(seconds).unwrap_or(u32::MAX),
            // Until all requests are done.
            (None, Some(_)) => Duration::MAX,
            (None, None) => 12 * SECOND,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            requests: asked.unwrap_or(u64::MAX),
            time,
            seed: variable("AOAI_SOAK_SEED").unwrap_or_else(|| now.map_or(1, |now| now.as_secs())),
        }
    }
}

/// The results of requests.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    served: AtomicU64,
    cut: AtomicU64,
    /// Clients that disconnected, and those of them that did before an answer.
    left: AtomicU64,
    /// Unavoidable errors: when a connection breaks, Envoy itself replaces an answer that the filter holds.
    excused: AtomicU64,
    audited: AtomicU64,
}

impl Counts {
    fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Soak {
    goal: Goal,
    engine: Engine,
    faults: Faults,
    began: Instant,
    is_over: AtomicBool,
    counts: Counts,
    wrong: Mutex<Vec<String>>,
    client: Client,
}

/// One request.
struct Request {
    path: String,
    body: Vec<u8>,
    kinds: [Kind; 2],
    leaves: bool,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} bytes", self.path, self.body.len())
    }
}

impl Soak {
    fn request(&self, random: &mut Random) -> Request {
        let names: Vec<&str> = self.faults.keys().copied().collect();
        let is_plain = random.below(10) < 6;
        let chosen = BAD.map(|_| match is_plain {
            true => "none",
            false => random.of(&names),
        });
        let mut chat = chat_request().deployment(random.of(&["gpt-4o", "gpt-4o-mini", "gpt-5"]));
        for (backend, fault) in BAD.iter().zip(chosen) {
            chat.path += &format!("&{backend}={fault}&");
        }
        chat.body["stream"] = (random.below(3) == 0).into();
        Request {
            path: chat.path.clone(),
            body: chat.padded(random.below(3000) as usize).bytes(),
            kinds: chosen.map(|name| self.faults[name].0),
            leaves: random.below(50) == 0,
        }
    }

    fn must_be_served(&self, request: &Request) -> bool {
        let is_lost = |kind: &Kind| *kind == Kind::BreaksInError && self.engine == Engine::Filter;
        !request.kinds.iter().any(is_lost)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
            || self.began.elapsed() > self.goal.time
            || Counts::of(&self.counts.requests) >= self.goal.requests
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 1000 {
            wrong.push(format!("{:.1?} {what}", self.began.elapsed()));
        }
    }

    fn client(&self, seed: u64) {
        let mut random = Random(seed);
        let mut connection: Option<(Connection, u64)> = None;
        while !self.is_over() {
            let request = self.request(&mut random);
            count(&self.counts.requests);
            let began = Instant::now();
            if request.leaves {
                self.leave(&request, &mut random);
                continue;
            }
            let (mut open, used) = match connection.take() {
                Some((open, used)) if open.is_open() && used < KEPT => (open, used),
                _ => match self.client.connect() {
                    Ok(new) => (new, 0),
                    Err(error) => {
                        self.wrong(format!("not connected: {error}"));
                        continue;
                    }
                },
            };
            let headers = [
                ("content-type", "application/json"),
                ("api-key", CREDENTIAL),
                ("authorization", "Bearer CLIENT-SECRET"),
                ("cookie", "session=CLIENT-SECRET"),
            ];
            let answer = open.send("POST", &request.path, &headers, &request.body);
            self.judge(&request, began, &answer);
            if answer.is_ok() {
                connection = Some((open, used + 1));
            }
        }
    }

    fn judge(&self, request: &Request, began: Instant, answer: &io::Result<e2e::Response>) {
        let may_be_cut = request.kinds.contains(&Kind::Cut);
        match answer {
            Ok(answer) if answer.status == 200 && answer.ending == Ending::Complete => {
                count(&self.counts.served);
                if answer.text().contains(CREDENTIAL) {
                    self.wrong(format!("a credential in an answer: {request:?}"));
                }
            }
            Err(error)
                if may_be_cut
                    && matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    )
                    && error.to_string().contains("cut off") =>
            {
                count(&self.counts.cut);
            }
            Ok(_) if !self.must_be_served(request) => count(&self.counts.excused),
            Ok(answer) => self.wrong(format!(
                "{} {:?} after {:?}: {} {request:?}",
                answer.status,
                answer.headers,
                began.elapsed(),
                answer.text()
            )),
            Err(error) => self.wrong(format!("{error} after {:?}: {request:?}", began.elapsed())),
        }
        if began.elapsed() > LONGEST {
            self.wrong(format!("{:?}: {request:?}", began.elapsed()));
        }
    }

    /// A client that disconnects within its request or within its answer.
    fn leave(&self, request: &Request, random: &mut Random) {
        count(&self.counts.left);
        let half = &request.body[..request.body.len() / 2];
        let body = random.of(&[half, &request.body]);
        let headers = [
            ("content-type", "application/json"),
            ("api-key", CREDENTIAL),
        ];
        let length = request.body.len();
        // A client that cannot even begin has disconnected as well.
        if let Ok(mut upload) = self
            .client
            .upload_of(length, "POST", &request.path, &headers)
        {
            let _ = upload.chunk(body);
            sleep(random.milliseconds(30));
        }
    }
}

/// The memory in use, at several times.
type Memory = Vec<(Duration, u64)>;

/// Events that affect all requests, and the checks in between.
struct Events<'s> {
    soak: &'s Soak,
    azure: &'s Simulator,
    gateway: &'s mut Gateway,
    random: Random,
    rotated: Instant,
    reported_at: Instant,
    seen: BTreeMap<String, u64>,
    happened: BTreeMap<&'static str, u64>,
    memory: Memory,
    modules: Vec<PathBuf>,
}

impl Events<'_> {
    fn next(&mut self) {
        let began = Instant::now();
        let what = match self.random.below(10) {
            0..3 if self.rotated.elapsed() > BETWEEN_ROTATIONS => self.rotate(),
            0..5 => self.reload(),
            5 => self.wrong_reload(),
            // The clusters are in a file that Envoy reads at start, so they would keep the old module.
            6 if self.soak.engine == Engine::Filter => self.other_module(),
            _ => self.slow_tokens(),
        };
        *self.happened.entry(what).or_default() += 1;
        self.audit();
        let pause = SECOND + self.random.milliseconds(1000);
        sleep(pause.saturating_sub(began.elapsed()));
        self.tell();
    }

    fn rotate(&mut self) -> &'static str {
        self.azure.imds().revoke_all();
        self.rotated = Instant::now();
        "all tokens revoked"
    }

    fn slow_tokens(&mut self) -> &'static str {
        self.azure.imds().set(ImdsBehaviour::normal().after_ms(300));
        sleep(SECOND / 2);
        self.azure.imds().clear();
        "token service slow"
    }

    fn reload(&mut self) -> &'static str {
        let mut plugin = self.gateway.plugin();
        plugin["retry"]["statuses"] =
            json!([408, 429, 500, 502, 503, 504, 505 + self.random.below(50)]);
        plugin["policy"] = json!(self.random.of(&["round_robin", "least_throttled"]));
        assert_eq!(self.gateway.update(plugin), Update::Accepted);
        "configuration reloaded"
    }

    fn wrong_reload(&mut self) -> &'static str {
        let good = self.gateway.plugin();
        let mut wrong = good.clone();
        wrong["backends"] = json!([]);
        assert!(matches!(self.gateway.update(wrong), Update::Rejected(_)));
        // The file has the valid configuration again.
        let _ = self.gateway.update(good);
        "wrong configuration refused"
    }

    /// A copy of the module, which Envoy takes for another module.
    fn other_module(&mut self) -> &'static str {
        let mut bytes = fs::read(module()).unwrap();
        let mark = format!("{:08}", self.modules.len());
        bytes.extend([0, 10, 1, b'm']);
        bytes.extend(mark.as_bytes());
        let file = tempfile::Builder::new().suffix(".wasm").tempfile().unwrap();
        let path = file.into_temp_path().keep().unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(self.gateway.update_module(&path), Update::Accepted);
        // The new module fetches its first token now.
        self.rotated = Instant::now();
        self.modules.push(path);
        "module reloaded"
    }

    /// Looks for credentials in the requests at backends since the last audit.
    fn audit(&mut self) {
        for backend in self.azure.backends() {
            let seen = self.seen.entry(backend.name().to_owned()).or_default();
            let requests = backend.requests();
            // The tokens are read after the requests, so that each request's token is among them.
            let tokens: BTreeSet<String> = self.azure.imds().tokens().into_iter().collect();
            for request in requests {
                if request.sequence < *seen {
                    continue;
                }
                *seen = request.sequence + 1;
                count(&self.soak.counts.audited);
                let own = request
                    .header("authorization")
                    .and_then(|value| value.strip_prefix("Bearer "));
                let is_own = own.is_some_and(|token| tokens.contains(token));
                let is_clean =
                    !format!("{:?} {}", request.headers, request.path).contains(CREDENTIAL);
                if !is_own || !is_clean || request.header("cookie").is_some() {
                    self.soak.wrong(format!("credentials: {request:?}"));
                }
            }
        }
    }

    fn tell(&mut self) {
        if self.reported_at.elapsed() < 5 * SECOND {
            return;
        }
        self.reported_at = Instant::now();
        let (time, memory) = (self.soak.began.elapsed(), self.gateway.memory());
        self.memory.push((time, memory));
        let counts = &self.soak.counts;
        let requests = Counts::of(&counts.requests);
        eprintln!(
            "{:5.0?} s  {requests:8} requests  {:5.0}/s  {:8} served  {:6} cut  {:6} left  {:5} excused  {:3} wrong  {:4} MiB",
            time.as_secs(),
            requests as f64 / time.as_secs_f64(),
            Counts::of(&counts.served),
            Counts::of(&counts.cut),
            Counts::of(&counts.left),
            Counts::of(&counts.excused),
            self.soak.wrong.lock().unwrap().len(),
            memory >> 20,
        );
    }
}

fn simulated(faults: &Faults) -> Simulator {
    let names = [BAD[0], GOOD[0], BAD[1], GOOD[1]];
    let azure = simulate_with(&names, |settings| {
        settings.audit_bodies = false;
        settings.audit_limit = 3000;
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

fn soak(engine: Engine) {
    let goal = Goal::of_environment();
    eprintln!("AOAI_SOAK_SEED={} {engine:?}", goal.seed);
    let mut faults = faults();
    // Backends that refuse good tokens would use up the renewals for revoked tokens.
    faults.retain(|name, _| !name.starts_with("token"));
    let azure = simulated(&faults);
    let mut gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .workers(2)
        .log_level("info")
        .drain(LONGEST)
        .plugin(|p| {
            p["cooldown"] = json!({
                "throttled": "100ms", "shortest": "0s", "longest": "1s", "failing": "200ms", "misconfigured": "1s",
            });
            p["retry"] = json!({"max_attempts": 5, "per_try_timeout": "2s", "budget": null});
        })
        .start();
    assert_eq!(gateway.chat(&chat_request()).status, 200);
    let seed = goal.seed;
    let soak = Soak {
        goal,
        engine,
        faults,
        began: Instant::now(),
        is_over: AtomicBool::new(false),
        counts: Counts::default(),
        wrong: Mutex::default(),
        client: gateway.client().give_up_after(LONGEST),
    };
    let (memory, happened, modules) = scope(|scope| {
        let soak = &soak;
        for number in 0..CLIENTS {
            scope.spawn(move || soak.client(seed.wrapping_mul(1000) + number));
        }
        let mut events = Events {
            soak,
            azure: &azure,
            gateway: &mut gateway,
            random: Random(seed),
            rotated: Instant::now(),
            reported_at: Instant::now(),
            seen: BTreeMap::new(),
            happened: BTreeMap::new(),
            memory: Vec::new(),
            modules: Vec::new(),
        };
        // A panic among the events ends the clients too.
        let _end = SetOnDrop(&soak.is_over);
        while !soak.is_over() {
            events.next();
        }
        (events.memory, events.happened, events.modules)
    });
    gateway.assert_quiet_within(LONGEST);
    let result = soak.judge_all(&azure, &gateway, &memory, &happened);
    for path in modules {
        let _ = fs::remove_file(path);
    }
    gateway.assert_unharmed();
    let wrong = soak.wrong.lock().unwrap();
    assert!(
        wrong.is_empty(),
        "AOAI_SOAK_SEED={seed}: {} times: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(12)]
    );
    assert!(result.is_empty(), "AOAI_SOAK_SEED={seed}: {result:#?}");
}

impl Soak {
    /// Compares the accounts and prints them. Returns the errors.
    fn judge_all(
        &self,
        azure: &Simulator,
        gateway: &Gateway,
        memory: &Memory,
        happened: &BTreeMap<&str, u64>,
    ) -> Vec<String> {
        let counts = &self.counts;
        let of = Counts::of;
        let (requests, left) = (of(&counts.requests), of(&counts.left));
        let mut wrong = Vec::new();
        let mut rows = vec![
            (
                "seconds".to_owned(),
                self.began.elapsed().as_secs().to_string(),
            ),
            ("requests".to_owned(), requests.to_string()),
            ("served".to_owned(), of(&counts.served).to_string()),
            (
                "cut off by a backend".to_owned(),
                of(&counts.cut).to_string(),
            ),
            ("clients that left".to_owned(), left.to_string()),
            (
                "errors that could not be helped".to_owned(),
                of(&counts.excused).to_string(),
            ),
            (
                "wrong".to_owned(),
                self.wrong.lock().unwrap().len().to_string(),
            ),
            (
                "requests audited for credentials".to_owned(),
                of(&counts.audited).to_string(),
            ),
        ];
        rows.extend(
            happened
                .iter()
                .map(|(what, times)| ((*what).to_owned(), times.to_string())),
        );

        // Workers report counts once a second. Requests whose clients disconnected early may be missing on either side.
        let asked = i64::try_from(azure.upstream_calls()).unwrap_or_default();
        let stat = |stats: &BTreeMap<String, i64>, name: &str| {
            stats
                .get(&format!("wasmcustom.aoai.{name}"))
                .copied()
                .unwrap_or_default()
        };
        let total = |stats: &BTreeMap<String, i64>, part: &str| -> i64 {
            let named = stats
                .iter()
                .filter(|(name, _)| name.contains(".backend.") && name.contains(part));
            named.map(|(_, count)| count).sum()
        };
        let before = Cell::new(-1);
        gateway.wait_for(
            |gateway| {
                // Two equal reports are the final ones.
                sleep(SECOND);
                let now = total(&gateway.stats("wasmcustom.aoai."), ".attempts");
                before.replace(now) == now
            },
            20 * SECOND,
            "the last report",
        );
        let stats = gateway.stats("wasmcustom.aoai.");
        let (attempts, outcomes) = (total(&stats, ".attempts"), total(&stats, ".outcome."));
        let mut compare = |what: &str, counted: i64, account: i64, slack: i64| {
            rows.push((what.to_owned(), format!("{counted} ({account})")));
            if (counted - account).abs() > slack {
                wrong.push(format!(
                    "{what}: {counted}, and {account} by the other account; {slack} may differ"
                ));
            }
        };
        let left = i64::try_from(left).unwrap_or_default();
        let sent = i64::try_from(requests).unwrap_or_default() + 1;
        // A module that ends loses the counts of its last second.
        let reloads = happened.get("module reloaded").copied().unwrap_or_default();
        let second = sent / i64::try_from(self.began.elapsed().as_secs().max(1)).unwrap_or(1);
        let lost = 3 * second * i64::try_from(reloads).unwrap_or_default();
        compare(
            "aoai.requests (clients' account)",
            stat(&stats, "requests"),
            sent,
            left + lost,
        );
        compare("attempts (backends' account)", attempts, asked, left + lost);
        compare("outcomes (attempts)", outcomes, attempts, left);
        let fetches = i64::try_from(azure.imds().count()).unwrap_or_default();
        compare(
            "token fetches (token service's account)",
            stat(&stats, "identity.fetches"),
            fetches,
            i64::try_from(reloads).unwrap_or_default(),
        );

        // After a third of the run, everything has happened once.
        let warm = memory.len() / 3;
        if let (Some((_, early)), Some(late)) = (
            memory.get(warm),
            memory.iter().skip(warm).map(|(_, bytes)| bytes).max(),
        ) {
            rows.push((
                "memory when warm, and at most, MiB".to_owned(),
                format!("{}, {}", early >> 20, late >> 20),
            ));
            if memory.len() >= 6 && *late > early + early / 5 + GROWTH {
                wrong.push(format!("memory grew: {memory:?}"));
            }
        }
        let log = gateway.log();
        let tokens = azure.imds().tokens();
        if log.contains(CREDENTIAL) || tokens.iter().any(|token| log.contains(token)) {
            wrong.push("a credential is in Envoy's log".to_owned());
        }
        let access_log = gateway.access_log();
        let logged = access_log.iter().map(ToString::to_string);
        if logged.into_iter().any(|line| {
            line.contains(CREDENTIAL) || tokens.iter().any(|token| line.contains(token))
        }) {
            wrong.push("a credential is in the access log".to_owned());
        }
        rows.push((
            "tokens, none of which is in a log".to_owned(),
            tokens.len().to_string(),
        ));
        eprintln!("\n{:?} engine", self.engine);
        for (what, value) in &rows {
            eprintln!("  {what:<44} {value}");
        }
        wrong
    }
}

cases! {
    fn case_55_a_soak_of_faults_reloads_and_rotations(engine) {
        soak(engine);
    }
}
