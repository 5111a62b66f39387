//! Case 54: every fault of a backend with every kind of request. `docs/failure-modes.md` states each result, and this
//! test verifies it.
//!
//! Each cell has its own backends and deployments. The first deployment has a backend with the fault, which is
//! preferred, and one without a fault. The second deployment has only a backend with the fault.

mod page;
mod requests;
mod rows;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use e2e::{cases, parallel, simulate_with, Client, Ending, Engine, Gateway};
use serde_json::{json, Map, Value};
use simulator::{Behaviour, Simulator, Tls};

use self::page::{Cell, Cells, Place};
use self::requests::{send, Kind, Seen};
use self::rows::{rows, Row, Setup};

const SECOND: Duration = Duration::from_secs(1);
/// `retry.per_try_timeout`.
const PER_TRY: &str = "4s";
/// Envoy's limit of silence in an answer. Rendered configurations have 900 s.
const IDLE: &str = "stream_idle_timeout: 10s";
/// Longer than all of these limits.
const LONGEST: Duration = Duration::from_secs(25);
/// The number of cells of an Envoy: two backends each, at most 100 in all.
const CELLS: usize = 48;
/// The number of Envoys at the same time.
const ENVOYS: usize = 3;

/// The shortest time that the page distinguishes.
const AT_ONCE: &str = "at once";

/// The backend that serves requests after another one's fault.
const GOOD: &str = "good";

/// One fault and one kind of request.
#[derive(Clone, Copy)]
struct Case<'r> {
    row: &'r Row,
    kind: Kind,
}

/// The backend with the fault that shares its deployment with the good one.
fn bad(number: usize) -> String {
    format!("bad{number}")
}

/// The backend with the fault that has a deployment of its own.
fn lone(number: usize) -> String {
    format!("lone{number}")
}

fn all_cases(rows: &[Row]) -> Vec<Case<'_>> {
    let kinds = Kind::ALL.iter();
    let cases = kinds.flat_map(|&kind| {
        let rows = rows.iter().filter(move |row| row.kinds.contains(&kind));
        rows.map(move |row| Case { row, kind })
    });
    cases.collect()
}

