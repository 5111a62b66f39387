//! Credentials and hosts: those that reach a backend, and those that never do.

use bytes::Bytes;
use e2e::{cases, chat_request, east_and_west, simulate, simulate_tls, Gateway};
use http::Request;
use serde_json::json;
use simulator::{Behaviour, RecordedRequest, Simulator, TokenCheck};

use crate::http2;

const CLIENT_HEADERS: &[(&str, &str)] = &[
    ("api-key", "CLIENT-SECRET"),
    ("authorization", "Bearer CLIENT-SECRET"),
    ("Ocp-Apim-Subscription-Key", "CLIENT-SECRET"),
    ("X-Api-Key", "CLIENT-SECRET"),
    ("x-goog-api-key", "CLIENT-SECRET"),
    ("apikey", "CLIENT-SECRET"),
    ("Proxy-Authorization", "Basic CLIENT-SECRET"),
    ("x-forwarded-access-token", "CLIENT-SECRET"),
    ("cookie", "session=CLIENT-SECRET"),
    ("x-custom", "kept"),
];

/// The names of credentials that are never sent to a backend, in lower case.
const NEVER_SENT: [&str; 8] = [
    "api-key",
    "ocp-apim-subscription-key",
    "x-api-key",
    "x-goog-api-key",
    "apikey",
    "proxy-authorization",
    "x-forwarded-access-token",
    "cookie",
];

/// Sends a chat over HTTP/2, with each cookie on its own line. Returns the answer's status.
fn send_over_http2(gateway: &Gateway) -> u16 {
    let chat = chat_request();
    let mut request = Request::post(gateway.url(&chat.path));
    for (name, value) in CLIENT_HEADERS {
        request = request.header(name.to_ascii_lowercase(), *value);
    }
    let request = request.header("cookie", "other=CLIENT-SECRET").body(());
    http2::send(gateway, request.unwrap(), |upload| {
        upload.send_data(Bytes::from(chat.bytes()), true).unwrap();
    })
}

/// The requests at all backends, without those for tokens.
fn received(azure: &Simulator) -> Vec<RecordedRequest> {
    let backends = azure.backends().iter();
    backends.flat_map(|backend| backend.requests()).collect()
}

