//! The rendered configuration in every supported Envoy: it starts, serves and leaks nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use e2e::{cases, chat_request, parallel, simulate_tls, EnvoyVersion, Gateway, Update};
use render::{Admin, Backend, Clients, Fleet, Key, Listener, TlsOptions};
use simulator::{Auth, BackendSettings, Behaviour, Settings, Simulator, Tls};

/// Backends without authentication, for tests of the requests themselves.
fn open_backends(names: &[&str], tls: Tls) -> Simulator {
    let backends = names
        .iter()
        .map(|name| BackendSettings {
            host: format!("contoso-{name}.openai.azure.com"),
            tls,
            ..BackendSettings::new(name)
        })
        .collect();
    Simulator::start(Settings {
        backends,
        auth: Auth::Off,
        ..Settings::default()
    })
    .expect("the simulator starts")
}

/// The error of `envoy --mode validate` for a configuration; `None` if it is valid.
fn objection(version: EnvoyVersion, fleet: &Fleet) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let module = folder.path().join("target/azure_openai_balancer.wasm");
    fs::create_dir_all(folder.path().join("target")).expect("create target");
    fs::copy(e2e::module(), module).expect("copy the module");
    fs::write(folder.path().join("envoy.yaml"), render::envoy(fleet)).expect("write envoy.yaml");
    let output = Command::new(version.binary())
        .args(["--mode", "validate", "-c", "envoy.yaml"])
        .current_dir(folder.path())
        .output()
        .expect("Envoy runs");
    let log = String::from_utf8_lossy(&output.stderr);
    let is_silent = !log.contains("[warning]") && !log.contains("eprecated");
    (!output.status.success() || !is_silent).then(|| log.into_owned())
}

#[test]
fn every_envoy_accepts_the_checked_in_configuration() {
    for version in EnvoyVersion::ALL {
        let objection = objection(version, &render::demo_fleet());
        assert_eq!(objection, None, "Envoy {}", version.number());
    }
}

#[test]
fn every_envoy_accepts_a_configuration_for_azure() {
    let mut fleet = render::demo_fleet();
    fleet.backends = vec![
        Backend::new("eastus", "contoso-eastus.openai.azure.com"),
        Backend::new("westus", "contoso-westus.openai.azure.com"),
    ];
    // A validation resolves no names. But it reads the authorities' file, and not every machine has the system's file.
    let azure = open_backends(&[], Tls::Off);
    for backend in &mut fleet.backends {
        backend.tls = Some(TlsOptions {
            ca_file: Some(azure.ca_path().to_owned()),
        });
    }
    fleet.plugin = render::minimal_plugin(&fleet.backends, fleet.identity.as_ref());
    fleet.environment = [("A".to_owned(), "1".to_owned())].into();
    fleet.host_environment = vec!["HOME".to_owned()];
    for version in EnvoyVersion::ALL {
        let objection = objection(version, &fleet);
        assert_eq!(objection, None, "Envoy {}", version.number());
    }
}

#[test]
fn every_envoy_serves() {
    let azure = open_backends(&["eastus", "westus"], Tls::Off);
    parallel(EnvoyVersion::ALL.len(), |n| {
        let version = EnvoyVersion::ALL[n];
        let gateway = Gateway::builder()
            .simulator(&azure)
            .version(version)
            .workers(2)
            .start();
        assert_eq!(
            gateway.chat(&chat_request()).status,
            200,
            "Envoy {}",
            version.number()
        );
    });
}

