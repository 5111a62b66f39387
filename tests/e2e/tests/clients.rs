//! Authentication of clients, and their names and credentials.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use e2e::{cases, chat_request, simulate, EnvoyVersion, Gateway, GatewayBuilder, Response};
use render::{Clients, Key, TokenIssuer};
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, KeyPair, ECDSA_P256_SHA256_FIXED_SIGNING};
use serde_json::{json, Value};
use simulator::Behaviour;

const KEY: &str = "CLIENT-SECRET-ONE";
const OTHER_KEY: &str = "CLIENT-SECRET-TWO";

/// A secret that must appear nowhere.
const SECRET: &str = "CLIENT-SECRET";

fn write_keys(file: &Path, keys: &[(&str, &str)]) {
    let keys: Vec<Key> = keys
        .iter()
        .map(|(client, key)| Key {
            client: (*client).to_owned(),
            key: (*key).to_owned(),
        })
        .collect();
    let new = file.with_extension("new");
    fs::write(&new, render::keys_file("x-aoai-client", &keys)).expect("write the keys");
    fs::rename(&new, file).expect("put the keys in place");
}

fn with_keys(file: PathBuf) -> GatewayBuilder {
    Gateway::builder().fleet(|fleet| fleet.clients = Clients::Keys { file })
}

fn ask(gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    let chat = chat_request();
    let client = gateway.client();
    client
        .send("POST", &chat.path, headers, &chat.bytes())
        .expect("an answer")
}

fn assert_refused(answer: &Response, code: &str) {
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!(body["error"]["code"], code, "{body}");
    assert_eq!(body["error"]["type"], "invalid_request_error", "{body}");
    assert_eq!(body["error"]["param"], Value::Null, "{body}");
    assert!(body["error"]["message"]
        .as_str()
        .is_some_and(|message| !message.is_empty()));
}

cases! {
    fn case_31_clients_need_a_key_and_are_known_by_name(engine) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        write_keys(&file, &[("app-1", KEY), ("app-2", OTHER_KEY)]);
        let azure = simulate(&["east", "west"]);
        let gateway = with_keys(file).simulator(&azure).engine(engine).log_level("trace").start();
        gateway.wait_for(|_| azure.imds().count() == 1, Duration::from_secs(5), "the token");

        let bearer = |key: &str| format!("Bearer {key}");
        let wrong = bearer("CLIENT-SECRET-WRONG");
        for headers in [
            &[][..],
            &[("api-key", "CLIENT-SECRET-WRONG")],
            &[("authorization", wrong.as_str())],
            &[("x-aoai-client", "app-1")],
        ] {
            assert_refused(&ask(&gateway, headers), "invalid_api_key");
        }
        let backends = azure.backends().iter();
        assert_eq!(backends.map(|backend| backend.count()).sum::<u64>(), 0, "nothing reached a backend");
        assert_eq!(azure.imds().count(), 1, "nor IMDS");

        azure.backend("east").set(Behaviour::internal_error());
        let (one, two) = (bearer(KEY), bearer(OTHER_KEY));
        for headers in [
            [("api-key", KEY), ("x-aoai-client", "forged")],
            [("authorization", one.as_str()), ("x-aoai-client", "app-2")],
            [("ocp-apim-subscription-key", KEY), ("x-custom", "kept")],
            [("authorization", two.as_str()), ("x-custom", "kept")],
        ] {
            let answer = ask(&gateway, &headers);
            assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
        }

        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.client.app-1.requests") == Some(3),
            Duration::from_secs(5),
            "the count of app-1's requests",
        );
        assert_eq!(gateway.stat("wasmcustom.aoai.client.app-2.requests"), Some(1));
        gateway.wait_for(|g| g.access_log().len() == 8, Duration::from_secs(5), "the access log");
        let names: Vec<Value> = gateway.access_log().iter().map(|line| line["client"].clone()).collect();
        assert_eq!(names[4..], ["app-1", "app-1", "app-1", "app-2"], "{names:?}");
        assert!(names[..4].iter().all(Value::is_null), "{names:?}");

        // The client's credential appears nowhere: not at the backends, not in a log, a statistic or a dump of the
        // configuration.
        for backend in azure.backends() {
            for request in backend.requests() {
                assert!(!format!("{request:?}").contains(SECRET), "{request:?}");
                assert_eq!(request.header("x-aoai-client"), None);
            }
        }
        assert!(!gateway.log().contains(SECRET));
        assert!(!format!("{:?}", gateway.access_log()).contains(SECRET));
        for page in ["/stats", "/stats/prometheus", "/config_dump?include_eds"] {
            assert!(!gateway.admin(page).contains(SECRET), "{page}");
        }
        let prometheus = gateway.admin("/stats/prometheus");
        assert!(prometheus.contains(r#"aoai_client_requests{aoai_client="app-1"} 3"#), "{prometheus}");
    }

    fn keys_change_without_a_restart(engine) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        write_keys(&file, &[("app-1", KEY)]);
        let azure = simulate(&["east"]);
        let gateway = with_keys(file.clone()).simulator(&azure).engine(engine).workers(2).start();
        assert_eq!(ask(&gateway, &[("api-key", KEY)]).status, 200);
        write_keys(&file, &[("app-1", OTHER_KEY)]);
        gateway.wait_for(
            |g| ask(g, &[("api-key", OTHER_KEY)]).status == 200,
            Duration::from_secs(10),
            "the new key",
        );
        gateway.wait_for(|g| ask(g, &[("api-key", KEY)]).status == 401, Duration::from_secs(10), "the end of the old key");
        // A file that cannot be read changes nothing.
        let broken = file.with_extension("new");
        fs::write(&broken, "resources: {").expect("write");
        fs::rename(&broken, &file).expect("put it in place");
        let refused = |g: &Gateway| {
            let stats = g.stats("");
            let mut of_keys = stats.iter().filter(|(name, _)| name.contains("config_discovery"));
            of_keys.any(|(name, count)| name.ends_with("update_failure") && *count > 0)
        };
        gateway.wait_for(refused, Duration::from_secs(10), "the refusal of the broken file");
        assert_eq!(ask(&gateway, &[("api-key", OTHER_KEY)]).status, 200);
    }

    fn a_backends_own_401_is_passed_on_unchanged(engine) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        write_keys(&file, &[("app-1", KEY)]);
        let azure = simulate(&["east", "west"]);
        let gateway = with_keys(file).simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::permission_denied());
        }
        let answer = ask(&gateway, &[("api-key", KEY)]);
        assert_eq!(answer.status, 401);
        assert!(answer.text().contains("PermissionDenied"), "{}", answer.text());
    }
}

