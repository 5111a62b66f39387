//! The simulator as a program.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::send;

#[test]
fn it_announces_its_ports_and_stops_on_request() {
    let ca = std::env::temp_dir().join(format!("simulator-test-{}.pem", std::process::id()));
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulator"))
        .args([
            "--backend",
            "east=0,key=k,deployment=gpt-4o",
            "--backend",
            "west=0,tls,host=w.example",
        ])
        .args(["--admin-port", "0", "--token-lifetime", "90m", "--ca-out"])
        .arg(&ca)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut lines: Vec<String> = lines
        .map(Result::unwrap)
        .take_while(|line| line != "ready")
        .collect();
    let admin = lines.pop().unwrap();
    let addr = admin.split('/').nth(2).unwrap().parse().unwrap();
    assert_eq!(send(addr, "GET", "/admin/health", &[], b"").status, 200);
    assert!(
        lines[0].starts_with("backend east http://127.0.0.1:"),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("host w.example"), "{lines:?}");
    assert!(std::fs::read_to_string(&ca)
        .unwrap()
        .contains("BEGIN CERTIFICATE"));
    let _ = std::fs::remove_file(&ca);
    let ended = Command::new("kill")
        .arg(program.id().to_string())
        .status()
        .unwrap();
    assert!(ended.success());
    assert!(program.wait().unwrap().success());
}

#[test]
fn it_says_what_is_wrong_with_a_backend() {
    for (backend, wrong) in [
        (
            "east=0,ssl",
            r#""ssl" is unknown; use tls, host=, key=, deployment= or without="#,
        ),
        (
            "east=0,without=chats",
            r#""without=chats": unknown variant `chats`, expected one of `chat`, `responses`"#,
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_simulator"))
            .args(["--backend", backend])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(wrong), "{text}");
    }
}
