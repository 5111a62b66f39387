//! The tour's clients, and the settings for counting, pricing and limiting their usage.

use std::path::PathBuf;

use render::{Clients, Engine, Fleet, Key};
use serde_json::{json, Value};

/// A client and its key, which is valid in the demo only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownClient {
    /// Its name, as the statistics have it.
    pub name: &'static str,
    /// The key.
    pub key: &'static str,
}

/// The client that goes through most of the tour.
pub const DEMO: KnownClient = KnownClient {
    name: "demo",
    key: "demo-key",
};

/// The client whose tokens and cost the tour adds up.
pub const SEARCH: KnownClient = KnownClient {
    name: "team-search",
    key: "search-key",
};

/// The client with a limit.
pub const BATCH: KnownClient = KnownClient {
    name: "team-batch",
    key: "batch-key",
};

/// The number of tokens a minute that [`BATCH`] may use: three requests use them up.
pub const BATCH_TOKENS_PER_MINUTE: u64 = 3000;

/// Prices of a million tokens. They are made up, like the simulator's answers.
pub const PRICE: Price = Price {
    prompt: 2,
    cached: 1,
    completion: 8,
};

/// The prices of a million tokens of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Uncached tokens of prompts.
    pub prompt: i64,
    /// Cached tokens of prompts.
    pub cached: i64,
    /// Tokens of completions.
    pub completion: i64,
}

/// The deployment that has a price.
const DEPLOYMENT: &str = "gpt-4o";

/// The file of all keys, for a fleet that knows clients by this request header.
pub(crate) fn keys_file(client_header: &str) -> String {
    let keys = [DEMO, SEARCH, BATCH].map(|client| Key {
        client: client.name.to_owned(),
        key: client.key.to_owned(),
    });
    render::keys_file(client_header, &keys)
}

/// Adds the settings of usage to a plugin's configuration: tokens of all streams, prices, and a limit.
pub(crate) fn add_usage(plugin: &mut Value) {
    let Price {
        prompt,
        cached,
        completion,
    } = PRICE;
    plugin["usage"] = json!({
        "streams": "always",
        "prices": {DEPLOYMENT: {"prompt": prompt, "cached": cached, "completion": completion}},
    });
    plugin["limits"] = json!({
        "clients": {BATCH.name: {"tokens_per_minute": BATCH_TOKENS_PER_MINUTE}},
    });
}

/// The path of the fleet's keys on this machine, relative to Envoy's folder.
const KEYS: &str = "envoy/clients.yaml";

/// The fleet of the checked-in `envoy/envoy.yaml` and `envoy/envoy-router.yaml`, which are rendered from `envoy/backends.yaml`.
pub fn local_fleet(engine: Engine) -> Fleet {
    let mut fleet = Fleet {
        engine,
        clients: Clients::Keys {
            file: PathBuf::from(KEYS),
        },
        ..render::demo_fleet()
    };
    add_usage(&mut fleet.plugin);
    fleet
}

/// The file of that fleet's keys.
pub fn local_keys() -> String {
    keys_file(render::demo_fleet().client_header())
}
