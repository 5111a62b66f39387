//! The checks, in the order in which they are made.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use provision::{files, paths, process};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::docker::Docker;
use super::metrics;
use super::stack::Stack;

/// What the checks look at.
pub struct Stage<'a> {
    /// The machine's Docker.
    pub docker: &'a Docker,
    /// The containers.
    pub stack: &'a Stack,
    /// The revision that the images are built from.
    pub revision: &'a str,
    /// Whether Grafana's image could be had.
    pub has_grafana: bool,
}

/// A check and what it is called.
pub struct Check {
    /// Its name, as that of a test.
    pub name: &'static str,
    /// Makes it; an error is why it failed.
    pub check: fn(&Stage<'_>) -> Result<Verdict>,
}

/// What came of a check that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What it claims holds.
    Passed,
    /// It could not be made here, for this reason.
    Skipped(&'static str),
}

/// All of them. Each may build on those before it.
pub const CHECKS: &[Check] = &[
    Check {
        name: "builds_from_an_empty_cache_fetch_their_crates",
        check: builds_from_an_empty_cache,
    },
    Check {
        name: "the_images_build",
        check: the_images_build,
    },
    Check {
        name: "the_client_walks_the_whole_tour_and_ends_with_0",
        check: the_client_walks_the_whole_tour,
    },
    Check {
        name: "everything_else_runs_on_healthy_without_root_and_sealed",
        check: everything_else_runs_on,
    },
    Check {
        name: "the_published_port_is_closed_without_a_key",
        check: the_published_port_is_closed_without_a_key,
    },
    Check {
        name: "the_module_says_which_version_and_build_it_is",
        check: the_module_says_which_build_it_is,
    },
    Check {
        name: "the_oci_image_is_one_layer_with_plugin_wasm",
        check: the_oci_image_is_one_layer,
    },
    Check {
        name: "prometheus_reads_what_dashboard_and_alerts_ask_for",
        check: metrics::prometheus_reads_everything,
    },
    Check {
        name: "the_alerts_fire_when_they_should",
        check: metrics::the_alerts_fire_when_they_should,
    },
    Check {
        name: "grafana_has_the_dashboard",
        check: metrics::grafana_has_the_dashboard,
    },
    Check {
        name: "nothing_is_left_behind",
        check: nothing_is_left,
    },
];

/// How long something may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that the images are run as.
const USER: &str = "65532:65532";

/// A client that takes every status for an answer.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into()
}

/// Looks again and again until there is nothing left to complain of.
pub(super) fn eventually(mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(250)),
            Ok(()) => return Ok(()),
        }
    }
}

/// The number of builds from an empty cache, none without the variable. They take minutes each, and empty the builder's cache, other
/// projects' builds included.
const COLD_BUILDS: &str = "AOAI_COLD_BUILDS";

/// Builds all stages at once with nothing in the builder's cache, as a user's first build does.
fn builds_from_an_empty_cache(stage: &Stage<'_>) -> Result<Verdict> {
    let Some(builds) = std::env::var_os(COLD_BUILDS) else {
        return Ok(Verdict::Skipped("AOAI_COLD_BUILDS is not set"));
    };
    let builds: u32 = builds
        .to_str()
        .and_then(|builds| builds.parse().ok())
        .with_context(|| format!("{COLD_BUILDS}={}: use a number", builds.display()))?;
    for _ in 0..builds {
        stage
            .docker
            .output(&["builder", "prune", "--all", "--force"])?;
        let mut build = stage.docker.command();
        // The image is made of all stages that build.
        build.args([
            "buildx",
            "build",
            "--progress",
            "plain",
            "--target",
            "envoy",
        ]);
        process::run(build.arg(paths::workspace()))?;
    }
    Ok(Verdict::Passed)
}

fn the_images_build(stage: &Stage<'_>) -> Result<Verdict> {
    let build = || {
        let mut build = stage.stack.compose();
        build.args(["--progress", "plain", "build"]);
        build
    };
    // Older releases of compose build all services at once, each from the beginning; what one has built serves the others.
    process::run(build().arg("simulator"))?;
    process::run(&mut build())?;
    Ok(Verdict::Passed)
}

