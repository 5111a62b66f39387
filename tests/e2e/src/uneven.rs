//! Three resources with different names, APIs and credentials, like those of real fleets.

use serde_json::json;
use simulator::{Api, Simulator};

use crate::{simulate_with, Gateway, GatewayBuilder};

/// The key of the resource `east`.
const KEY: &str = "EAST-SECRET";

/// Three resources, and a gateway that is configured for their differences. Clients use the deployments `gpt-4o`,
/// `embed` and `whisper`.
///
/// - `east` needs a key. All its deployments have names of its own, and it has no others.
/// - `west` needs a token, has the clients' names, and needs its own version of the dated API.
/// - `north` is a project with a base path and needs a token. It has a longer name for one deployment. It lacks audio,
///   which the gateway has to find out.
///
/// # Panics
///
/// When the simulator cannot start.
pub fn uneven() -> (Simulator, GatewayBuilder) {
    let names = |names: [&str; 3]| Some(names.map(ToOwned::to_owned).into());
    let base_path = "/api/projects/contoso";
    let azure = simulate_with(&["east", "west", "north"], |settings| {
        if let [east, west, north] = settings.backends.as_mut_slice() {
            east.api_key = Some(KEY.to_owned());
            east.deployments = names(["gpt4o-east", "embed-east", "whisper-east"]);
            west.deployments = names(["gpt-4o", "embed", "whisper"]);
            north.deployments = names(["a-longer-name-in-the-north", "embed", "whisper"]);
            north.base_path = base_path.to_owned();
            north.not_enabled = vec![Api::Audio];
        }
    });
    let gateway = Gateway::builder()
        .simulator(&azure)
        .secret("EAST_KEY", KEY)
        .plugin(move |p| {
            let backends = &mut p["backends"];
            backends[0]["api_key_env"] = json!("EAST_KEY");
            backends[0]["unlisted_deployments"] = json!("refuse");
            backends[0]["deployments"] =
                json!({"gpt-4o": "gpt4o-east", "embed": "embed-east", "whisper": "whisper-east"});
            backends[1]["api_version"] = json!("2025-04-01-preview");
            backends[2]["base_path"] = json!(base_path);
            backends[2]["deployments"] = json!({"gpt-4o": "a-longer-name-in-the-north"});
        });
    (azure, gateway)
}
