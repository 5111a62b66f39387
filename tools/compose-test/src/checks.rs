//! The checks, in their order.

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

/// The objects that the checks examine.
pub struct Stage<'a> {
    /// The machine's Docker.
    pub docker: &'a Docker,
    /// The containers and images of the test.
    pub stack: &'a Stack,
    /// The revision of the sources in the images.
    pub revision: &'a str,
    /// Whether Grafana's image is available.
    pub has_grafana: bool,
}

/// A named check.
pub struct Check {
    /// The check's name, in the form of a test's name.
    pub name: &'static str,
    /// Runs the check. An error means that the check failed, and says why.
    pub check: fn(&Stage<'_>) -> Result<Verdict>,
}

/// The result of a check that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The check passed.
    Passed,
    /// The check cannot run on this machine, for this reason.
    Skipped(&'static str),
}

/// All checks. A check may depend on the checks before it.
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
        name: "the_client_completes_the_tour",
        check: the_client_completes_the_tour,
    },
    Check {
        name: "containers_are_healthy_sealed_and_without_root",
        check: containers_are_healthy_and_sealed,
    },
    Check {
        name: "the_published_port_is_closed_without_a_key",
        check: the_published_port_is_closed_without_a_key,
    },
    Check {
        name: "the_module_logs_its_version_and_revision",
        check: the_module_logs_its_version_and_revision,
    },
    Check {
        name: "the_oci_image_is_one_layer_with_plugin_wasm",
        check: the_oci_image_is_one_layer,
    },
    Check {
        name: "prometheus_answers_the_queries_of_dashboard_and_alerts",
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
        check: nothing_is_left_behind,
    },
];

/// The time limit of [`eventually`].
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that the containers run as.
const USER: &str = "65532:65532";

/// An HTTP client for which no status is an error.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into()
}

/// Repeats a check until it passes. After [`PATIENCE`] it returns the last error.
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

/// The environment variable with the number of builds from an empty cache. Without it there are none: a build takes minutes, and it
/// empties the builder's cache, including the cache of other projects.
const COLD_BUILDS: &str = "AOAI_COLD_BUILDS";

/// Builds all stages at once from an empty builder's cache, like a user's first build.
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
        // This image needs all build stages.
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
    // Older releases of compose build all services at once, each from the beginning. After one build, the others use its cache.
    process::run(build().arg("simulator"))?;
    process::run(&mut build())?;
    Ok(Verdict::Passed)
}

fn the_client_completes_the_tour(stage: &Stage<'_>) -> Result<Verdict> {
    let mut up = stage.stack.compose();
    // These services have no profile. The client waits until the others are healthy.
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
    for text in [
        "-- 1/",
        "  What a team used, and what it cost ",
        "  A team over its limit ",
        "  What Envoy counted ",
        "Everything was as it should be",
        "curl -i -H 'api-key: ",
    ] {
        ensure!(shown.contains(text), "the client did not print {text:?}");
    }
    Ok(Verdict::Passed)
}

/// Runs a command, prints its output line by line, and returns it.
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
    // The logs help to understand a failure. A second error would only hide it.
    let _ = process::run(
        stage
            .stack
            .compose()
            .args(["logs", "--no-color", "--tail", "60"]),
    );
}

fn containers_are_healthy_and_sealed(stage: &Stage<'_>) -> Result<Verdict> {
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

/// Sends a chat request from outside of the containers.
fn chat(stage: &Stage<'_>, header: Option<(&str, &str)>) -> Result<Response<Body>> {
    let address = stage.stack.published("envoy", 10000)?;
    let host = address.split(':').next().unwrap_or_default();
    ensure!(
        host == "127.0.0.1",
        "Envoy is published at {address}, not only for this machine"
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
            "an answer has no x-aoai-backend header"
        );
    }
    Ok(Verdict::Passed)
}

fn the_module_logs_its_version_and_revision(stage: &Stage<'_>) -> Result<Verdict> {
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

/// Checks the form of image that Istio and Envoy Gateway fetch: exactly one layer, with the file `plugin.wasm`.
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
        "the image's label has the revision {revision}"
    );

    let directory = paths::tools().join("compose-oci");
    files::remove(&directory)?;
    std::fs::create_dir_all(&directory)?;
    let layer = one_layer(stage.docker, &image, &directory);
    files::remove(&directory)?;
    let (names, module) = layer?;
    ensure!(names == "plugin.wasm", "its layer holds {names:?}");
    // Stripping a stripped module fails.
    ensure!(
        finish::strip(&module).is_err(),
        "plugin.wasm has the exports that `cargo xtask wasm` removes"
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

/// Removes everything and checks that nothing remains, as docs/compose.md promises.
fn nothing_is_left_behind(stage: &Stage<'_>) -> Result<Verdict> {
    stage.stack.remove()?;
    let left = stage.stack.remaining()?;
    ensure!(left.is_empty(), "still present: {}", left.join(", "));
    Ok(Verdict::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Build stages that fetch crates at the same time disturb each other.
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