fn the_client_walks_the_whole_tour(stage: &Stage<'_>) -> Result<Verdict> {
    let mut up = stage.stack.compose();
    // The services that start without a profile; the client waits for the others to be healthy.
    process::run(up.args([
        "up",
        "--detach",
        "--no-build",
        "simulator",
        "envoy",
        "client",
    ]))
    .inspect_err(|_| show_logs(stage))?;
    let mut logs = stage.docker.command();
    logs.args(["logs", "--follow", &stage.stack.container("client")?]);
    let shown = show_and_keep(&mut logs)?;
    eventually(|| {
        let status = stage.stack.inspect("client", "{{.State.Status}}")?;
        ensure!(status == "exited", "the client is {status}");
        Ok(())
    })?;
    let code = stage.stack.inspect("client", "{{.State.ExitCode}}")?;
    if code != "0" {
        show_logs(stage);
        bail!("the client ended with {code}");
    }
    for said in [
        "-- 1/",
        "  What a team used, and what it cost ",
        "  A team over its limit ",
        "  What Envoy counted ",
        "Everything was as it should be",
        "curl -i -H 'api-key: ",
    ] {
        ensure!(shown.contains(said), "the client did not say {said:?}");
    }
    Ok(Verdict::Passed)
}

/// What a command writes, which is shown as it comes.
fn show_and_keep(command: &mut Command) -> Result<String> {
    use std::io::{BufRead, BufReader};

    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| process::not_started(command, &error))?;
    let output = BufReader::new(child.stdout.take().context("its output")?);
    let mut shown = String::new();
    for line in output.lines() {
        let line = line?;
        println!("{line}");
        shown.push_str(&line);
        shown.push('\n');
    }
    child.wait()?;
    Ok(shown)
}

fn show_logs(stage: &Stage<'_>) {
    // For whoever reads the failure; that they cannot be had is no further one.
    let _ = process::run(
        stage
            .stack
            .compose()
            .args(["logs", "--no-color", "--tail", "60"]),
    );
}

fn everything_else_runs_on(stage: &Stage<'_>) -> Result<Verdict> {
    println!(
        "{:<12}{:<10}{:<14}{:>10}",
        "container", "health", "user", "image"
    );
    for service in ["simulator", "envoy", "client"] {
        let inspect = |template: &str| stage.stack.inspect(service, template);
        let image = inspect("{{.Image}}")?;
        let size = stage
            .docker
            .output(&["image", "inspect", "--format", "{{.Size}}", &image])?;
        let user = inspect("{{.Config.User}}")?;
        let health = inspect("{{with .State.Health}}{{.Status}}{{else}}-{{end}}")?;
        let megabytes = size.parse::<u64>().context("the image's size")? / 1_000_000;
        println!("{service:<12}{health:<10}{user:<14}{megabytes:>7} MB");

        ensure!(user == USER, "{service} runs as {user:?}");
        let sealed = inspect(
            "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}",
        )?;
        ensure!(
            sealed == "true [ALL] [no-new-privileges:true]",
            "{service}: read-only, dropped capabilities, security options: {sealed}"
        );
        let expected = if service == "client" { "-" } else { "healthy" };
        ensure!(health == expected, "{service} is {health}");
    }
    Ok(Verdict::Passed)
}