#[test]
fn headers_of_clients_do_not_steer_envoy() {
    parallel(EnvoyVersion::ALL.len(), |n| {
        let azure = open_backends(&["eastus"], Tls::Off);
        let version = EnvoyVersion::ALL[n];
        let gateway = Gateway::builder()
            .simulator(&azure)
            .version(version)
            .start();
        let chat = chat_request();
        let steering = [
            ("content-type", "application/json"),
            ("x-request-id", "chosen-by-the-client"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-max-retries", "5"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-aoai-cluster", "imds"),
        ];
        let telling = [("x-forwarded-for", "203.0.113.7")];
        for headers in [&steering[..], &[&steering[..], &telling].concat()] {
            let answer = gateway
                .client()
                .send("POST", &chat.path, headers, &chat.bytes())
                .expect("an answer");
            assert_eq!(answer.status, 200, "Envoy {}", version.number());
        }
        let requests = azure.backend("eastus").requests();
        assert_eq!(requests.len(), 2, "nothing is sent twice");
        for request in requests {
            // Only names are printed: a value may be a token.
            let leaks: Vec<_> = request
                .headers
                .iter()
                .map(|(name, _)| name.as_str())
                .filter(|name| {
                    name.starts_with("x-envoy-")
                        || ["x-forwarded-for", "x-aoai-cluster"].contains(name)
                })
                .collect();
            assert!(leaks.is_empty(), "Envoy {}: {leaks:?}", version.number());
            let id = ("x-request-id".to_owned(), "chosen-by-the-client".to_owned());
            assert!(request.headers.contains(&id), "the request's id");
        }
        assert!(azure.imds().requests().iter().all(|r| r.method == "GET"));
    });
}

#[test]
fn the_access_log_has_no_query() {
    let azure = open_backends(&["eastus"], Tls::Off);
    let gateway = Gateway::builder().simulator(&azure).start();
    let mut chat = chat_request();
    chat.path.push_str("&api-key=very-secret");
    gateway.chat(&chat);
    gateway.wait_for(
        |g| !g.access_log().is_empty(),
        Duration::from_secs(5),
        "a line of the access log",
    );
    let line = &gateway.access_log()[0];
    assert_eq!(line["status"], 200);
    assert_eq!(line["path"], "/openai/deployments/gpt-4o/chat/completions");
    assert_eq!(line["first_cluster"], "aoai_eastus");
    assert!(!line.to_string().contains("very-secret"), "{line}");
}

