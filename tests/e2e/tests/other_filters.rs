//! Filters between this one and the router, such as Envoy Gateway's rate limits: the client gets their answers.

use std::time::Duration;

use e2e::{cases, chat_request, east_and_west};

const SECOND: Duration = Duration::from_secs(1);

/// Lets one request an hour pass.
const LIMIT: &str = r#"- name: envoy.filters.http.local_ratelimit
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            stat_prefix: limit
            token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s}
            filter_enabled: {default_value: {numerator: 100}}
            filter_enforced: {default_value: {numerator: 100}}
        "#;
const ROUTER: &str = "- name: envoy.filters.http.router";

cases! {
    fn a_rate_limit_behind_the_balancer_is_not_bypassed(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .rewrite(ROUTER, &format!("{LIMIT}{ROUTER}"))
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        for _ in 0..6 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 429, "{}", answer.text());
            assert_eq!(answer.text(), "local_rate_limited");
            assert_eq!(answer.header("x-aoai-backend"), None, "no backend was asked");
        }
        let asked: usize = azure.backends().iter().map(|backend| backend.requests().len()).sum();
        assert_eq!(asked, 1);
        gateway.wait_for(|gateway| gateway.stat("wasmcustom.aoai.requests") == Some(7), 5 * SECOND, "all are counted");
        for backend in ["east", "west"] {
            let state = gateway.stat(&format!("wasmcustom.aoai.backend.{backend}.state"));
            assert_eq!(state, Some(0), "{backend} did nothing wrong");
        }
    }
}