fn simulated(cases: &[Case<'_>]) -> Simulator {
    let mut names = vec![GOOD.to_owned()];
    names.extend((0..cases.len()).flat_map(|number| [bad(number), lone(number)]));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    simulate_with(&names, |settings| {
        settings.audit_bodies = false;
        settings.imds.cache = false;
        for (number, case) in cases.iter().enumerate() {
            if case.row.setup.needs_tls() {
                settings.backends[1 + 2 * number].tls = Tls::On;
                settings.backends[2 + 2 * number].tls = Tls::On;
            }
        }
    })
}

fn configure(plugin: &mut Value, setups: &[Setup]) {
    let named = |name: &str, suffix: &str| (name.to_owned(), json!(format!("{name}-{suffix}")));
    let shared = (0..setups.len()).map(|number| named(&bad(number), GOOD));
    plugin["backends"][0]["deployments"] = Value::Object(shared.collect());
    plugin["backends"][0]["priority"] = json!(1);
    let mut identities = Map::new();
    for (number, setup) in setups.iter().enumerate() {
        for (at, name) in [(1, bad(number)), (2, lone(number))] {
            let backend = &mut plugin["backends"][at + 2 * number];
            backend["deployments"] = Value::Object([named(&name, "here")].into_iter().collect());
            match setup {
                Setup::BehavesToKey(_) => backend["api_key_env"] = json!("KEY"),
                Setup::BehavesToToken(_) => {
                    identities.insert(name.clone(), json!({"cluster": "imds", "client_id": name}));
                    backend["identity"] = json!(name);
                }
                _ => {}
            }
        }
    }
    for backend in plugin["backends"].as_array_mut().into_iter().flatten() {
        backend["unlisted_deployments"] = json!("refuse");
    }
    if !identities.is_empty() {
        plugin["identities"] = Value::Object(identities);
    }
    plugin["retry"] = json!({"per_try_timeout": PER_TRY, "budget": null});
}

fn begin(case: &Case<'_>, azure: &Simulator, name: &str) {
    let backend = azure.backend(name);
    match case.row.setup {
        Setup::Stopped => backend.stop(),
        Setup::WrongCertificate => backend.set_certificate_for("elsewhere.example").unwrap(),
        Setup::TlsFailure => backend.set_tls_failure(true).unwrap(),
        _ => backend.set(case.row.setup.behaviour()),
    }
}

/// The module's statistics. One thread reads them repeatedly for all cells of an Envoy.
struct Statistics {
    last: Mutex<(Instant, BTreeMap<String, i64>, bool)>,
    changed: Condvar,
}

impl Statistics {
    fn new() -> Self {
        Self {
            last: Mutex::new((Instant::now(), BTreeMap::new(), false)),
            changed: Condvar::new(),
        }
    }

    fn read_until_over(&self, gateway: &Gateway) {
        loop {
            let began = Instant::now();
            let text = gateway.admin("/stats?filter=%5Ewasmcustom.aoai.%28backend%7Cidentity%29");
            let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
            let now = lines
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect();
            let mut last = self.last.lock().unwrap();
            (last.0, last.1) = (began, now);
            let is_over = last.2;
            drop(last);
            self.changed.notify_all();
            if is_over {
                return;
            }
            sleep(SECOND / 4);
        }
    }

    /// Waits until the statistics of a backend meet a condition. Returns the statistics and the time of their reading.
    fn await_that(
        &self,
        what: &str,
        holds: impl Fn(Instant, &BTreeMap<String, i64>) -> bool,
    ) -> (Instant, BTreeMap<String, i64>) {
        let last = self.last.lock().unwrap();
        let (last, wait) = self
            .changed
            .wait_timeout_while(last, 30 * SECOND, |(read, now, _)| !holds(*read, now))
            .unwrap();
        assert!(!wait.timed_out(), "{what}: {:?}", last.1);
        (last.0, last.1.clone())
    }

    /// The statistics of a backend whose request had ended at `asked`, and their time. `earlier` attempts had ended
    /// before that request. A worker reports once a second: the states, then its counts, then the tokens.
    fn of(&self, name: &str, earlier: i64, asked: Instant) -> (Instant, BTreeMap<String, i64>) {
        // No cell makes the module renew this identity's token, so the gauge only counts down.
        const CLOCK: &str = "wasmcustom.aoai.identity._default.seconds_left";
        let prefix = format!("wasmcustom.aoai.backend.{name}.");
        let attempts = format!("{prefix}attempts");
        let outcomes = format!("{prefix}outcome.");
        let stat =
            |now: &BTreeMap<String, i64>, name: &str| now.get(name).copied().unwrap_or_default();
        let ended = |now: &BTreeMap<String, i64>| {
            let outcomes = now.iter().filter(|(name, _)| name.starts_with(&outcomes));
            let ended: i64 = outcomes.map(|(_, count)| count).sum();
            ended > earlier && ended == stat(now, &attempts)
        };
        let (_, first) = self.await_that(name, |read, now| read > asked && ended(now));
        // A late report lowers the gauge by two, and a reading may have a part from before a report and a part from after
        // it. Three seconds less mean that another report is complete.
        let due = stat(&first, CLOCK) - 3;
        let (read, now) = self.await_that(name, |_, now| stat(now, CLOCK) <= due);
        let own = now
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?.to_owned(), value)));
        (read, own.collect())
    }
}

/// Ends the reading, even if a test panics.
struct End<'s>(&'s Statistics);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if let Ok(mut last) = self.0.last.lock() {
            last.2 = true;
        }
    }
}

fn observe(
    case: &Case<'_>,
    number: usize,
    client: &Client,
    azure: &Simulator,
    statistics: &Statistics,
) -> Cell {
    let (with, alone) = (bad(number), lone(number));
    // All cells at once would delay each other.
    sleep(SECOND / 40 * u32::try_from(number).unwrap_or_default());
    let mut earlier = 0;
    if let Setup::BehavesToToken(_) = case.row.setup {
        // Backends that have accepted a token get a new one at once.
        for name in [&with, &alone] {
            assert_eq!(send(client, Kind::Chat, name).unwrap().status, 200);
        }
        earlier = 1;
    }
    begin(case, azure, &with);
    begin(case, azure, &alone);
    scope(|scope| {
        let began = Instant::now();
        let alone = scope.spawn(|| send(client, case.kind, &alone));
        let seen = send(client, case.kind, &with);
        let (read, stats) = statistics.of(&with, earlier, Instant::now());
        let alone = alone.join().unwrap();
        let cell = Cell {
            gets: gets(&seen, &with),
            attempts: match &seen {
                Ok(seen) => seen.attempts.clone().unwrap_or_else(|| "-".to_owned()),
                Err(_) => "-".to_owned(),
            },
            learnt: learnt(&with, read - began, &stats),
            time: match &seen {
                Ok(seen) => time(seen.elapsed).to_owned(),
                Err(_) => "-".to_owned(),
            },
            alone: gets(&alone, &lone(number)),
            alone_time: alone
                .as_ref()
                .map_or("-", |seen| time(seen.elapsed))
                .to_owned(),
        };
        eprintln!(
            "{} / {:?}: {cell:?} {seen:?} {stats:?}",
            case.row.fault, case.kind
        );
        cell
    })
}