#[test]
fn a_backend_is_trusted_by_the_name_in_its_certificate() {
    let azure = open_backends(&["eastus"], Tls::On);
    let gateway = Gateway::builder().simulator(&azure).start();
    assert_eq!(gateway.chat(&chat_request()).status, 200);
    let request = &azure.backend("eastus").requests()[0];
    assert_eq!(
        request.sni.as_deref(),
        Some("contoso-eastus.openai.azure.com")
    );

    let impostor = open_backends(&["eastus"], Tls::On);
    let backend = impostor.backend("eastus");
    backend
        .set_certificate_for("contoso-westus.openai.azure.com")
        .expect("a certificate");
    let gateway = Gateway::builder().simulator(&impostor).start();
    assert_ne!(gateway.chat(&chat_request()).status, 200);
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_wildcard_certificate_like_azures_is_trusted() {
    let azure = open_backends(&["eastus"], Tls::On);
    let backend = azure.backend("eastus");
    backend
        .set_certificate_for("*.openai.azure.com")
        .expect("a certificate");
    let gateway = Gateway::builder().simulator(&azure).start();
    assert_eq!(gateway.chat(&chat_request()).status, 200);
}

#[test]
fn a_configuration_that_is_refused_leaves_the_last_one_in_place() {
    let azure = open_backends(&["eastus"], Tls::Off);
    let mut gateway = Gateway::builder().simulator(&azure).workers(2).start();
    let good = gateway.plugin();
    let Update::Rejected(why) = gateway.update("this is not JSON!".into()) else {
        panic!("accepted");
    };
    assert!(why.contains("azure_openai_balancer"), "{why}");
    assert_eq!(gateway.chat(&chat_request()).status, 200);
    assert_eq!(gateway.update(good), Update::Accepted);
    assert_eq!(gateway.chat(&chat_request()).status, 200);
}

#[test]
fn a_configuration_refused_at_the_start_stops_the_start() {
    let azure = open_backends(&["eastus"], Tls::Off);
    let error = Gateway::builder()
        .simulator(&azure)
        .plugin(|p| *p = "this is not JSON!".into())
        .try_start()
        .expect_err("refused");
    assert!(error.reason.contains("refused the listener"), "{error}");
}

/// Every Envoy accepts the configuration that the tool renders for workload identity.
#[test]
fn case_51_every_envoy_accepts_workload_identity() {
    let azure = open_backends(&[], Tls::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let list = format!(
        "\
backends: [{{host: contoso-eastus.openai.azure.com, endpoint: \"http://127.0.0.1:1\"}}]
identity:
  source: workload_identity
  tenant_id: a-tenant
  client_id: a-client
  token_file: {}
  token_socket: {}
",
        path("token"),
        path("socket"),
    );
    fs::write(path("token"), "a.b.c").expect("write the token");
    for version in EnvoyVersion::ALL {
        let options = cli::Options {
            engine: Some(cli::plugin::Engine::Filter),
            open: true,
            full: false,
        };
        let mut fleet = cli::fleet(&list, options).expect("right");
        fleet.module = "target/azure_openai_balancer.wasm".into();
        let tls = fleet.authorities[0].tls.as_mut().expect("TLS");
        tls.ca_file = Some(azure.ca_path().to_owned());
        let objection = objection(version, &fleet);
        assert_eq!(objection, None, "Envoy {}", version.number());
    }
}

#[test]
fn envoys_objections_name_the_field_of_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for name in ["clients.yaml", "garbage.pem"] {
        fs::write(path(name), render::keys_file("x-aoai-client", &[])).expect("write a file");
    }
    let azure = open_backends(&[], Tls::Off);
    let base = format!(
        "backends: [{{host: contoso-eastus.openai.azure.com}}]\nmodule: {}\n",
        e2e::module().display()
    );
    let trusted = format!("tls: {{trusted_ca: {}}}\n", azure.ca_path().display());
    let keys = format!(
        "clients: {{keys_file: {}}}\n",
        path("clients.yaml").display()
    );
    let identity = "identity: {source: workload_identity, tenant_id: a, client_id: b, token_file: /nowhere/token, token_socket: /tmp/s}\n";
    let garbage = path("garbage.pem").display().to_string();
    let newest = EnvoyVersion::V1_40_0;
    for (version, list, expected) in [
        (newest, format!("{base}{keys}{trusted}"), None),
        (
            newest,
            format!("{base}{keys}tls: {{trusted_ca: /nowhere/ca.pem}}\n"),
            Some("Envoy needs /nowhere/ca.pem, which is missing; set `tls.trusted_ca` to another path".to_owned()),
        ),
        (
            newest,
            format!("{base}{keys}tls: {{trusted_ca: {garbage}}}\n"),
            Some(format!("Envoy refuses {garbage} (`tls.trusted_ca`): Failed to load trusted CA certificates")),
        ),
        (
            newest,
            format!("{base}{trusted}clients: {{keys_file: /nowhere/clients.yaml}}\n"),
            Some("Envoy needs /nowhere/clients.yaml, which is missing; set `clients.keys_file`".to_owned()),
        ),
        (
            newest,
            format!("{base}{keys}{trusted}{identity}"),
            Some("Envoy needs /nowhere/token, which is missing; set `identity.token_file`".to_owned()),
        ),
        (
            EnvoyVersion::V1_36_4,
            format!("{base}{keys}{trusted}"),
            Some("this Envoy is older than 1.39".to_owned()),
        ),
    ] {
        let rendered = cli::rendered(cli::Target::Envoy, &list, cli::Options::default());
        let rendered = rendered.expect("right");
        fs::write(path("envoy.yaml"), &rendered.text).expect("write envoy.yaml");
        let refusal = cli::validate(&version.binary(), &path("envoy.yaml"), &rendered.files).err();
        match (&refusal, expected) {
            (None, None) => {}
            (Some(refusal), Some(expected)) => assert!(refusal.starts_with(&expected), "{refusal}"),
            (refusal, expected) => panic!("{refusal:?}, not {expected:?}"),
        }
    }
}

fn fleet_of(backends: usize, engine: cli::plugin::Engine) -> Fleet {
    let mut short = String::from("backends:\n");
    for n in 1..=backends {
        short.push_str(&format!("- host: contoso-{n}.openai.azure.com\n"));
    }
    let options = cli::Options {
        engine: Some(engine),
        open: false,
        full: false,
    };
    cli::fleet(&short, options).expect("right")
}

const SIZES: [usize; 3] = [2, 5, 30];

#[test]
fn envoy_accepts_the_configuration_of_a_list_of_hosts() {
    use cli::plugin::Engine;
    let azure = open_backends(&[], Tls::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("clients.yaml");
    fs::write(&keys, render::keys_file("x-aoai-client", &[])).expect("write the keys");
    for size in SIZES {
        for (version, engine) in [
            (EnvoyVersion::V1_36_4, Engine::Filter),
            (EnvoyVersion::V1_39_0, Engine::Router),
            (EnvoyVersion::V1_40_0, Engine::Router),
            (EnvoyVersion::V1_40_0, Engine::Filter),
        ] {
            let mut fleet = fleet_of(size, engine);
            // A validation needs the files: the module, the clients' keys, and the authorities' file, because not every
            // machine has the system's file.
            fleet.clients = Clients::Keys { file: keys.clone() };
            fleet.module = "target/azure_openai_balancer.wasm".into();
            for backend in &mut fleet.backends {
                let tls = backend.tls.as_mut().expect("TLS, as Azure has it");
                tls.ca_file = Some(azure.ca_path().to_owned());
            }
            let objection = objection(version, &fleet);
            assert_eq!(
                objection,
                None,
                "Envoy {}, {size} backends",
                version.number()
            );
        }
    }
}

cases! {
    fn the_configuration_of_a_list_of_hosts_serves(engine) {
        for size in SIZES {
            let names: Vec<String> = (1..=size).map(|n| format!("n{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let azure = simulate_tls(&names);
            let folder = tempfile::tempdir().expect("a folder");
            let keys = folder.path().join("clients.yaml");
            let key = Key { client: "app-1".to_owned(), key: "KEY".to_owned() };
            fs::write(&keys, render::keys_file("x-aoai-client", &[key])).expect("write the keys");
            let gateway = Gateway::builder().fleet({
                let fleet = running(&azure, engine, &keys);
                move |harness| *harness = Fleet { module: harness.module.clone(), ..fleet }
            });
            let gateway = gateway.workers(2).start();
            let chat = chat_request();
            let ask = |headers: &[(&str, &str)]| {
                let answer = gateway.client().send("POST", &chat.path, headers, &chat.bytes());
                answer.expect("an answer")
            };
            assert_eq!(ask(&[]).status, 401);
            let mut answered = BTreeSet::new();
            azure.backend("n1").set(Behaviour::throttled(60));
            for _ in 0..2 * size {
                let answer = ask(&[("api-key", "KEY")]);
                assert_eq!(answer.status, 200, "{}", answer.text());
                answered.insert(answer.header("x-aoai-backend").expect("who").to_owned());
            }
            assert_eq!(answered.len(), size - 1, "everyone but the one that is throttled");
        }
    }
}

/// The fleet that the tool renders for the simulator's backends.
fn running(azure: &Simulator, engine: e2e::Engine, keys: &Path) -> Fleet {
    let mut short = String::from("backends:\n");
    for backend in azure.backends() {
        let (name, host, address) = (backend.name(), backend.host(), backend.addr());
        short.push_str(&format!(
            "- {{name: {name}, host: {host}, endpoint: \"https://{address}\"}}\n"
        ));
    }
    short.push_str(&format!(
        "identity: {{endpoint: \"http://{}\"}}\n",
        azure.imds().addr()
    ));
    short.push_str(&format!("clients: {{keys_file: {}}}\n", keys.display()));
    short.push_str(match engine {
        e2e::Engine::Router => "engine: router\n",
        _ => "engine: filter\n",
    });
    let mut fleet = cli::fleet(&short, cli::Options::default()).expect("right");
    let here = || "127.0.0.1".to_owned();
    fleet.listener = Listener {
        address: here(),
        port: 0,
        tls: None,
    };
    fleet.admin = Admin {
        address: here(),
        port: 0,
    };
    for backend in &mut fleet.backends {
        let tls = backend.tls.as_mut().expect("TLS");
        tls.ca_file = Some(azure.ca_path().to_owned());
    }
    assert!(matches!(fleet.clients, Clients::Keys { .. }));
    fleet
}

/// The status of an answer to a `GET` over TLS, from a client that trusts this certificate alone.
fn status_over_tls(gateway: &Gateway, certificate: &rcgen::Certificate) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "openai.example.com".try_into().expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(gateway.address()).expect("a connection");
    let mut stream = rustls::StreamOwned::new(connection, socket);
    let request = "GET /openai/models?api-version=1 HTTP/1.1\r\nhost: openai.example.com\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn the_listener_shows_the_certificate_that_it_is_given() {
    let names = vec!["openai.example.com".to_owned()];
    let signed = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("write");
        file.display().to_string()
    };
    let chain = write("tls.crt", signed.cert.pem());
    let key = write("tls.key", signed.signing_key.serialize_pem());
    let short = format!(
        "backends: [{{host: a}}]\nlistener: {{tls: {{certificate: {chain}, key: {key}}}}}\n"
    );
    let fleet = cli::fleet(&short, cli::Options::default()).expect("right");
    let tls = fleet.listener.tls;
    // A validation is strict about the places of files; a running Envoy is not.
    let mut whole = render::demo_fleet();
    whole.listener.tls.clone_from(&tls);
    assert_eq!(objection(EnvoyVersion::V1_40_0, &whole), None);
    for version in [EnvoyVersion::V1_40_0, EnvoyVersion::V1_36_4] {
        let azure = open_backends(&["eastus"], Tls::Off);
        let tls = tls.clone();
        let gateway = Gateway::builder()
            .simulator(&azure)
            .version(version)
            .fleet(move |fleet| fleet.listener.tls = tls)
            .start();
        assert_eq!(status_over_tls(&gateway, &signed.cert), "200");
        assert!(
            gateway.client().send("GET", "/", &[], b"").is_err(),
            "no one is served without TLS"
        );
    }
}

#[test]
fn envoy_accepts_a_configuration_with_entra_id() {
    let short =
        "backends: [{host: a}]\nclients: {entra_id: {tenant: t, audience: \"api://gateway\"}}\n";
    let azure = open_backends(&[], Tls::Off);
    let tls = TlsOptions {
        ca_file: Some(azure.ca_path().to_owned()),
    };
    let mut fleet = render::demo_fleet();
    fleet.clients = cli::fleet(short, cli::Options::default())
        .expect("right")
        .clients;
    let Clients::Tokens(issuer) = &mut fleet.clients else {
        panic!("{:?}", fleet.clients);
    };
    issuer.tls = Some(tls);
    for version in EnvoyVersion::ALL {
        let objection = objection(version, &fleet);
        assert_eq!(objection, None, "Envoy {}", version.number());
    }
}

#[test]
fn envoy_accepts_the_configuration_of_the_readmes_list() {
    let readme = include_str!("../../../README.md");
    let list = readme
        .split("```yaml\n")
        .find(|block| block.starts_with("# backends.yaml"))
        .expect("a list");
    let list = list.split("\n```").next().expect("its end");
    let mut fleet = cli::fleet(list, cli::Options::default()).expect("right");
    let azure = open_backends(&[], Tls::Off);
    for backend in &mut fleet.backends {
        backend.tls.as_mut().expect("TLS").ca_file = Some(azure.ca_path().to_owned());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    fs::write(&file, render::keys_file("x-aoai-client", &[])).expect("write the keys");
    fleet.clients = Clients::Keys { file };
    assert_eq!(objection(EnvoyVersion::V1_40_0, &fleet), None);
}
