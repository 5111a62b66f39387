//! The statistics that Prometheus reads from a real Envoy, as `deploy/` and docs/operations.md use them.

use std::time::Duration;

use e2e::{cases, chat_request, simulate, Gateway};
use simulator::Behaviour;

/// The longest wait for the module's report, which comes once a second.
const LIMIT: Duration = Duration::from_secs(10);

cases! {
fn the_module_statistics_have_the_backend_as_a_label(engine) {
    let azure = simulate(&["east", "west"]);
    let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
    for _ in 0..4 {
        assert_eq!(gateway.chat(&chat_request()).status, 200);
    }
    gateway.wait_for(|gateway| gateway.stat("wasmcustom.aoai.requests") == Some(4), LIMIT, "the requests are counted");
    let text = gateway.admin("/stats/prometheus");
    for line in [
        "aoai_requests{} 4",
        "aoai_backend_attempts{aoai_backend=\"east\"} 2",
        "aoai_backend_outcome_success{aoai_backend=\"west\"} 2",
        "aoai_backend_state{aoai_backend=\"east\"} 0",
        "aoai_backend_cooldown_seconds{aoai_backend=\"east\"} 0",
        "aoai_no_retry_budget_spent{} 0",
        "aoai_refused_throttled{} 0",
        "aoai_identity_fetches{} 1",
        "# TYPE aoai_requests counter",
        "# TYPE aoai_backend_state gauge",
        "# TYPE aoai_identity_seconds_left gauge",
        "# TYPE aoai_identity_seconds_to_expiry gauge",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{}", ours(&text));
    }
}

fn a_refused_deployment_has_backend_and_deployment_as_labels(engine) {
    let azure = simulate(&["east", "west"]);
    let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
    azure.backend("east").set(Behaviour::throttled(30));
    azure.backend("west").set(Behaviour::throttled(30));
    let chat = chat_request().deployment("gpt-3.5-turbo");
    assert_eq!(gateway.chat(&chat).status, 429);
    let state = "wasmcustom.aoai.backend.west.deployment.gpt-3_5-turbo.state";
    gateway.wait_for(|gateway| gateway.stat(state) == Some(2), LIMIT, "the quotas are shown");
    let text = gateway.admin("/stats/prometheus");
    for line in [
        // Only the first 429 of a request binds others.
        "aoai_backend_deployment_state{aoai_backend=\"east\",aoai_deployment=\"gpt-3_5-turbo\"} 1",
        "aoai_backend_deployment_state{aoai_backend=\"west\",aoai_deployment=\"gpt-3_5-turbo\"} 2",
        "# TYPE aoai_backend_deployment_state gauge",
        "# TYPE aoai_backend_deployment_seconds gauge",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{}", ours(&text));
    }
    let seconds = "aoai_backend_deployment_seconds{aoai_backend=\"east\",aoai_deployment=\"gpt-3_5-turbo\"} ";
    let seconds = text.lines().find_map(|found| found.strip_prefix(seconds)?.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| (20..=30).contains(&seconds)), "{}", ours(&text));
}
}

fn ours(text: &str) -> String {
    let lines = text.lines().filter(|line| line.contains("aoai"));
    lines.collect::<Vec<_>>().join("\n")
}
