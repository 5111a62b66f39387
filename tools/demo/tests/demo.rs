//! The tour from beginning to end, and the ways in which it may fail.
//!
//! All ports are free ones, so that the tests can run beside other tests and a tour.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use demo::{Processes, Python, Screen, Setup};
use render::{Engine, Fleet};
use rustix::process::{kill_process, Pid, Signal};
use tempfile::TempDir;

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("run `cargo xtask test`: {name} is not set"))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The program with this engine and the module at this path.
fn program(folder: &Path, engine: &str, module: &OsString) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(["--engine", engine]);
    command.arg("--envoy").arg(variable("AOAI_ENVOY_1_40_0"));
    command.arg("--module").arg(module);
    command.arg("--python").arg(variable("AOAI_PYTHON"));
    command
        .arg("--python-path")
        .arg(variable("AOAI_PYTHONPATH"));
    command.arg("--folder").arg(folder);
    command
}

/// Reads until a line contains `text`. Returns all lines so far.
fn read_until(output: &mut impl BufRead, text: &str) -> String {
    let mut read = String::new();
    loop {
        let before = read.len();
        let count = output.read_line(&mut read).expect("the output is text");
        assert!(count > 0, "no line contains {text:?}:\n{read}");
        if read[before..].contains(text) {
            return read;
        }
    }
}

fn started(command: &mut Command) -> (Child, impl BufRead) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the demo starts");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, output)
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).expect("the demo runs");
}

/// The address that Envoy was configured with.
fn envoy_address(output: &str) -> &str {
    let line = output.lines().find(|line| line.contains(" runs "));
    let words = line.expect("a line about Envoy").split_whitespace();
    words
        .into_iter()
        .find(|word| word.starts_with("127.0.0.1:"))
        .expect("an address")
}

/// The setup of the program, with a fleet that a test may change.
fn setup(folder: &Path, engine: Engine, fleet: impl FnOnce(&mut Fleet)) -> Setup {
    let mut setup = Setup {
        envoy: variable("AOAI_ENVOY_1_40_0").into(),
        directory: ".".into(),
        config: None,
        fleet: demo::on_free_ports(demo::clients::local_fleet(engine)),
        admin_port: 0,
        python: Python {
            program: variable("AOAI_PYTHON").into(),
            path: variable("AOAI_PYTHONPATH").into_string().expect("text"),
        },
        folder: folder.to_owned(),
        keep: false,
    };
    setup.fleet.module = variable("AOAI_WASM").into();
    fleet(&mut setup.fleet);
    setup
}

mod filter_engine {
    use super::*;

    #[test]
    fn the_tour_holds_and_everything_keeps_running_until_ctrl_c() {
        let shown = whole_tour("filter");
        assert!(
            shown.contains("it came in one piece, after the last word"),
            "{shown}"
        );
    }

    #[test]
    fn a_balancer_that_does_not_retry_fails_the_tour() {
        does_not_retry(Engine::Filter);
    }
}

mod router_engine {
    use super::*;

    #[test]
    fn the_tour_holds_and_everything_keeps_running_until_ctrl_c() {
        let shown = whole_tour("router");
        assert_eq!(shown.matches("it came word by word").count(), 3, "{shown}");
        shows_what_the_readme_quotes(&shown);
    }

    #[test]
    fn a_balancer_that_does_not_retry_fails_the_tour() {
        does_not_retry(Engine::Router);
    }
}

/// The output has the README's excerpt, except the rows of requests and the time, which differ from run to run.
fn shows_what_the_readme_quotes(shown: &str) {
    let readme = include_str!("../../../README.md");
    let excerpt = readme.split("```text\n").nth(1).expect("an excerpt");
    let excerpt = excerpt.split("```").next().expect("its end");
    let mut found = 0;
    for line in excerpt.lines() {
        let line = line.split(" checks in ").next().unwrap_or_default();
        let same_in_every_run = ["-- ", "  ok  ", "Everything"];
        if same_in_every_run
            .iter()
            .any(|start| line.starts_with(start))
        {
            assert!(
                shown.contains(line),
                "the tour does not say {line:?}:\n{shown}"
            );
            found += 1;
        }
    }
    assert!(found >= 5, "{found}");
}

/// Runs the whole tour, then ends it. Returns the output.
fn whole_tour(engine: &str) -> String {
    let folder = folder();
    let mut command = program(folder.path(), engine, &variable("AOAI_WASM"));
    let (mut child, mut output) = started(command.arg("--keep"));
    let mut shown = read_until(&mut output, "until Ctrl-C");
    assert!(
        shown.contains("  What Envoy counted ")
            && shown.contains("Everything was as it should be")
            && shown.contains(&format!("  retry engine   {engine}: ")),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "colours without a terminal");
    let address = envoy_address(&shown).to_owned();
    TcpStream::connect(&address).expect("Envoy goes on running");
    interrupt(&child);
    output.read_to_string(&mut shown).expect("the rest");
    assert!(child.wait().expect("an end").success());
    assert!(shown.contains("curl -i "), "{shown}");
    TcpStream::connect(&address).expect_err("Envoy has ended");
    shown
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing_behind() {
    let folder = folder();
    let mut command = program(folder.path(), "router", &variable("AOAI_WASM"));
    let (mut child, mut output) = started(&mut command);
    let shown = read_until(&mut output, "-- 2/");
    interrupt(&child);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    TcpStream::connect(envoy_address(&shown)).expect_err("Envoy has ended");
}

fn does_not_retry(engine: Engine) {
    let folder = folder();
    let setup = setup(folder.path(), engine, |fleet| {
        fleet.plugin["retry"] = serde_json::json!({"max_attempts": 1});
    });
    let error = demo::run(setup, Screen::new(), &Processes::default()).expect_err("a failure");
    let text = error.to_string();
    assert!(
        text.starts_with("this does not hold: every request was answered 200\n"),
        "{text}"
    );
    assert!(text.contains("\n  actual    429 with the body {"), "{text}");
    let log = text.rsplit("Envoy's log: ").next().expect("a path");
    assert!(Path::new(log).is_file(), "{text}");
}

#[test]
fn a_module_that_envoy_refuses_ends_the_tour_with_the_reason() {
    let folder = folder();
    let module = OsString::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let output = program(folder.path(), "router", &module)
        .output()
        .expect("the demo starts");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("error: Envoy ended with ")
            && printed.contains("\n  Plugin azure_openai_balancer failed to load\n")
            && printed.contains("\nEnvoy's log: "),
        "{printed}"
    );
}

#[test]
fn an_occupied_port_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let folder = folder();
    let setup = setup(folder.path(), Engine::Filter, |fleet| {
        fleet.listener.port = port
    });
    let error = demo::run(setup, Screen::new(), &Processes::default()).expect_err("a failure");
    let expected = format!("port {port} (Envoy's listener) cannot be listened on: ");
    assert!(error.to_string().starts_with(&expected), "{error}");
}