fn gets(seen: &io::Result<Seen>, bad: &str) -> String {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            return "nothing".to_owned();
        }
        Err(error) => return format!("no answer: {error}"),
    };
    let from = match seen.by.as_deref() {
        Some(GOOD) => "the next backend's",
        Some(name) => {
            assert_eq!(name, bad);
            "its"
        }
        // The balancer's own answer.
        None => "",
    };
    let answer = match (seen.status, &seen.code) {
        (200 | 101, _) if seen.is_whole || seen.ending != Ending::Complete => "answer".to_owned(),
        (200, _) => "answer as it is".to_owned(),
        (status, Some(code)) if *code != status.to_string() => format!("{status} `{code}`"),
        (status, None) if from.is_empty() => format!("Envoy's {status}"),
        (status, _) => status.to_string(),
    };
    let end = match &seen.ending {
        Ending::Complete => "",
        Ending::Cut(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => ", which stalls",
        Ending::Cut(io::ErrorKind::FileTooLarge) => ", which does not end",
        Ending::Cut(_) => ", cut off",
    };
    let what = format!("{answer}{end}");
    format!("{from} {what}").trim().to_owned()
}

fn time(elapsed: Duration) -> &'static str {
    match elapsed.as_millis() {
        0..1800 => AT_ONCE,
        1800..3200 => "2 s",
        3200..7500 => "timeout",
        _ => "idle limit",
    }
}

fn learnt(backend: &str, age: Duration, stats: &BTreeMap<String, i64>) -> String {
    let stat = |name: &str| stats.get(name).copied().unwrap_or_default();
    // The states were reported up to two seconds before they were read.
    let wait = |name: &str| {
        let left = stat(name) + age.as_secs() as i64;
        match left {
            // The shortest waits are sometimes over before they are reported.
            0..8 => "a moment".to_owned(),
            8..100 => format!("{} s", (left + 5) / 10 * 10),
            _ => format!("{} min", (left + 30) / 60),
        }
    };
    let quota = format!("deployment.{backend}");
    let mut facts = Vec::new();
    match stat("outcome.unavailable") {
        0 => {}
        1 => facts.push("a failure".to_owned()),
        many => facts.push(format!("{many} failures")),
    }
    if stat("outcome.bad_token") > 0 {
        facts.push("a refused token".to_owned());
    }
    if stat("missing_deployments") > 0 {
        facts.push("missing deployment".to_owned());
    }
    match stat(&format!("{quota}.state")) {
        0 if stat("outcome.throttled") > 0 => facts.push("throttled for a moment".to_owned()),
        0 => {}
        1 => facts.push(format!(
            "throttled for {}",
            wait(&format!("{quota}.seconds"))
        )),
        _ => facts.push(format!(
            "advice to wait {}",
            wait(&format!("{quota}.seconds"))
        )),
    }
    match stat("state") {
        0 | 1 => {}
        2 => facts.push(format!("failing for {}", wait("cooldown_seconds"))),
        3 => facts.push(format!("misconfigured for {}", wait("cooldown_seconds"))),
        _ => facts.push("recovering".to_owned()),
    }
    if facts.is_empty() {
        facts.push("nothing".to_owned());
    }
    facts.join(", ")
}

