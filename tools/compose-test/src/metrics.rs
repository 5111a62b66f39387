//! What Prometheus and Grafana make of the statistics.

use std::fs;

use anyhow::{bail, ensure, Context, Result};
use provision::{paths, process};
use serde_json::Value;

use super::checks::{agent, eventually, Stage, Verdict};

const DASHBOARD: &str = "deploy/grafana/azure-openai-balancer.json";

/// A page that shows queries.
const PAGE: &str = "docs/usage.md";

/// How statistics begin that the demo does not have: its only limit is one of tokens a minute, and needs no service.
const UNUSED: [&str; 3] = [
    "aoai_client_limited_tokens_per_day",
    "aoai_client_limited_requests_per_minute",
    "envoy_cluster_ratelimit_",
];

/// What Grafana puts in the place of its own variable, for a graph of half an hour.
const RATE_INTERVAL: (&str, &str) = ("$__rate_interval", "1m");

/// Prometheus reads Envoy, has the alerts, and has something for every query of the dashboard about what the demo has.
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
    // What a page shows has to be a query; the figures of thirty days are none that a demo has.
    for query in &queries_of_page()? {
        api.get("/api/v1/query", &[("query", query)])?;
    }
    let (used, unused): (Vec<_>, Vec<_>) = queries()?
        .into_iter()
        .partition(|query| !UNUSED.iter().any(|name| query.contains(name)));
    for query in &unused {
        api.get("/api/v1/query", &[("query", query)])?;
    }
    // A rate needs two readings.
    eventually(|| {
        let mut empty = Vec::new();
        for query in &used {
            let answer = api.get("/api/v1/query", &[("query", query)])?;
            let found = answer["data"]["result"].as_array().map(Vec::len);
            if found.is_none_or(|found| found == 0) {
                empty.push(query);
            }
        }
        ensure!(empty.is_empty(), "there is nothing for {empty:#?}");
        Ok(())
    })?;
    println!(
        "of the dashboard's queries {} find something, and {} are of what the demo does not have",
        used.len(),
        unused.len()
    );
    Ok(Verdict::Passed)
}

/// All queries of the dashboard, as Grafana sends them.
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

/// The queries that a page shows, one a line.
fn queries_of_page() -> Result<Vec<String>> {
    let path = paths::workspace().join(PAGE);
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("{}: cannot be read", path.display()))?;
    let blocks = text.split("```promql\n").skip(1);
    let lines = blocks.flat_map(|block| block.lines().take_while(|line| *line != "```"));
    let queries: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(queries.len() > 5, "{PAGE} shows {queries:?}");
    Ok(queries)
}

/// The tests beside the alerts, by Prometheus' own tool.
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

/// Anyone who opens Grafana sees the dashboard.
pub fn grafana_has_the_dashboard(stage: &Stage<'_>) -> Result<Verdict> {
    if !stage.has_grafana {
        return Ok(Verdict::Skipped("Grafana's image cannot be had here"));
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

/// The HTTP interface of a service.
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