cases! {
    fn case_17_client_credentials_never_reach_a_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        let chat = chat_request();
        let queries = [
            "&api-key=CLIENT-SECRET&Authorization=Bearer%20CLIENT-SECRET",
            "&api%2Dkey=CLIENT-SECRET&access_token=CLIENT-SECRET",
            "&API-KEY=CLIENT-SECRET&key=CLIENT-SECRET",
            "",
        ];
        for extra in queries {
            let path = format!("{}{extra}&last=1", chat.path);
            for _ in 0..2 {
                let answer =
                    gateway.client().send("POST", &path, CLIENT_HEADERS, &chat.bytes()).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
        let received = received(&azure);
        assert_eq!(received.len(), 8 + 4, "first attempts and re-issued ones");
        for request in received {
            assert_eq!(request.token, TokenCheck::Valid);
            assert!(!format!("{request:?}").contains("CLIENT-SECRET"), "{request:?}");
            for name in NEVER_SENT {
                assert_eq!(request.header(name), None, "{name}");
            }
            assert_eq!(request.header("x-custom"), Some("kept"));
            assert_eq!(request.headers.iter().filter(|(name, _)| name == "authorization").count(), 1);
            assert!(request.path.ends_with("?api-version=2024-10-21&last=1"), "{}", request.path);
        }
        assert!(!gateway.log().contains("CLIENT-SECRET"));
        assert!(!format!("{:?}", gateway.access_log()).contains("CLIENT-SECRET"));
    }

    fn case_17_client_credentials_over_http2_never_reach_a_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error().times(1));
        for _ in 0..2 {
            assert_eq!(send_over_http2(&gateway), 200);
        }
        let received = received(&azure);
        assert_eq!(received.len(), 3, "one of them twice");
        for request in received {
            assert_eq!(request.token, TokenCheck::Valid);
            assert!(!format!("{request:?}").contains("CLIENT-SECRET"), "{request:?}");
            for name in NEVER_SENT {
                assert_eq!(request.header(name), None, "{name}");
            }
        }
    }

    fn case_18_host_and_sni_are_the_backends_on_every_attempt(engine) {
        let azure = simulate_tls(&["east", "west", "north"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        azure.backend("west").set(Behaviour::throttled(1));
        for _ in 0..6 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let received = received(&azure);
        assert!(received.len() > 6, "some were re-issued");
        for request in received {
            let host = format!("contoso-{}.openai.azure.com", request.service);
            assert_eq!(request.authority, host);
            assert_eq!(request.sni.as_deref(), Some(host.as_str()));
            assert!(request.tls);
        }
    }

    fn a_client_cannot_choose_the_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let chat = chat_request();
        let forged = [("x-aoai-cluster", "imds"), ("x-aoai-cluster", "aoai_east"), ("x-envoy-attempt-count", "2")];
        for turn in ["east", "west", "east", "west"] {
            let answer = gateway.client().send("POST", &chat.path, &forged, &chat.bytes()).unwrap();
            assert_eq!((answer.status, answer.header("x-sim-backend")), (200, Some(turn)));
        }
        assert_eq!(azure.backend("east").count(), 2);
        assert_eq!(azure.backend("west").count(), 2);
        assert_eq!(azure.imds().count(), 1);
        for request in received(&azure) {
            assert_eq!(request.header("x-aoai-cluster"), None);
        }
    }

    fn case_26_response_headers_name_the_backend_never_its_host(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        for _ in 0..2 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.headers.all("x-aoai-backend"), ["west"]);
            assert_eq!(answer.headers.all("x-aoai-attempts").len(), 1);
            assert!(!format!("{:?}", answer.headers).contains("contoso-"), "{:?}", answer.headers);
        }
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["headers"] = json!({"backend": null, "attempts": null}))
            .start();
        for _ in 0..2 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-aoai-backend"), None);
            assert_eq!(answer.header("x-aoai-attempts"), None);
        }
    }

    fn a_backend_cannot_forge_the_report(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::normal_with(&[("x-aoai-backend", "other"), ("x-aoai-attempts", "9")]));
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.headers.all("x-aoai-backend"), ["east"]);
        assert_eq!(answer.headers.all("x-aoai-attempts"), ["1"]);
    }

    fn a_header_explains_each_attempt_and_each_refusal(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["headers"] = json!({"why": "x-aoai-why"}))
            .start();
        let why = || {
            let answer = gateway.chat(&chat_request());
            (answer.status, answer.headers.all("x-aoai-why").join(" | "))
        };
        azure.backend("east").set(Behaviour::throttled(60));
        assert_eq!(why(), (200, "east free throttled; west free success".to_owned()));
        azure.backend("west").set(Behaviour::normal_with(&[("x-aoai-why", "forged")]));
        assert_eq!(why(), (200, "west free success".to_owned()));
        azure.backend("west").set(Behaviour::throttled(60));
        let both = "west free throttled; east trial throttled; not retried: backends_exhausted";
        assert_eq!(why(), (429, both.to_owned()));
        let mut refused = why();
        while refused.1.contains("trial") {
            refused = why();
        }
        let seconds = |backend: &str| {
            let part = refused.1.split("; ").find_map(|part| part.strip_prefix(backend))?;
            part.strip_prefix(" throttled ")?.strip_suffix('s')?.parse::<u32>().ok()
        };
        assert_eq!(refused.0, 429);
        for backend in ["east", "west"] {
            assert!(seconds(backend).is_some_and(|seconds| (20..=60).contains(&seconds)), "{refused:?}");
        }
    }

    fn case_28_multipart_uploads_pass_byte_for_byte(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        let mut body = b"--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n".to_vec();
        body.extend((0..=255_u8).cycle().take(900_000));
        body.extend(b"\r\n--XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n");
        let headers = [("content-type", "multipart/form-data; boundary=XX")];
        for _ in 0..2 {
            let answer = gateway
                .client()
                .send("POST", "/openai/deployments/whisper/audio/transcriptions?api-version=2024-10-21", &headers, &body)
                .unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let received = received(&azure);
        assert_eq!(received.len(), 3, "one of them was re-issued");
        for request in received {
            assert_eq!(request.header("content-type"), Some("multipart/form-data; boundary=XX"));
            assert_eq!(&request.body[..], &body[..request.body.len()]);
            assert_eq!(request.body_len, body.len() as u64);
        }
    }
}