/// The cells of these cases, in their own Envoy.
fn run(engine: Engine, cases: &[Case<'_>]) -> Vec<Cell> {
    let azure = simulated(cases);
    let setups: Vec<_> = cases.iter().map(|case| case.row.setup.clone()).collect();
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .log_level("info")
        .secret("KEY", "A-KEY")
        .plugin(move |p| configure(p, &setups))
        .rewrite("stream_idle_timeout: 900s", IDLE)
        .start();
    let client = gateway.client().give_up_after(LONGEST);
    let statistics = Statistics::new();
    let cells = scope(|scope| {
        let _end = End(&statistics);
        scope.spawn(|| statistics.read_until_over(&gateway));
        // Every identity has its token.
        statistics.await_that("a token", |_, now| {
            now.get("wasmcustom.aoai.identity.seconds_to_expiry")
                .is_some_and(|left| *left > 0)
        });
        parallel(cases.len(), |number| {
            observe(&cases[number], number, &client, &azure, &statistics)
        })
    });
    gateway.assert_unharmed();
    gateway.assert_quiet_within(LONGEST);
    cells
}

/// The cells of all these cases, some Envoys at a time.
fn run_all(engine: Engine, cases: &[Case<'_>]) -> Cells {
    let parts: Vec<_> = cases.chunks(CELLS).collect();
    let next = AtomicUsize::new(0);
    let done = parallel(ENVOYS.min(parts.len()), |_| {
        let mut done = Vec::new();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.extend(part.iter().copied().zip(run(engine, part)));
        }
        done
    });
    let cells = done.into_iter().flatten();
    cells
        .map(|(case, cell)| (place(engine, case), cell))
        .collect()
}

fn place(engine: Engine, case: Case<'_>) -> Place {
    let Row { group, fault, .. } = case.row;
    let is_router = page::is_router(engine);
    (
        (*group).to_owned(),
        (*fault).to_owned(),
        case.kind,
        is_router,
    )
}

/// Only one test at a time writes the page.
static PAGE: Mutex<()> = Mutex::new(());

/// Only one engine at a time has the machine.
static MACHINE: Mutex<()> = Mutex::new(());

fn hold(engine: Engine) {
    // A failed test has released the machine, too.
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = rows();
    let cases = all_cases(&rows);
    let mut measured = run_all(engine, &cases);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        let late = |case: &Case<'_>| {
            let cell = &measured[&place(engine, *case)];
            cell.time != AT_ONCE || cell.alone_time != AT_ONCE
        };
        let late: Vec<_> = cases.iter().copied().filter(late).collect();
        measured.append(&mut run_all(engine, &late));
        let _lock = PAGE.lock().unwrap();
        let text = fs::read_to_string(page::path()).unwrap();
        let mut cells = page::cells(&rows, &text);
        cells.retain(|place, _| place.3 != page::is_router(engine));
        cells.append(&mut measured);
        let text = page::with_tables(&text, &page::tables(&rows, &cells));
        fs::write(page::path(), text).unwrap();
        return;
    }
    let expected = page::cells(&rows, &fs::read_to_string(page::path()).unwrap());
    let differ = |measured: &Cells| -> Vec<Case<'_>> {
        let cases = cases.iter().copied();
        let differs = |case: &Case<'_>| {
            let place = place(engine, *case);
            measured.get(&place) != expected.get(&place)
        };
        cases.filter(differs).collect()
    };
    // A busy machine makes times longer. So only the times are measured again.
    for _ in 0..4 {
        let mut late = differ(&measured);
        late.retain(|case| {
            let place = place(engine, *case);
            let (Some(measured), Some(expected)) = (measured.get(&place), expected.get(&place))
            else {
                return false;
            };
            measured.at_the_times_of(expected) == *expected
        });
        measured.append(&mut run_all(engine, &late));
    }
    let wrong: Vec<_> = differ(&measured)
        .into_iter()
        .map(|case| {
            let place = place(engine, case);
            format!(
                "{place:?}:\n  is      {:?}\n  in page {:?}",
                measured.get(&place),
                expected.get(&place)
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "docs/failure-modes.md is not true:\n{}",
        wrong.join("\n")
    );
}

/// Sends chats until `until` returns true. Each must be served.
fn serve_until(gateway: &Gateway, until: impl Fn(&e2e::Response) -> bool) {
    loop {
        let answer = gateway.chat(&e2e::chat_request());
        assert_eq!(answer.status, 200, "{}", answer.text());
        if until(&answer) {
            return;
        }
        sleep(SECOND / 20);
    }
}

cases! {
    fn case_54_a_flapping_backend_is_used_again_in_time(engine) {
        let azure = e2e::simulate(&["east", "west"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["cooldown"] = json!({"failing": "2s"}))
            .start();
        let by_east = |answer: &e2e::Response| answer.header("x-aoai-backend") == Some("east");
        // A random quarter is added to a cooldown. The second one is twice as long.
        for (round, deadline) in [(1, 2500), (2, 5000)] {
            serve_until(&gateway, by_east);
            azure.backend("east").set(Behaviour::internal_error());
            let failing = Instant::now();
            serve_until(&gateway, |_| failing.elapsed() > 2 * SECOND);
            azure.backend("east").clear();
            let healthy = Instant::now();
            serve_until(&gateway, by_east);
            let took = healthy.elapsed();
            assert!(took < Duration::from_millis(deadline) + SECOND, "round {round}: {took:?}");
        }
    }

    fn case_54_the_fault_matrix_is_as_its_page_says(engine) {
        hold(engine);
    }
}

#[test]
fn the_page_of_the_matrix_is_written_as_it_is_read() {
    let rows = rows();
    let text = fs::read_to_string(page::path()).unwrap();
    let cells = page::cells(&rows, &text);
    assert_eq!(cells.len(), 2 * all_cases(&rows).len());
    assert_eq!(page::with_tables(&text, &page::tables(&rows, &cells)), text);
}
