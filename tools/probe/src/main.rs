//! `probe URL`: ends with 0 if the URL answers 200, or with 1 and a reason.
//!
//! For the health checks of the container images, which have no shell and no curl.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use ureq::Agent;

/// Shorter than the health checks' own limit, so that the reason is printed.
const LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url] = arguments.as_slice() else {
        eprintln!("usage: probe URL");
        return ExitCode::from(2);
    };
    match probe(url) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{url}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn probe(url: &str) -> Result<(), String> {
    let agent: Agent = Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(LIMIT))
        .build()
        .into();
    let answer = agent.get(url).call().map_err(|error| error.to_string())?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => Err(format!("answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// The result for a server that gives this answer.
    fn probed(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = connection.read(&mut request).unwrap();
            connection.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let result = probe(&url);
        assert!(server
            .join()
            .unwrap()
            .starts_with("GET /ready HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn only_200_is_well() {
        assert_eq!(
            probed("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nLIVE\n"),
            Ok(())
        );
        assert_eq!(
            probed("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
            Err("answered 503".to_owned())
        );
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_not_well() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", free.local_addr().unwrap());
        drop(free);
        assert!(probe(&url).is_err());
    }
}
