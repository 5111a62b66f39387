//! The source of the token, and requests while there is no token.

use std::time::{Duration, Instant};

use e2e::{cases, chat_request, load, simulate, simulate_with, Gateway};
use serde_json::json;
use simulator::{Expires, ImdsBehaviour};

const SECOND: Duration = Duration::from_secs(1);

/// No line of any log has a token that the gateway got, or a part of one.
fn assert_no_token_in_logs(azure: &simulator::Simulator, gateway: &Gateway) {
    let log = gateway.log();
    for token in azure.imds().tokens() {
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!log.contains(part), "a part of a token is in the log");
        }
    }
    assert!(!log.contains("Bearer "), "a bearer token is in the log");
}

cases! {
    fn case_21_one_fetch_serves_all_workers_at_start(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            let result = load(&gateway, 16, 200, &chat_request());
            assert_eq!(result.status(200), 200, "{result:?}");
            assert_eq!(azure.imds().count(), 1, "{workers} workers");
        }
    }

    fn case_21_imds_gets_the_request_that_it_requires(engine) {
        let azure = simulate_with(&["east"], |settings| {
            settings.imds.identities = Some(vec!["the-client".to_owned()]);
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["identity"]["client_id"] = json!("the-client"))
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let request = &azure.imds().requests()[0];
        assert_eq!(request.method, "GET");
        assert_eq!(request.authority, "169.254.169.254");
        assert_eq!(request.header("metadata"), Some("true"));
        assert_eq!(request.header("x-forwarded-for"), None);
        assert_eq!(
            request.path,
            "/metadata/identity/oauth2/token?api-version=2018-02-01\
             &resource=https%3A%2F%2Fcognitiveservices.azure.com&client_id=the-client"
        );
    }

    fn case_21_every_spelling_of_the_expiry_is_understood(engine) {
        for (expires, as_numbers) in [
            (Expires::ExpiresOn, false),
            (Expires::ExpiresOn, true),
            (Expires::ExpiresIn, false),
            (Expires::ExpiresIn, true),
        ] {
            let azure = simulate(&["east"]);
            azure.imds().set(ImdsBehaviour::expires(expires, as_numbers));
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            assert_eq!(gateway.chat(&chat_request()).status, 200);
            gateway.wait_for(
                |g| g.stat("wasmcustom.aoai.identity.seconds_to_expiry").is_some_and(|s| s > 3500),
                3 * SECOND,
                "the expiry to be known",
            );
        }
    }

    fn case_21_the_token_is_refreshed_before_it_expires(engine) {
        let azure = simulate_with(&["east"], |settings| {
            // Long enough for the tick of a second by which each worker learns of a new token.
            settings.imds.token_lifetime = 10 * SECOND;
        });
        let gateway = Gateway::builder().simulator(&azure).log_level("trace").engine(engine).workers(2).start();
        let started = Instant::now();
        while started.elapsed() < 15 * SECOND {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("x-aoai-attempts"), Some("1"), "no token was ever refused");
            std::thread::sleep(Duration::from_millis(100));
        }
        let fetches = azure.imds().count();
        assert!((3..=6).contains(&fetches), "{fetches} fetches of a 10 s token in 15 s");
        assert_no_token_in_logs(&azure, &gateway);
    }

    fn case_21_transient_failures_are_retried_on_schedule(engine) {
        for status in [404, 429, 500] {
            let azure = simulate(&["east"]);
            azure.imds().set(ImdsBehaviour::status(status).times(2));
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "after {status}: {}", answer.text());
            let times: Vec<f64> = azure.imds().requests().iter().map(|r| r.received_at).collect();
            assert_eq!(times.len(), 3);
            for (gap, expected) in times.windows(2).zip([1000.0, 2000.0]) {
                let gap = gap[1] - gap[0];
                assert!((expected - 50.0..expected + 400.0).contains(&gap), "{status}: {times:?}");
            }
        }
    }

    fn case_21_an_update_of_imds_is_waited_out(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::status(410).times(1));
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["identity"]["wait_timeout"] = json!("10s"))
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let times: Vec<f64> = azure.imds().requests().iter().map(|r| r.received_at).collect();
        assert!((4950.0..5500.0).contains(&(times[1] - times[0])), "{times:?}");
    }

    fn case_21_retry_after_is_obeyed(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::status_retry_after(429, "3").times(1));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let times: Vec<f64> = azure.imds().requests().iter().map(|r| r.received_at).collect();
        assert!((2950.0..3500.0).contains(&(times[1] - times[0])), "{times:?}");
    }

    fn case_21_a_refusal_is_reported_once_and_not_hammered(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::status(400));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        gateway.assert_refused_without_token(&azure);
        let log = gateway.log();
        let reports = log.lines().filter(|line| line.contains("the token service refused")).count();
        assert_eq!(reports, 1, "{log}");
        assert!(log.contains("The simulator was told to answer 400."), "what IMDS said is in the log");
    }

    fn case_22_imds_down_at_start_is_a_bounded_wait_then_service(engine) {
        let azure = simulate(&["east"]);
        azure.imds().stop();
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .plugin(|p| p["identity"]["wait_timeout"] = json!("2s"))
            .start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["code"], "identity_unavailable");
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
        assert!(answer.header("retry-after-ms").is_some());
        assert!(answer.elapsed < 4 * SECOND, "{:?}", answer.elapsed);
        assert_eq!(azure.backend("east").count(), 0, "nothing left without a token");
        azure.imds().restart().unwrap();
        gateway.wait_for(
            |g| g.chat(&chat_request()).status == 200,
            40 * SECOND,
            "service to resume by itself",
        );
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.identity.unavailable").is_some_and(|n| n >= 1),
            3 * SECOND,
            "the 503 to be counted",
        );
    }

    fn case_22_a_hanging_imds_is_a_bounded_wait_too(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::hang());
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| {
                p["identity"]["wait_timeout"] = json!("1s");
                p["identity"]["fetch_timeout"] = json!("1s");
            })
            .start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503);
        assert!(answer.elapsed < 3 * SECOND, "{:?}", answer.elapsed);
        azure.imds().clear();
        gateway.wait_for(|g| g.chat(&chat_request()).status == 200, 20 * SECOND, "service to resume");
    }

    fn case_22_with_imds_down_the_token_serves_until_it_expires(engine) {
        let azure = simulate_with(&["east"], |settings| {
            settings.imds.token_lifetime = 8 * SECOND;
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .log_level("trace")
            .engine(engine)
            .workers(2)
            .plugin(|p| p["identity"]["wait_timeout"] = json!("500ms"))
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let fetched = Instant::now();
        azure.imds().stop();
        while fetched.elapsed() < 7 * SECOND {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{:?}: {}", fetched.elapsed(), answer.text());
            std::thread::sleep(Duration::from_millis(200));
        }
        gateway.wait_for(
            |g| g.chat(&chat_request()).status == 503,
            5 * SECOND,
            "the token to expire",
        );
        azure.imds().restart().unwrap();
        gateway.wait_for(|g| g.chat(&chat_request()).status == 200, 40 * SECOND, "service to resume");
        assert_no_token_in_logs(&azure, &gateway);
    }

    fn requests_that_arrive_without_a_token_wait_and_are_served(engine) {
        let azure = simulate(&["east", "west"]);
        azure.imds().set(ImdsBehaviour::normal().after_ms(1500));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        // Bodies of unknown size, and larger bodies than the gateway holds until they are complete, wait as well.
        let chat = chat_request().padded(700_000);
        let results = e2e::parallel(12, |_| gateway.chat(&chat));
        for answer in results {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert_eq!(azure.imds().count(), 1);
        for request in azure.requests().iter().filter(|request| request.method == "POST") {
            assert_eq!(request.body_len, chat.bytes().len() as u64);
        }
    }

    fn an_upgrade_does_not_wait_for_a_token(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::normal().after_ms(1000));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
        let answer = gateway.client().send("GET", "/openai/realtime?deployment=d", &headers, b"").unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["code"], "identity_unavailable");
        assert!(answer.elapsed < SECOND, "{:?}", answer.elapsed);
    }

    // Envoy before 1.40 drops a frame if a call resumes a stream that a body callback had paused.
    fn an_upload_that_waits_for_the_token_loses_no_chunk(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::normal().after_ms(1000));
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let chat = chat_request();
        let body = chat.bytes();
        let mut upload = gateway.client().upload("POST", &chat.path, &[]).unwrap();
        let pieces: Vec<&[u8]> = body.chunks(body.len() / 8).collect();
        for piece in &pieces {
            upload.chunk(piece).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
        let answer = upload.finish().unwrap().read_to_end();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(&azure.backend("east").requests()[0].body[..], &body[..]);
    }

    fn a_token_revoked_soon_after_its_renewal_costs_no_request(engine) {
        let azure = simulate(&["east", "west", "north", "south", "centre"]);
        // One worker, so that the requests go in turn and each backend's first token is a revoked one.
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for _ in 0..6 {
            azure.imds().revoke_all();
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        let stats = gateway.stats("wasmcustom.aoai.backend.");
        let blamed = stats.iter().filter(|(name, _)| name.ends_with("cooldowns.misconfigured"));
        assert_eq!(blamed.map(|(_, count)| count).sum::<i64>(), 0);
    }

    fn revoked_tokens_cost_no_request_with_two_workers(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .start();
        for _ in 0..3 {
            azure.imds().revoke_all();
            for _ in 0..12 {
                assert_eq!(gateway.chat(&chat_request()).status, 200);
            }
        }
    }

    fn after_a_token_outage_every_backend_serves_again(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .log_level("info")
            .workers(2)
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        azure.imds().stop();
        azure.imds().revoke_all();
        // The first backend of a request is not blamed for a token that cannot be renewed, so the last backend never
        // is.
        gateway.wait_for(
            |g| {
                g.chat(&chat_request());
                let stats = g.stats("wasmcustom.aoai.backend.");
                let refused = stats.iter().filter(|(name, _)| name.ends_with("cooldowns.misconfigured"));
                refused.map(|(_, count)| count).sum::<i64>() == 2
            },
            Duration::from_secs(10),
            "two backends to count as misconfigured",
        );
        azure.imds().restart().unwrap();
        // Before there is a new token, requests would make trials.
        gateway.wait_for(
            |g| g.log().matches("new access token").count() == 2,
            Duration::from_secs(20),
            "a new token",
        );
        for backend in ["east", "west", "north"] {
            gateway.wait_for(
                |g| g.chat(&chat_request()).header("x-sim-backend") == Some(backend),
                Duration::from_secs(20),
                &format!("{backend} to serve"),
            );
        }
    }

    fn case_52_a_401_for_a_wrong_audience_names_both_audiences(engine) {
        let azure = simulate_with(&["east"], |settings| {
            settings.imds.audience = "https://ai.azure.com".to_owned();
            settings.imds.cache = false;
        });
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let expected = "backend east: refuses a token that was just fetched (401): its audience is \
                        https://cognitiveservices.azure.com; if the resource expects https://ai.azure.com, set that as the identity's `resource`";
        gateway.wait_for(
            |g| {
                g.chat(&chat_request());
                g.log().contains(expected)
            },
            10 * SECOND,
            expected,
        );
        let right = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["identity"]["resource"] = json!("https://ai.azure.com"))
            .start();
        assert_eq!(right.chat(&chat_request()).status, 200);
    }

    fn case_23_the_app_service_form_works_from_endpoint_and_header(engine) {
        let azure = simulate_with(&["east"], |settings| {
            settings.imds.identity_header = "the-proof".to_owned();
        });
        let endpoint = format!("http://127.0.0.1:{}/msi/token", azure.imds().port());
        let gateway = Gateway::builder()
            .simulator(&azure)
            .log_level("trace")
            .engine(engine)
            .plugin(|p| p["identity"]["source"] = json!("app_service"))
            .environment("IDENTITY_ENDPOINT", &endpoint)
            .secret("IDENTITY_HEADER", "the-proof")
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let request = &azure.imds().requests()[0];
        assert_eq!(request.header("x-identity-header"), Some("the-proof"));
        assert!(request.path.starts_with("/msi/token?api-version=2019-08-01&resource="), "{}", request.path);
        assert!(!gateway.log().contains("the-proof"));
        assert_no_token_in_logs(&azure, &gateway);
    }
}
