//! 429 is of one quota, that of a backend's deployment.

use serde_json::json;

use super::*;

const V1_EMBEDDINGS: &str = "/openai/v1/embeddings";
const V1_CHAT: &str = "/openai/v1/chat/completions";

fn dated(deployment: &str, operation: &str) -> String {
    format!("/openai/deployments/{deployment}/{operation}?api-version=2024-10-21")
}

/// A request to `path` whose body names `model`, complete.
fn ask(vm: &Vm, path: &str, model: &str) -> Stream {
    let stream = begin(vm, path);
    stream.body(body(model), true);
    stream
}

fn body(model: &str) -> String {
    json!({"model": model, "input": []}).to_string()
}

/// The beginning of such a request, whose length its client does not say.
fn begin(vm: &Vm, path: &str) -> Stream {
    vm.request(post(path), false)
}

#[test]
fn a_throttled_deployment_stops_no_other() {
    let (host, vm) = fleet(2, json!({"retry": {"max_attempts": 1}}));
    let embed = || ask(&vm, &dated("embed", "embeddings"), "embed");
    let chat = || ask(&vm, &dated("gpt-4o", "chat/completions"), "gpt-4o");
    for _ in 0..2 {
        throttle(&embed(), "30");
    }
    // A trial each.
    let trials = [embed(), embed()];
    for _ in 0..4 {
        assert_eq!(
            refused(&embed()),
            (429, "30000".into(), "all_backends_throttled".into())
        );
        for stream in [chat(), chat()] {
            respond(&stream, 200, "fine");
            assert_eq!(stream.answer().headers.get("x-aoai-attempts"), Some("1"));
        }
    }
    drop(trials);
    assert_eq!(counted(&host, "aoai.backend.east.outcome.success"), 4);
    assert_eq!(host.statistic("aoai.backend.west.outcome.success"), 4);
    assert_eq!(host.statistic("aoai.backend.east.soft"), 0);
    let said = host.logged(mock_host::LogLevel::Info);
    let named = "backend east: deployment \"embed\" is throttled (429); no requests for it for 30s";
    assert!(said.iter().any(|line| line == named), "{said:?}");
}

#[test]
fn a_429_of_a_name_that_was_not_read_is_advice() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    throttle(&ask(&vm, V1_EMBEDDINGS, "embed"), "30");
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 0);
    let said = host.logged(mock_host::LogLevel::Info);
    let named = "backend east: a deployment whose name was not read is throttled (429); requests for it prefer other \
                 backends for 30s";
    assert!(said.iter().any(|line| line == named), "{said:?}");
    // From now on names are read, and it says nothing of a request whose name is known.
    for path in [V1_CHAT, &dated("gpt-4o", "chat/completions")] {
        let stream = ask(&vm, path, "gpt-4o");
        assert!(stream.forwarded().is_some());
        respond(&stream, 200, "fine");
    }
    assert_eq!(counted(&host, "aoai.backend.east.soft"), 0);
    // Nor does it stop the same request, whose 429 now is that deployment's.
    throttle(&ask(&vm, V1_EMBEDDINGS, "embed"), "30");
    let trial = ask(&vm, V1_EMBEDDINGS, "embed");
    for _ in 0..4 {
        assert_eq!(refused(&ask(&vm, V1_EMBEDDINGS, "embed")).0, 429);
        let stream = ask(&vm, V1_CHAT, "gpt-4o");
        assert!(stream.forwarded().is_some());
        respond(&stream, 200, "fine");
    }
    drop(trial);
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 1);
}

#[test]
fn after_a_429_of_an_unread_name_names_are_read_for_a_while() {
    let (host, vm) = fleet(2, json!({}));
    let is_held = || {
        let stream = begin(&vm, V1_CHAT);
        let held = stream.forwarded().is_none();
        stream.body(body("gpt-4o"), true);
        assert!(stream.forwarded().is_some());
        respond(&stream, 200, "fine");
        held
    };
    assert!(!is_held(), "nothing is known yet");
    throttle(&ask(&vm, V1_EMBEDDINGS, "embed"), "1");
    vm.answer(&vm.call(), 200, [], "fine");
    assert!(is_held());
    host.advance(seconds(590));
    assert!(is_held());
    host.advance(seconds(20));
    assert!(!is_held(), "it is long ago");
}

#[test]
fn a_body_that_was_read_and_names_no_deployment_has_a_quota_too() {
    let (_host, vm) = fleet(1, json!({}));
    let nameless = || {
        let stream = begin(&vm, V1_CHAT);
        stream.body("{}", true);
        stream
    };
    // The first 429 is advice, the second one binds.
    for _ in 0..2 {
        throttle(&nameless(), "30");
    }
    let _trial = nameless();
    assert_eq!(refused(&nameless()).0, 429);

    // There is nothing to read where there is no body.
    let (_host, vm) = fleet(1, json!({}));
    let nameless = || vm.request(post(V1_CHAT), true);
    throttle(&nameless(), "30");
    let _trial = nameless();
    assert_eq!(refused(&nameless()).0, 429);
}