/// An issuer that signs tokens, and serves the key to verify them.
struct Issuer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    address: SocketAddr,
}

const ISSUER: &str = "https://login.example.com/tenant/v2.0";
const AUDIENCE: &str = "api://gateway";

impl Issuer {
    fn start() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).expect("the key");
        // An uncompressed point: a byte, then both coordinates.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let keys = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "one", "x": encode(x), "y": encode(y)}
        ]});
        let keys = keys.to_string();
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("its address");
        // The thread ends with the process.
        thread::spawn(move || {
            for mut connection in server.incoming().flatten() {
                let mut request = [0; 4096];
                let _ = connection.read(&mut request);
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{keys}", keys.len());
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        Self {
            pair,
            random,
            address,
        }
    }

    fn clients(&self) -> Clients {
        Clients::Tokens(TokenIssuer {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            client_claim: "azp".to_owned(),
            jwks: format!("http://{}/keys", self.address),
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: None,
        })
    }

    fn token(&self, claims: &Value) -> String {
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": "one"});
        let signed = format!("{}.{}", encode(&head), encode(claims));
        let signature = self
            .pair
            .sign(&self.random, signed.as_bytes())
            .expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

mod tokens {
    use super::*;

    cases! {
        fn case_31_clients_are_known_by_the_tokens_of_entra_id(engine) {
            let issuer = Issuer::start();
            let azure = simulate(&["east"]);
            let clients = issuer.clients();
            let gateway = Gateway::builder()
                .fleet(move |fleet| fleet.clients = clients)
                .simulator(&azure)
                .engine(engine)
                .log_level("trace")
                .start();
            gateway.wait_for(|_| azure.imds().count() == 1, Duration::from_secs(5), "the token");
            let far = 4_000_000_000_u64;
            let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "exp": far, "azp": "app-1"});
            let with = |name: &str, value: Value| {
                let mut claims = claims.clone();
                claims[name] = value;
                format!("Bearer {}", issuer.token(&claims))
            };
            let stranger = Issuer::start();
            let forged = format!("Bearer {}", stranger.token(&claims));
            let wrong = [
                with("exp", json!(1_000_000_000)),
                with("aud", json!("api://other")),
                with("iss", json!("https://elsewhere")),
                forged,
                "Bearer none".to_owned(),
            ];
            for token in &wrong {
                assert_refused(&ask(&gateway, &[("authorization", token)]), "invalid_token");
            }
            assert_refused(&ask(&gateway, &[("x-aoai-client", "app-1")]), "invalid_token");
            assert_eq!(azure.backend("east").count(), 0, "nothing reached a backend");
            assert_eq!(azure.imds().count(), 1, "nor IMDS");

            let right = with("azp", json!("app-1"));
            let answer = ask(&gateway, &[("authorization", &right), ("x-aoai-client", "forged")]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let unnamed = with("azp", Value::Null);
            let answer = ask(&gateway, &[("authorization", &unnamed), ("x-aoai-client", "forged")]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(gateway.settled_stat(&azure, "client.app-1.requests"), 1);
            assert_eq!(gateway.stat("wasmcustom.aoai.client.forged.requests"), None);
            let requests = azure.backend("east").requests();
            for token in wrong.iter().chain([&right, &unnamed]) {
                let token = token.trim_start_matches("Bearer ");
                if token == "none" {
                    continue;
                }
                assert!(requests.iter().all(|request| !format!("{request:?}").contains(token)));
                assert!(!gateway.log().contains(token));
                assert!(!format!("{:?}", gateway.access_log()).contains(token));
            }
        }
    }
}

#[test]
fn every_envoy_requires_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    write_keys(&file, &[("app-1", KEY)]);
    let azure = simulate(&["east"]);
    e2e::parallel(EnvoyVersion::ALL.len(), |n| {
        let version = EnvoyVersion::ALL[n];
        let gateway = with_keys(file.clone())
            .simulator(&azure)
            .version(version)
            .start();
        assert_refused(
            &ask(&gateway, &[("api-key", "CLIENT-SECRET-WRONG")]),
            "invalid_api_key",
        );
        assert_refused(&ask(&gateway, &[]), "invalid_api_key");
        assert_eq!(
            ask(&gateway, &[("api-key", KEY)]).status,
            200,
            "Envoy {}",
            version.number()
        );
    });
}
