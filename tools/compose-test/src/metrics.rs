//! Checks that Prometheus and Grafana can use the statistics.

use std::fs;

use anyhow::{bail, ensure, Context, Result};
use provision::{paths, process};
use serde_json::Value;

use super::checks::{agent, eventually, Stage, Verdict};

const DASHBOARD: &str = "deploy/grafana/azure-openai-balancer.json";

/// A documentation page with queries.
const PAGE: &str = "docs/usage.md";

/// Prefixes of statistics that the demo lacks. Its only limit is tokens per minute, and it needs no rate limit service.
const UNUSED: [&str; 3] = [
    "aoai_client_limited_tokens_per_day",
    "aoai_client_limited_requests_per_minute",
    "envoy_cluster_ratelimit_",
];

/// Grafana's own variable, and the value that Grafana uses for it in a graph of half an hour.
const RATE_INTERVAL: (&str, &str) = ("$__rate_interval", "1m");

/// Checks that Prometheus reads Envoy, that the alerts are loaded, and that the dashboard's queries return data. Queries on
/// [`UNUSED`] statistics only have to be valid.
pub fn prometheus_reads_everything(stage: &Stage<'_>) -> Result<Verdict> {
    let mut up = stage.stack.compose();
    process::run(up.args(["up", "--detach", "--no-build", "prometheus"]))?;
    let api = Api::of(stage, "prometheus", 9090)?;
    eventually(|| {
        let targets = api.get("/api/v1/targets", &[])?;
        let target = &targets["data"]["activeTargets"][0];
        ensure!(target["health"] == "up", "the target: {target}");
        Ok(())
    })?;
    eventually(|| {
        let rules = api.get("/api/v1/rules", &[])?;
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned();
        let rules = rules.context("no rules")?;
        for rule in &rules {
            ensure!(rule["health"] == "ok", "an alert: {rule}");
        }
        Ok(())
    })?;
    // The page's queries only have to be valid, because a demo has no data of thirty days.
    for query in &queries_of_page()? {
        api.get("/api/v1/query", &[("query", query)])?;
    }
    let (used, unused): (Vec<_>, Vec<_>) = queries()?
        .into_iter()
        .partition(|query| !UNUSED.iter().any(|name| query.contains(name)));
    for query in &unused {
        api.get("/api/v1/query", &[("query", query)])?;
    }
    // Prometheus needs two readings for a rate, so the first queries may return nothing.
    eventually(|| {
        let mut empty = Vec::new();
        for query in &used {
            let answer = api.get("/api/v1/query", &[("query", query)])?;
            let found = answer["data"]["result"].as_array().map(Vec::len);
            if found.is_none_or(|found| found == 0) {
                empty.push(query);
            }
        }
        ensure!(empty.is_empty(), "these queries return nothing: {empty:#?}");
        Ok(())
    })?;
    println!(
        "{} of the dashboard's queries return data; {} are on statistics that the demo lacks",
        used.len(),
        unused.len()
    );
    Ok(Verdict::Passed)
}

/// The queries of the dashboard, as Grafana sends them.
fn queries() -> Result<Vec<String>> {
    let path = paths::workspace().join(DASHBOARD);
    let text = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let dashboard: Value = serde_json::from_slice(&text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array());
    let queries: Option<Vec<String>> = targets
        .flatten()
        .map(|target| {
            let query = target["expr"].as_str()?;
            Some(query.replace(RATE_INTERVAL.0, RATE_INTERVAL.1))
        })
        .collect();
    queries.context("a target of the dashboard has no query")
}

/// The queries on [`PAGE`], one per line of its code blocks.
fn queries_of_page() -> Result<Vec<String>> {
    let path = paths::workspace().join(PAGE);
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("{}: cannot be read", path.display()))?;
    let blocks = text.split("```promql\n").skip(1);
    let lines = blocks.flat_map(|block| block.lines().take_while(|line| *line != "```"));
    let queries: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(
        queries.len() > 5,
        "{PAGE} has only these queries: {queries:?}"
    );
    Ok(queries)
}

/// Runs the tests of the alerts with Prometheus' own tool, promtool.
pub fn the_alerts_fire_when_they_should(stage: &Stage<'_>) -> Result<Verdict> {
    let rules = paths::workspace().join("deploy/prometheus");
    let promtool = |arguments: &[&str]| {
        let mut run = stage.stack.compose();
        run.args([
            "run",
            "--rm",
            "--no-deps",
            "--entrypoint",
            "/bin/promtool",
            "--volume",
        ])
        .arg(format!("{}:/rules:ro", rules.display()))
        .arg("prometheus")
        .args(arguments);
        process::run(&mut run)
    };
    promtool(&["check", "config", "/etc/prometheus/prometheus.yml"])?;
    promtool(&["test", "rules", "/rules/alerts.test.yml"])?;
    Ok(Verdict::Passed)
}

/// Checks that Grafana serves the dashboard without a login.
pub fn grafana_has_the_dashboard(stage: &Stage<'_>) -> Result<Verdict> {
    if !stage.has_grafana {
        return Ok(Verdict::Skipped("Grafana's image is not available here"));
    }
    let mut up = stage.stack.compose();
    process::run(up.args(["up", "--detach", "--no-build", "grafana"]))?;
    let api = Api::of(stage, "grafana", 3000)?;
    eventually(|| {
        let found = api.get("/api/dashboards/uid/azure-openai-balancer", &[])?;
        let title = &found["dashboard"]["title"];
        ensure!(title == "Azure OpenAI balancer", "its title is {title}");
        Ok(())
    })?;
    Ok(Verdict::Passed)
}

/// The HTTP API of a service.
struct Api {
    url: String,
}

impl Api {
    fn of(stage: &Stage<'_>, service: &str, port: u16) -> Result<Self> {
        let address = stage.stack.published(service, port)?;
        Ok(Self {
            url: format!("http://{address}"),
        })
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let request = agent().get(format!("{}{path}", self.url));
        let mut answer = request.query_pairs(query.iter().copied()).call()?;
        let body = answer.body_mut().read_to_string()?;
        if answer.status() != 200 {
            bail!("{path}: {} {body}", answer.status());
        }
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }
}
