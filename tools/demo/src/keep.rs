//! After the tour: everything keeps running, with suggestions to try.

use std::time::Duration;

use anyhow::Result;

use crate::client::CHAT;
use crate::clients;
use crate::stage;
use crate::tour::{Tour, SCRIPT_FILE};
use crate::Setup;

/// Writes suggestions and waits for the interrupt.
///
/// # Errors
/// When Envoy ends before that.
pub fn wait(tour: &Tour, setup: &Setup) -> Result<()> {
    let screen = tour.screen;
    screen.tell("Everything goes on running until Ctrl-C. To try in another terminal:");
    let shown = |path| stage::shown(path, &setup.directory);
    let python = &tour.python;
    let script = tour.folder.join(SCRIPT_FILE);
    let mut script = format!("{} {}", shown(&python.program), shown(&script));
    if !python.path.is_empty() {
        script = format!("PYTHONPATH={} {script}", python.path);
    }
    let mut suggestions = suggestions(
        tour,
        &Addresses {
            envoy: tour.stage.envoy.url().to_owned(),
            envoy_admin: tour.stage.envoy.admin_url().to_owned(),
            simulator: tour.stage.simulation.url().to_owned(),
            status: None,
        },
        &format!("tail -f {}", shown(tour.stage.envoy.log())),
    );
    suggestions.insert(1, ("the openai Python SDK, with the script above:", script));
    write(tour, &suggestions);
    while tour.processes.pause(Duration::from_millis(500)).is_ok() {
        if tour.processes.interrupted() {
            break;
        }
        tour.stage.envoy.check_alive()?;
    }
    screen.gap();
    screen.say("Everything has ended.");
    Ok(())
}

/// Writes suggestions for services that keep running without this program.
pub fn tell(tour: &Tour, addresses: &Addresses) {
    tour.screen
        .tell("Everything else goes on running. To try in another terminal:");
    write(
        tour,
        &suggestions(tour, addresses, "docker compose logs -f envoy"),
    );
}

/// The addresses of all services, as `http://address:port`.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Envoy's address for requests.
    pub envoy: String,
    /// Envoy's admin interface.
    pub envoy_admin: String,
    /// The simulator's admin endpoint.
    pub simulator: String,
    /// The status page, if there is one.
    pub status: Option<String>,
}

fn write(tour: &Tour, suggestions: &[(&str, String)]) {
    for (what, command) in suggestions {
        tour.screen.say(what);
        tour.screen.code(command);
        tour.screen.gap();
    }
}

/// Suggestions with their commands. `log` is the command that shows Envoy's log.
fn suggestions(tour: &Tour, addresses: &Addresses, log: &str) -> Vec<(&'static str, String)> {
    let Addresses {
        envoy,
        envoy_admin,
        simulator,
        status,
    } = addresses;
    let key = clients::DEMO.key;
    let first = tour.stage.names().first().copied().unwrap_or_default();
    let backend = format!("{simulator}/admin/backends/{first}");
    let mut suggestions = vec![
        (
            "a request; `x-aoai-backend` in the answer says who gave it:",
            format!(
                "curl -i -H 'api-key: {key}' -H 'content-type: application/json' \\\n  \
                 -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Say hello.\"}}]}}' \\\n  \
                 '{envoy}{CHAT}'"
            ),
        ),
        (
            "a backend throttles; is gone; recovers (then send requests, and see who answers):",
            format!(
                "curl -X PUT '{backend}/behaviour' -d '{{\"answer\": {{\"kind\": \"error\", \"status\": 429, \
                 \"headers\": [[\"retry-after\", \"5\"]]}}}}'\n\
                 curl -X POST '{backend}/stop'\n\
                 curl -X POST '{backend}/restart'; curl -X DELETE '{backend}/behaviour'"
            ),
        ),
        (
            "what else the simulator can do, and what it received:",
            format!("curl '{simulator}/admin/'\ncurl '{simulator}/admin/requests'"),
        ),
        (
            "what each client used, and its cost in millionths:",
            format!("curl '{envoy_admin}/stats?filter=aoai.client'"),
        ),
        (
            "all statistics of the balancer, and Envoy's log:",
            format!("curl '{envoy_admin}/stats?filter=wasmcustom'\n{log}"),
        ),
    ];
    if let Some(status) = status {
        suggestions.insert(0, ("the status page, in a browser:", format!("{status}/")));
    }
    suggestions
}
