//! A summary of a valid file, in a few lines.

use crate::check::{Checked, Form};
use crate::fields::default;
use crate::fleet::{engine, variables};
use crate::plugin::{Backend, Engine, Plugin, Source};

/// A table of the backends, and the settings that apply to all of them.
pub fn summary(checked: &Checked) -> String {
    let Some(plugin) = &checked.plugin else {
        return "The module as a filter of a cluster, where it sees every attempt of the router engine.\n".to_owned();
    };
    let form = match checked.form {
        Form::Plugin => "a plugin configuration",
        Form::Backends => "a list of backends, to be rendered",
    };
    let mut out = format!("This is {form}.\n\n{}\n", table(plugin));
    out.push_str(&format!("retries      {}\n", retries(plugin)));
    if let Some(identity) = identity(plugin) {
        out.push_str(&format!("identity     {identity}\n"));
    }
    let variables = variables(plugin);
    if !variables.is_empty() {
        out.push_str(&format!("environment  {}\n", variables.join(", ")));
    }
    out
}

fn table(plugin: &Plugin) -> String {
    let head = ["backend", "host", "priority", "weight", "sends", "cluster"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head)
        .chain(plugin.backends.iter().map(row))
        .collect();
    let widths: Vec<usize> = (0..6)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", line.join("  ").trim_end())
        })
        .collect()
}

fn row(backend: &Backend) -> [String; 6] {
    [
        backend.name.clone(),
        backend.host.clone(),
        given_or_default(backend.priority, "backends.priority"),
        given_or_default(backend.weight, "backends.weight"),
        backend
            .api_key_env
            .clone()
            .unwrap_or_else(|| "a token".to_owned()),
        backend.cluster.clone(),
    ]
}

fn given_or_default(given: Option<u8>, path: &str) -> String {
    given.map_or_else(|| default(path).to_string(), |given| given.to_string())
}

fn retries(plugin: &Plugin) -> String {
    let retry = plugin.retry.as_ref();
    let attempts = retry.and_then(|retry| retry.max_attempts);
    let default = || default("retry.max_attempts").as_u64().unwrap_or(1);
    let attempts = attempts.map_or_else(default, u64::from) as usize;
    let by = match engine(plugin) {
        Engine::Router => "by Envoy's router (Envoy 1.39 or later)",
        Engine::Filter => "by the filter itself",
    };
    // One attempt on each backend, and one more with a renewed token.
    let has_token = plugin.identities().next().is_some();
    match attempts.min(plugin.backends.len() + usize::from(has_token)) {
        1 => "none".to_owned(),
        attempts => format!("up to {attempts} attempts in all, {by}"),
    }
}

fn identity(plugin: &Plugin) -> Option<String> {
    let identity = plugin.identity.as_ref()?;
    let source = match identity.source {
        Some(Source::AppService) => "App Service",
        Some(Source::WorkloadIdentity) => "workload identity",
        Some(Source::ClientSecret) => "a client secret",
        _ => "IMDS",
    };
    Some(format!("{source}, through cluster {}", identity.cluster))
}