/// A chat request from outside of the containers.
fn chat(stage: &Stage<'_>, header: Option<(&str, &str)>) -> Result<Response<Body>> {
    let address = stage.stack.published("envoy", 10000)?;
    let host = address.split(':').next().unwrap_or_default();
    ensure!(
        host == "127.0.0.1",
        "Envoy is published at {address}, for more than this machine"
    );
    let mut request = agent()
        .post(format!(
            "http://{address}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
        ))
        .header("content-type", "application/json");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    Ok(request.send(r#"{"messages": [{"role": "user", "content": "Say hello."}]}"#)?)
}

fn the_published_port_is_closed_without_a_key(stage: &Stage<'_>) -> Result<Verdict> {
    for header in [
        None,
        Some(("api-key", "wrong")),
        Some(("authorization", "Bearer wrong")),
    ] {
        let status = chat(stage, header)?.status();
        ensure!(status == 401, "with {header:?} the answer is {status}");
    }
    for header in [
        ("api-key", "demo-key"),
        ("authorization", "Bearer demo-key"),
        ("ocp-apim-subscription-key", "demo-key"),
        ("api-key", "search-key"),
    ] {
        let answer = chat(stage, Some(header))?;
        let status = answer.status();
        ensure!(status == 200, "with {header:?} the answer is {status}");
        ensure!(
            answer.headers().contains_key("x-aoai-backend"),
            "an answer does not say which backend gave it"
        );
    }
    Ok(Verdict::Passed)
}

fn the_module_says_which_build_it_is(stage: &Stage<'_>) -> Result<Verdict> {
    let expected = format!(
        "azure-openai-balancer {} ({}) balances 3 backends",
        env!("CARGO_PKG_VERSION"),
        stage.revision
    );
    let log = stage.stack.log("envoy")?;
    ensure!(
        log.contains(&expected),
        "{expected:?} is not in Envoy's log:\n{log}"
    );
    Ok(Verdict::Passed)
}

/// What Istio's and Envoy Gateway's fetchers of images ask for: exactly one layer, with the file `plugin.wasm`.
fn the_oci_image_is_one_layer(stage: &Stage<'_>) -> Result<Verdict> {
    let image = stage.stack.image("oci");
    let mut build = stage.docker.command();
    build
        .args(["buildx", "build", "--progress", "plain", "--target", "oci"])
        .args([
            "--build-arg",
            &format!("REVISION={}", stage.revision),
            "--tag",
            &image,
        ])
        .arg(paths::workspace());
    process::run(&mut build)?;

    let label = "{{index .Config.Labels \"org.opencontainers.image.revision\"}}";
    let revision = stage
        .docker
        .output(&["image", "inspect", "--format", label, &image])?;
    ensure!(
        revision == stage.revision,
        "its label says revision {revision}"
    );

    let directory = paths::tools().join("compose-oci");
    files::remove(&directory)?;
    std::fs::create_dir_all(&directory)?;
    let layer = one_layer(stage.docker, &image, &directory);
    files::remove(&directory)?;
    let (names, module) = layer?;
    ensure!(names == "plugin.wasm", "its layer holds {names:?}");
    // Stripping fails where there is nothing left to strip.
    ensure!(
        finish::strip(&module).is_err(),
        "plugin.wasm has the exports that `cargo xtask wasm` takes away"
    );
    Ok(Verdict::Passed)
}

/// The names of the files in the image's only layer, and the content of `plugin.wasm`.
fn one_layer(
    docker: &Docker,
    image: &str,
    directory: &std::path::Path,
) -> Result<(String, Vec<u8>)> {
    let saved = directory.join("image.tar");
    let mut save = docker.command();
    process::output(save.arg("save").arg("--output").arg(&saved).arg(image))?;
    let tar = |arguments: &[&str], file: &std::path::Path| {
        let mut tar = Command::new("tar");
        tar.args(arguments).arg(file).arg("-C").arg(directory);
        tar
    };
    process::output(&mut tar(&["--extract", "--file"], &saved))?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(directory.join("manifest.json"))?)?;
    let layers = manifest[0]["Layers"].as_array().context("no layers")?;
    let [layer] = layers.as_slice() else {
        bail!("the image has {} layers", layers.len());
    };
    let layer = directory.join(layer.as_str().context("the layer's name")?);
    let names = process::output(&mut tar(&["--list", "--file"], &layer))?;
    process::output(&mut tar(&["--extract", "--file"], &layer))?;
    let module = std::fs::read(directory.join("plugin.wasm"))?;
    Ok((names.trim().to_owned(), module))
}

/// After everything was removed, which is part of the promise.
fn nothing_is_left(stage: &Stage<'_>) -> Result<Verdict> {
    stage.stack.remove()?;
    let left = stage.stack.left()?;
    ensure!(left.is_empty(), "there still is: {}", left.join(", "));
    Ok(Verdict::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stages that fetch at the same time are in each other's way.
    #[test]
    fn one_stage_fetches_crates_for_all() {
        let dockerfile = std::fs::read_to_string(paths::workspace().join("Dockerfile")).unwrap();
        let lines = dockerfile.lines().filter(|line| !line.starts_with('#'));
        let cargo = lines.filter(|line| line.contains("cargo "));
        let (fetch, build): (Vec<_>, Vec<_>) =
            cargo.partition(|line| line.contains("cargo fetch --locked"));
        assert_eq!(fetch.len(), 1, "{fetch:?}");
        assert_eq!(build.len(), 3, "{build:?}");
        let is_offline = |line: &&str| line.contains("cargo build --frozen ");
        assert!(build.iter().all(is_offline), "{build:?}");
    }
}
