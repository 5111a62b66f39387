//! A 429 concerns one quota: that of a deployment on a backend.

use mock_host::Setup;
use serde_json::json;

use super::*;

const V1_EMBEDDINGS: &str = "/openai/v1/embeddings";
const V1_CHAT: &str = "/openai/v1/chat/completions";

fn dated(deployment: &str, operation: &str) -> String {
    format!("/openai/deployments/{deployment}/{operation}?api-version=2024-10-21")
}

/// A request to `path` whose body names `model`, complete.
fn ask(gateway: &Gateway, path: &str, model: &str) -> Request {
    let request = begin(gateway, path);
    request.body(body(model), true);
    request
}

fn body(model: &str) -> String {
    json!({"model": model, "input": []}).to_string()
}

/// The headers of such a request, without an announced length.
fn begin(gateway: &Gateway, path: &str) -> Request {
    gateway.request(post(path), false)
}

/// The gauges of a deployment on the first backend, after the next tick.
fn shown(gateway: &Gateway, deployment: &str) -> (u64, u64) {
    let prefix = format!("aoai.backend.east.deployment.{deployment}");
    let state = gateway.counted(&format!("{prefix}.state"));
    (state, gateway.host.statistic(&format!("{prefix}.seconds")))
}

cases! {
    fn a_throttled_deployment_stops_no_other(engine) {
        let gateway = engine.fleet(2, json!({"retry": {"max_attempts": 1}}));
        let embed = || ask(&gateway, &dated("embed", "embeddings"), "embed");
        let chat = || ask(&gateway, &dated("gpt-4o", "chat/completions"), "gpt-4o");
        for _ in 0..2 {
            throttle(&embed().attempt(), "30");
        }
        // Each deployment has one trial.
        let trials = [embed(), embed()];
        for _ in 0..4 {
            assert_eq!(
                refused(&embed()),
                (429, "30000".into(), "all_backends_throttled".into())
            );
            for request in [chat(), chat()] {
                answer(&request.attempt(), 200, "fine");
                assert_eq!(request.answer().headers.get("x-aoai-attempts"), Some("1"));
            }
        }
        drop(trials);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.success"), 4);
        assert_eq!(
            gateway.host.statistic("aoai.backend.west.outcome.success"),
            4
        );
        assert_eq!(gateway.host.statistic("aoai.backend.east.soft"), 0);
        let log = gateway.host.logged(mock_host::LogLevel::Info);
        let named =
            "backend east: deployment \"embed\" is throttled (429); no requests for it for 30s";
        assert!(log.iter().any(|line| line == named), "{log:?}");
    }

    fn a_429_of_a_name_that_was_not_read_is_advice(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        throttle(&ask(&gateway, V1_EMBEDDINGS, "embed").attempt(), "30");
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 0);
        let log = gateway.host.logged(mock_host::LogLevel::Info);
        let named = "backend east: a deployment whose name was not read is throttled (429); requests for it prefer other \
                     backends for 30s";
        assert!(log.iter().any(|line| line == named), "{log:?}");
        // From now on the filter reads names. The advice does not concern a request with a known name.
        for path in [V1_CHAT, &dated("gpt-4o", "chat/completions")] {
            let request = ask(&gateway, path, "gpt-4o");
            assert!(request.forwarded().is_some());
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(gateway.counted("aoai.backend.east.soft"), 0);
        // Another request of that kind is not stopped either. Its 429 now concerns its deployment.
        throttle(&ask(&gateway, V1_EMBEDDINGS, "embed").attempt(), "30");
        let trial = ask(&gateway, V1_EMBEDDINGS, "embed");
        for _ in 0..4 {
            assert_eq!(refused(&ask(&gateway, V1_EMBEDDINGS, "embed")).0, 429);
            let request = ask(&gateway, V1_CHAT, "gpt-4o");
            assert!(request.forwarded().is_some());
            answer(&request.attempt(), 200, "fine");
        }
        drop(trial);
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 1);
    }

    fn after_a_429_of_an_unread_name_names_are_read_for_a_while(engine) {
        let gateway = engine.fleet(2, json!({"retry": {"replay_limit": "1KiB"}}));
        // The body is too long to be held for a retry, so only its name can be a reason to hold it.
        let long = json!({"model": "gpt-4o", "input": "x".repeat(2048)}).to_string();
        let is_held = || {
            let request = gateway.request(request_of("POST", V1_CHAT, &long), false);
            let (one, other) = long.split_at(100);
            request.body(one, false);
            let held = request.forwarded().is_none();
            request.body(other, true);
            assert!(request.forwarded().is_some());
            answer(&request.attempt(), 200, "fine");
            held
        };
        assert!(!is_held(), "nothing is known yet");
        let request = ask(&gateway, V1_EMBEDDINGS, "embed");
        throttle(&request.attempt(), "1");
        answer(&request.attempt(), 200, "fine");
        assert!(is_held());
        gateway.host.advance(seconds(590));
        assert!(is_held());
        gateway.host.advance(seconds(20));
        assert!(!is_held(), "it is long ago");
    }

    fn a_body_that_was_read_and_names_no_deployment_has_a_quota_too(engine) {
        let gateway = engine.fleet(1, json!({}));
        let nameless = || {
            let request = begin(&gateway, V1_CHAT);
            request.body("{}", true);
            request
        };
        // The first 429 is advice, and the second one binds.
        for _ in 0..2 {
            throttle(&nameless().attempt(), "30");
        }
        let _trial = nameless();
        assert_eq!(refused(&nameless()).0, 429);

        // A request without a body has nothing to read.
        let gateway = engine.fleet(1, json!({}));
        let nameless = || gateway.request(post(V1_CHAT), true);
        throttle(&nameless().attempt(), "30");
        let _trial = nameless();
        assert_eq!(refused(&nameless()).0, 429);
    }

    fn a_name_in_the_path_and_in_the_body_share_a_quota(engine) {
        let gateway = engine.fleet(1, json!({}));
        throttle(
            &ask(&gateway, &dated("embed", "embeddings"), "other").attempt(),
            "30",
        );
        let _trial = ask(&gateway, &dated("embed", "embeddings"), "other");
        assert_eq!(refused(&ask(&gateway, V1_EMBEDDINGS, "embed")).0, 429);
        assert!(ask(&gateway, V1_EMBEDDINGS, "other").forwarded().is_some());
    }

    fn operations_without_a_deployment_have_a_quota_of_their_own(engine) {
        let gateway = engine.fleet(1, json!({}));
        throttle(&gateway.get().attempt(), "30");
        let _trial = gateway.get();
        assert_eq!(refused(&gateway.get()).0, 429);
        assert!(gateway.send().forwarded().is_some());
    }

    fn remaining_tokens_are_counted_by_deployment(engine) {
        let requests = |path: &dyn Fn(&str) -> String| {
            let gateway = engine.fleet(2, json!({"policy": "least_throttled"}));
            let to_east = |model: &str, count: usize| {
                let to_east = (0..count).filter(|_| {
                    let request = ask(&gateway, &path(model), model);
                    let east = request.attempt().cluster() == EAST;
                    let left = if east == (model == "gpt-4o") {
                        "7000"
                    } else {
                        "1000"
                    };
                    request
                        .attempt()
                        .respond(200, [("x-ratelimit-remaining-tokens", left)], true);
                    east
                });
                to_east.count()
            };
            for model in ["gpt-4o", "embed"] {
                to_east(model, 20);
            }
            ["gpt-4o", "embed"].map(|model| to_east(model, 400))
        };
        for path in [&|model: &str| dated(model, "embeddings"), &|_: &str| {
            V1_EMBEDDINGS.to_owned()
        }] as [&dyn Fn(&str) -> String; 2]
        {
            let [chats, embeddings] = requests(path);
            assert!(chats.abs_diff(350) < 10, "{chats}");
            assert!(embeddings.abs_diff(50) < 10, "{embeddings}");
        }
    }

    fn a_quota_has_a_gauge_once_it_was_refused(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        let embed = || ask(&gateway, &dated("text.Embed", "embeddings"), "text.Embed");
        let chat = || ask(&gateway, &dated("gpt-4o", "chat/completions"), "gpt-4o");
        answer(&chat().attempt(), 200, "fine");
        throttle(&embed().attempt(), "30");
        assert_eq!(shown(&gateway, "text_embed"), (1, 29));
        let names: Vec<_> = gateway
            .host
            .statistics()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let quotas = names.iter().filter(|name| name.contains(".deployment."));
        assert_eq!(quotas.count(), 2, "{names:?}");
        // A trial is served, so waits are advice from now on.
        answer(&embed().attempt(), 200, "fine");
        assert_eq!(shown(&gateway, "text_embed"), (0, 0));
        throttle(&embed().attempt(), "30");
        assert_eq!(shown(&gateway, "text_embed"), (2, 29));
        gateway.host.advance(seconds(29));
        assert_eq!(shown(&gateway, "text_embed"), (0, 0));
    }

    fn a_quota_without_a_deployments_name_has_a_gauge(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        throttle(&ask(&gateway, V1_EMBEDDINGS, "embed").attempt(), "30");
        throttle(
            &gateway.request(post("/openai/v1/files"), true).attempt(),
            "20",
        );
        assert_eq!(shown(&gateway, "_unread"), (2, 29));
        assert_eq!(shown(&gateway, "_files"), (1, 17));
    }

    fn every_worker_reports_the_quotas_of_all_workers(engine) {
        let config = json!({"retry": {"max_attempts": 1}});
        let setup = || Setup::new(engine.config(1, config.clone()));
        let gateway = engine.ready(setup());
        throttle(
            &ask(&gateway, &dated("embed", "embeddings"), "embed").attempt(),
            "30",
        );
        let host = gateway.host.clone();
        drop(gateway);
        // The worker that knew the name ended before it reported anything.
        let later = engine.start_on(&host, setup());
        assert_eq!(shown(&later, "embed"), (1, 29));
        host.advance(seconds(28));
        assert_eq!(shown(&later, "embed"), (0, 0));
        host.clear_counts();
        host.advance(seconds(5));
        // The calls are those of the token's two gauges alone.
        assert_eq!(host.counts()["proxy_record_metric"].calls, 10);
    }

    fn at_most_64_quotas_of_a_backend_have_gauges(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        for number in 0..70 {
            let name = format!("embed-{number}");
            throttle(
                &ask(&gateway, &dated(&name, "embeddings"), &name).attempt(),
                "200",
            );
            gateway.host.advance(seconds(1));
        }
        for (number, state) in [(63, 1), (64, 0), (69, 0)] {
            assert_eq!(
                shown(&gateway, &format!("embed-{number}")).0,
                state,
                "{number}"
            );
        }
    }
}
