//! After the tour: everything goes on running, and here is what to try with it.

use std::time::Duration;

use anyhow::Result;

use crate::client::CHAT;
use crate::stage;
use crate::tour::{Tour, SCRIPT_FILE};

/// Writes what to try and waits for the interrupt.
///
/// # Errors
/// When Envoy ends before that.
pub fn wait(tour: &Tour) -> Result<()> {
    let screen = tour.screen;
    screen.tell("Everything goes on running until Ctrl-C. To try in another terminal:");
    for (what, command) in suggestions(tour) {
        screen.say(&what);
        screen.code(&command);
        screen.gap();
    }
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

/// What to try, and the commands for it.
fn suggestions(tour: &Tour) -> Vec<(String, String)> {
    let url = tour.stage.envoy.url();
    let admin = tour.stage.envoy.admin_url();
    let setup = &tour.setup;
    let shown = |path| stage::shown(path, &setup.directory);
    let script = setup.folder.join(SCRIPT_FILE);
    let mut python = format!("{} {}", shown(&setup.python), shown(&script));
    if !setup.python_path.is_empty() {
        python = format!("PYTHONPATH={} {python}", setup.python_path);
    }
    let mut suggestions = vec![
        (
            "a request; `x-aoai-backend` in the answer says who gave it:".to_owned(),
            format!(
                "curl -i -H 'content-type: application/json' \\\n  \
                 -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Say hello.\"}}]}}' \\\n  \
                 '{url}{CHAT}'"
            ),
        ),
        ("the openai Python SDK, with the script above:".to_owned(), python),
    ];
    let first = tour.stage.names().first().copied().unwrap_or_default();
    if let Some(address) = tour.stage.simulator.admin_addr() {
        let backend = format!("http://{address}/admin/backends/{first}");
        suggestions.push((
            format!("{first} throttles; is gone; is well again (then send requests, and see who answers):"),
            format!(
                "curl -X PUT '{backend}/behaviour' -d '{{\"answer\": {{\"kind\": \"error\", \"status\": 429, \
                 \"headers\": [[\"retry-after\", \"5\"]]}}}}'\n\
                 curl -X POST '{backend}/stop'\n\
                 curl -X POST '{backend}/restart'; curl -X DELETE '{backend}/behaviour'"
            ),
        ));
        suggestions.push((
            "what else the simulator can do, and what it received:".to_owned(),
            format!("curl 'http://{address}/admin/'\ncurl 'http://{address}/admin/requests'"),
        ));
    }
    suggestions.push((
        "Envoy's statistics of the balancer, and its log:".to_owned(),
        format!(
            "curl '{admin}/stats?filter=wasmcustom'\ntail -f {}",
            shown(tour.stage.envoy.log())
        ),
    ));
    suggestions
}
