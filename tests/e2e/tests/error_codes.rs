//! Errors whose code says that another backend may serve the request.

use std::time::Duration;

use e2e::{cases, chat_request, simulate, Gateway, Response};
use simulator::{Behaviour, Encoding, Failure, Simulator};

const PATIENCE: Duration = Duration::from_secs(3);

/// A backend's errors, each with its outcome and with words of the log's advice.
fn kinds() -> [(Failure, &'static str, &'static str); 8] {
    let tenant = "Tenant provided in token does not match resource token";
    let token = "Token tenant 33e01921-4d64-4f8c-a055-5bdaffd5e33d does not match resource tenant.";
    let keys = "Key based authentication is disabled for this resource.";
    let role = "The principal lacks the data action needed to complete this operation.";
    let (denied, missing) = ("permission_denied", "deployment_not_found");
    let (lacks, unknown) = ("has no deployment \"gpt-4o\"", "Unknown model: gpt-4o");
    [
        (
            Failure::coded(403, "AuthenticationTypeDisabled", keys),
            denied,
            "remove its api_key_env",
        ),
        (
            Failure::coded(400, tenant, token),
            denied,
            "use an identity of the resource's tenant",
        ),
        (
            Failure::coded(401, "PermissionDenied", role),
            denied,
            "Cognitive Services OpenAI User",
        ),
        (
            Failure::coded(403, "403", "Access denied."),
            denied,
            "open the resource's network",
        ),
        (
            Failure::coded(404, "DeploymentNotFound", "..."),
            missing,
            lacks,
        ),
        (
            Failure::coded(404, "unknown_model", unknown),
            missing,
            lacks,
        ),
        (
            Failure::coded(400, "unknown_model", unknown),
            missing,
            lacks,
        ),
        (
            Failure::coded(410, "ModelDeprecated", "..."),
            missing,
            lacks,
        ),
    ]
}

/// A chat as the SDKs send it: with gzip accepted.
fn chat(gateway: &Gateway) -> Response {
    let chat = chat_request();
    let headers = [("accept-encoding", "gzip, deflate")];
    let sent = gateway
        .client()
        .send("POST", &chat.path, &headers, &chat.bytes());
    sent.unwrap()
}

/// East answers with the failure. No client gets it, and east gets no further request.
fn goes_on(gateway: &Gateway, azure: &Simulator, failure: Failure, outcome: &str, logged: &str) {
    azure.backend("east").set(Behaviour::error(failure.clone()));
    for _ in 0..4 {
        let answer = chat(gateway);
        assert_eq!(answer.status, 200, "{failure:?}: {}", answer.text());
        assert_eq!(answer.header("x-aoai-backend"), Some("west"));
    }
    assert_eq!(azure.backend("east").count(), 1, "{failure:?}");
    let stat = format!("wasmcustom.aoai.backend.east.outcome.{outcome}");
    gateway.wait_for(|g| g.stat(&stat) == Some(1), PATIENCE, "the outcome");
    assert_eq!(azure.imds().count(), 1, "{failure:?}: the token stays");
    let log = gateway.log();
    let lines = log.lines().filter(|line| line.contains("backend east: "));
    let logged = lines.filter(|line| line.contains(logged)).count();
    assert_eq!(logged, 1, "{failure:?}: {log}");
}

cases! {
    fn case_35_a_backends_own_error_leads_to_the_next_backend(engine) {
        for (failure, outcome, logged) in kinds() {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            goes_on(&gateway, &azure, failure, outcome, logged);
        }
    }

    fn case_36_an_encoded_error_of_a_backend_leads_to_the_next(engine) {
        // One error of each status, because the encoding makes no difference among them.
        for (index, (failure, outcome, logged)) in kinds().into_iter().skip(1).take(4).enumerate() {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            let encoding = [Encoding::Gzip, Encoding::Deflate][index % 2];
            goes_on(&gateway, &azure, failure.encoded(encoding), outcome, logged);
        }
    }

    fn case_36_an_encoded_error_of_all_passes_unchanged(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let failure = Failure::coded(404, "DeploymentNotFound", "...").encoded(Encoding::Gzip);
        for backend in azure.backends() {
            backend.set(Behaviour::error(failure.clone()));
        }
        let chat_request = chat_request();
        let headers = [("accept-encoding", "gzip")];
        let send = |client: e2e::Client| client.send("POST", &chat_request.path, &headers, &chat_request.bytes()).unwrap();
        let answer = send(gateway.client());
        assert_eq!(answer.header("x-aoai-attempts"), Some("2"));
        let own = send(e2e::Client::new(azure.backend("west").addr()));
        assert_eq!((answer.status, &answer.body), (404, &own.body));
        for name in ["content-encoding", "content-type", "content-length"] {
            assert_eq!(answer.header(name), own.header(name), "{name}");
        }
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
    }

    fn case_36_no_unreadable_encoding_is_requested(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for (accepted, asked) in [
            ("br, gzip, deflate", "gzip, deflate"),
            ("zstd", "identity"),
            ("gzip, deflate", "gzip, deflate"),
        ] {
            // The first attempt, and after its failure the second one.
            for backend in azure.backends() {
                backend.clear_requests();
                backend.queue(vec![Behaviour::internal_error().times(1)]);
            }
            let chat = chat_request();
            let headers = [("accept-encoding", accepted)];
            let answer = gateway.client().send("POST", &chat.path, &headers, &chat.bytes()).unwrap();
            assert_eq!(answer.header("x-aoai-attempts"), Some("2"));
            for backend in azure.backends() {
                let requests = backend.requests();
                assert_eq!(requests.len(), 1);
                let mut sent = requests[0].headers.iter().filter(|(name, _)| name == "accept-encoding");
                assert_eq!(sent.next().map(|(_, value)| value.as_str()), Some(asked));
                assert_eq!(sent.next(), None);
            }
        }
    }

    fn case_10_any_other_400_is_passed_on_byte_for_byte(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let bodies = [
            r#"{"error": {"code": "content_filter", "message": "unknown_model"}}"#,
            r#"{"error": {"code": "OperationNotSupported", "message": "Not with this model."}}"#,
            "data: {\"error\": {}}\n\n",
            "",
        ];
        for body in bodies {
            for name in ["east", "west"] {
                let headers = [("x-ms-region", name), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/event-stream")];
                azure.backend(name).set(Behaviour::exact(400, &headers, body));
                azure.backend(name).clear_requests();
            }
            let answer = chat(&gateway);
            assert_eq!((answer.status, answer.text().as_str()), (400, body));
            assert_eq!(answer.header("x-aoai-attempts"), Some("1"));
            assert_eq!(answer.header("x-ms-region"), answer.header("x-aoai-backend"));
            assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
            assert_eq!(answer.headers.all("set-cookie"), ["a=1", "b=2"]);
            let calls: u64 = azure.backends().iter().map(|backend| backend.count()).sum();
            assert_eq!(calls, 1, "{body}");
        }
    }
}
