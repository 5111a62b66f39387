//! The fleet of `docker-compose.yml`, and the configuration that its Envoy starts from.

use render::{Admin, Backend, Engine, Fleet, Identity, Listener};

/// The client that the configuration knows.
pub const CLIENT: &str = "demo";
/// Its key. It opens nothing but the demo.
pub const KEY: &str = "demo-key";

/// Where the simulator listens inside the network of the containers; the services are aliases of one container.
const BACKENDS: [(&str, u16); 3] = [("eastus", 8081), ("westus", 8082), ("swedencentral", 8083)];
const IMDS_PORT: u16 = 8090;

/// Where Envoy finds the module in its image.
const MODULE: &str = "/etc/envoy/azure_openai_balancer.wasm";

/// Three resources under the names that Azure would give them, an identity endpoint, and an Envoy that is reached from
/// outside of its container.
pub fn fleet() -> Fleet {
    let backends: Vec<Backend> = BACKENDS
        .into_iter()
        .map(|(name, port)| {
            let host = format!("contoso-{name}.openai.azure.com");
            Backend::new(name, &host).at(&host, port).tls(None)
        })
        .collect();
    let identity = Identity::imds().at("imds", IMDS_PORT);
    // What is published of this is for `docker-compose.yml` to say: on the loopback interface alone.
    let address = || "0.0.0.0".to_owned();
    Fleet {
        plugin: render::minimal_plugin(&backends, Some(&identity)),
        backends,
        identity: Some(identity),
        listener: Listener {
            address: address(),
            port: 10000,
        },
        admin: Admin {
            address: address(),
            port: 9901,
        },
        module: MODULE.into(),
        engine: Engine::Router,
        ..render::demo_fleet()
    }
}

/// The configuration of that fleet, closed to clients without a key.
pub fn configuration() -> String {
    with_keys(&render::envoy(&fleet()))
}

/// Puts Envoy's `api_key_auth` before the balancer.
fn with_keys(yaml: &str) -> String {
    // The listener's filters are the first in the file; those of the clusters come later.
    const FILTERS: &str = "          http_filters:\n";
    let keys = format!(
        "{FILTERS}\
         \x20         # Who may come in. The balancer takes the key out of the request, whichever header it came in.\n\
         \x20         - name: envoy.filters.http.api_key_auth\n\
         \x20           typed_config:\n\
         \x20             \"@type\": type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth\n\
         \x20             credentials:\n\
         \x20             - key: {KEY}\n\
         \x20               client: {CLIENT}\n\
         \x20             # Where the SDKs of Azure OpenAI, of OpenAI (`Bearer`) and of API Management put it.\n\
         \x20             key_sources:\n\
         \x20             - header: api-key\n\
         \x20             - header: authorization\n\
         \x20             - header: ocp-apim-subscription-key\n"
    );
    yaml.replacen(FILTERS, &keys, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_comes_before_the_balancer() {
        let yaml = configuration();
        let door = yaml.find("envoy.filters.http.api_key_auth").unwrap();
        let balancer = yaml.find("envoy.filters.http.wasm").unwrap();
        assert!(door < balancer);
        assert_eq!(
            yaml.matches("- name: envoy.filters.http.api_key_auth")
                .count(),
            1
        );
    }
}
