//! The listener of the status page: its answers, and the admin interface that it must not expose.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use e2e::{chat_request, parallel, simulate, Client, EnvoyVersion, Gateway, GatewayBuilder};
use render::Status;
use serde_json::Value;

/// The statistics of the cluster through which the listener reaches the admin interface.
const REACHED: &str = "cluster.azure_openai_status.upstream_rq_total";

const LIMIT: Duration = Duration::from_secs(10);

/// Adds a status page on the loopback interface. The page's cluster must know the admin interface's port beforehand.
pub(crate) fn with_status(builder: GatewayBuilder) -> GatewayBuilder {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let port = free.expect("a free port").port();
    builder.fleet(move |fleet| {
        fleet.admin.port = port;
        fleet.status = Some(Status {
            address: "127.0.0.1".to_owned(),
            port: 0,
        });
    })
}

/// Checks a gateway with a status page, in every Envoy.
fn in_every_envoy(check: impl Fn(&Gateway, &Client) + Sync) {
    parallel(EnvoyVersion::ALL.len(), |n| {
        let azure = simulate(&["east"]);
        let builder = Gateway::builder()
            .simulator(&azure)
            .version(EnvoyVersion::ALL[n]);
        let gateway = with_status(builder).start();
        check(&gateway, &Client::new(gateway.status_address()));
        gateway.assert_unharmed();
    });
}

fn names(answer: &str) -> Vec<String> {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let stats = answer["stats"].as_array().expect("statistics");
    let names = stats
        .iter()
        .map(|stat| stat["name"].as_str().unwrap_or_default());
    names.map(str::to_owned).collect()
}

#[test]
fn the_status_page_and_its_statistics_are_served() {
    in_every_envoy(|gateway, client| {
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let counted = "wasmcustom.aoai.requests";
        gateway.wait_for(
            |gateway| gateway.stat(counted) == Some(1),
            LIMIT,
            "the count",
        );
        let page = client.send("GET", "/", &[], b"").expect("the page");
        assert_eq!(page.status, 200);
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(page.text().starts_with("<!doctype html>"));
        let statistics = client.send("GET", "/stats", &[], b"").expect("statistics");
        assert_eq!(statistics.status, 200);
        assert_eq!(statistics.header("content-type"), Some("application/json"));
        for answer in [&page, &statistics] {
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            let policy = answer.header("content-security-policy").unwrap_or_default();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'sha256-"),
                "{policy}"
            );
        }
        let names = names(&statistics.text());
        for name in [
            counted,
            "wasmcustom.aoai.backend.east.state",
            "server.uptime",
            "cluster.aoai_east.upstream_rq_active",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        let is_for_the_page = |name: &String| {
            name.starts_with("wasmcustom.aoai.")
                || ["server.uptime", "cluster.aoai_east.upstream_rq_active"]
                    .contains(&name.as_str())
        };
        assert!(names.iter().all(is_for_the_page), "{names:?}");
    });
}

#[test]
fn the_status_page_exposes_nothing_else() {
    in_every_envoy(|gateway, client| {
        let admin = gateway.fleet().admin.port;
        let absolute = format!("http://127.0.0.1:{admin}/config_dump");
        for path in [
            "/quitquitquit",
            "/config_dump",
            "/config_dump?resource=dynamic_listeners",
            "/logging?level=trace",
            "/clusters",
            "/ready",
            "/stats/prometheus",
            "/stats/recentlookups",
            // Parameters would change the shown statistics.
            "/stats?filter=.*",
            "/stats?",
            "/stats?format=html",
            "/?",
            // Other spellings of paths.
            "/stats/",
            "/stats/.",
            "/stats/../quitquitquit",
            "/stats/..%2fquitquitquit",
            "/stats/%2e%2e/quitquitquit",
            "/stats%2f..%2fquitquitquit",
            "/./config_dump",
            "/%2e%2e/config_dump",
            "//stats",
            "//config_dump",
            "/\\config_dump",
            "/stats;/../config_dump",
            "/stats%3ffilter=.*",
            "/stats%00",
            "/STATS",
            "/stats#/config_dump",
            "*",
            "stats",
            &absolute,
            "http://localhost/config_dump",
            "http://localhost/stats?filter=.*",
            "http://localhost:1@evil.example/stats",
        ] {
            let answer = client.send("GET", path, &[], b"").expect("an answer");
            assert!(
                (400..500).contains(&answer.status),
                "{path}: {}",
                answer.status
            );
        }
        assert_eq!(
            gateway.stat(REACHED).unwrap_or(0),
            0,
            "the admin interface was asked"
        );
    });
}