#[test]
fn a_name_in_the_path_is_that_in_the_body() {
    let (_host, vm) = fleet(1, json!({}));
    throttle(&ask(&vm, &dated("embed", "embeddings"), "other"), "30");
    let _trial = ask(&vm, &dated("embed", "embeddings"), "other");
    assert_eq!(refused(&ask(&vm, V1_EMBEDDINGS, "embed")).0, 429);
    assert!(ask(&vm, V1_EMBEDDINGS, "other").forwarded().is_some());
}

#[test]
fn operations_without_a_deployment_have_a_quota_of_their_own() {
    let (_host, vm) = fleet(1, json!({}));
    throttle(&get(&vm), "30");
    let _trial = get(&vm);
    assert_eq!(refused(&get(&vm)).0, 429);
    assert!(send(&vm).forwarded().is_some());
}

#[test]
fn remaining_tokens_of_two_deployments_are_kept_apart() {
    let requests = |path: &dyn Fn(&str) -> String| {
        let (_host, vm) = fleet(2, json!({"policy": "least_throttled"}));
        let to_east = |model: &str, count: usize| {
            let to_east = (0..count).filter(|_| {
                let stream = ask(&vm, &path(model), model);
                let east = routed_to(&stream) == EAST;
                let left = if east == (model == "gpt-4o") {
                    "7000"
                } else {
                    "1000"
                };
                stream.respond(200, [("x-ratelimit-remaining-tokens", left)], true);
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

/// The gauges of a deployment on the first backend, after the next tick.
fn shown(host: &Host, deployment: &str) -> (u64, u64) {
    let prefix = format!("aoai.backend.east.deployment.{deployment}");
    let state = counted(host, &format!("{prefix}.state"));
    (state, host.statistic(&format!("{prefix}.seconds")))
}

#[test]
fn a_quota_is_shown_once_it_was_refused() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    let embed = || ask(&vm, &dated("text.Embed", "embeddings"), "text.Embed");
    let chat = || ask(&vm, &dated("gpt-4o", "chat/completions"), "gpt-4o");
    respond(&chat(), 200, "fine");
    throttle(&embed(), "30");
    assert_eq!(shown(&host, "text_embed"), (1, 29));
    let names: Vec<_> = host
        .statistics()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let quotas = names.iter().filter(|name| name.contains(".deployment."));
    assert_eq!(quotas.count(), 2, "{names:?}");
    // A trial is served: from now on waits are advice.
    respond(&embed(), 200, "fine");
    assert_eq!(shown(&host, "text_embed"), (0, 0));
    throttle(&embed(), "30");
    assert_eq!(shown(&host, "text_embed"), (2, 29));
    host.advance(seconds(29));
    assert_eq!(shown(&host, "text_embed"), (0, 0));
}

#[test]
fn a_quota_without_a_deployments_name_is_shown() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    throttle(&ask(&vm, V1_EMBEDDINGS, "embed"), "30");
    throttle(&vm.request(post("/openai/v1/files"), true), "20");
    assert_eq!(shown(&host, "_unread"), (2, 29));
    assert_eq!(shown(&host, "_files"), (1, 17));
}

#[test]
fn every_worker_shows_the_quotas_that_one_saw_refused() {
    let config = json!({"retry": {"max_attempts": 1}});
    let (host, vm) = fleet(1, config.clone());
    let throttled =
        |vm: &Vm, name: &str| throttle(&ask(vm, &dated(name, "embeddings"), name), "30");
    throttled(&vm, "embed");
    drop(vm);
    // The worker that knew the name has ended before it showed anything.
    let later = host.vm(&fleet_config(1, config));
    assert_eq!(shown(&host, "embed"), (1, 29));
    host.advance(seconds(28));
    assert_eq!(shown(&host, "embed"), (0, 0));
    host.clear_counts();
    host.advance(seconds(5));
    // The token's gauge alone.
    assert_eq!(host.counts()["proxy_record_metric"].calls, 5);
    drop(later);
}

#[test]
fn no_more_than_64_quotas_of_a_backend_are_shown() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    for number in 0..70 {
        let name = format!("embed-{number}");
        throttle(&ask(&vm, &dated(&name, "embeddings"), &name), "200");
        host.advance(seconds(1));
    }
    for (number, state) in [(63, 1), (64, 0), (69, 0)] {
        assert_eq!(
            shown(&host, &format!("embed-{number}")).0,
            state,
            "{number}"
        );
    }
}