#[test]
fn the_status_page_refuses_every_method_but_get() {
    in_every_envoy(|gateway, client| {
        for method in [
            "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "get", "PROPFIND",
        ] {
            for path in ["/", "/stats", "/quitquitquit", "/logging?level=trace"] {
                let answer = client.send(method, path, &[], b"").expect("an answer");
                // Envoy itself refuses methods that HTTP does not know.
                let refused = [400, 405].contains(&answer.status);
                assert!(refused, "{method} {path}: {}", answer.status);
            }
        }
        let answer = client.send("POST", "/stats", &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
        let answer = client
            .send("CONNECT", "127.0.0.1:1", &[], b"")
            .expect("an answer");
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        let upgrade = |protocol| {
            let headers = [("connection", "upgrade"), ("upgrade", protocol)];
            client
                .send("GET", "/stats", &headers, b"")
                .expect("an answer")
                .status
        };
        for protocol in ["websocket", "connect-udp"] {
            assert!([403, 404].contains(&upgrade(protocol)), "{protocol}");
        }
        assert_eq!(
            gateway.stat(REACHED).unwrap_or(0),
            0,
            "the admin interface was asked"
        );
        // Envoy ignores this upgrade, and answers as if it were not there.
        assert_eq!(upgrade("h2c"), 200);
        // HTTP/2 without an upgrade.
        let mut socket = client.socket().expect("a connection");
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .expect("the preface");
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.is_empty(),
            "{answer}"
        );
    });
}

#[test]
fn headers_do_not_change_the_status_pages_request() {
    in_every_envoy(|gateway, client| {
        for header in [
            ("x-envoy-original-path", "/config_dump"),
            ("x-original-url", "/config_dump"),
            ("x-rewrite-url", "/config_dump"),
            ("x-http-method-override", "POST"),
            ("x-forwarded-prefix", "/config_dump"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-original-method", "POST"),
            ("te", "trailers"),
        ] {
            let answer = client
                .send("GET", "/stats", &[header], b"")
                .expect("an answer");
            assert_eq!(answer.status, 200, "{header:?}");
            assert!(
                names(&answer.text())
                    .iter()
                    .any(|name| name.starts_with("wasmcustom.aoai.")),
                "{header:?}"
            );
            let answer = client
                .send("GET", "/config_dump", &[header], b"")
                .expect("an answer");
            assert_eq!(answer.status, 404, "{header:?}");
        }
        gateway.assert_unharmed();
    });
}

#[test]
fn a_local_status_page_answers_to_no_foreign_name() {
    in_every_envoy(|gateway, client| {
        let ask = |host: &str, path: &str| {
            let mut socket = client.socket().expect("a connection");
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).expect("a request");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).expect("an answer");
            answer.split(' ').nth(1).unwrap_or_default().to_owned()
        };
        for host in [
            "evil.example",
            "evil.example:9902",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0.0.0.0",
        ] {
            assert_eq!(ask(host, "/"), "404", "{host}");
            assert_eq!(ask(host, "/stats"), "404", "{host}");
        }
        assert_eq!(
            gateway.stat(REACHED).unwrap_or(0),
            0,
            "the admin interface was asked"
        );
        for host in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:9902"] {
            assert_eq!(ask(host, "/stats"), "200", "{host}");
        }
    });
}
