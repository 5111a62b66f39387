//! The fleet of `docker-compose.yml`, and the configuration that its Envoy starts from.

use render::{Admin, Backend, Clients, Engine, Fleet, Identity, Listener, Status};

use crate::clients;

/// The simulator's ports inside the network of the containers. The services are aliases of one container.
const BACKENDS: [(&str, u16); 3] = [("eastus", 8081), ("westus", 8082), ("swedencentral", 8083)];
const IMDS_PORT: u16 = 8090;

/// The path of the keys in Envoy's image. It differs from the default path of configurations, because everybody knows
/// these keys.
const KEYS: &str = "/etc/envoy/demo-clients.yaml";
/// The path of the module in Envoy's image.
const MODULE: &str = "/etc/envoy/azure_openai_balancer.wasm";

/// Three resources under Azure's names, an identity endpoint, and an Envoy that is reached from outside of its
/// container.
pub fn fleet() -> Fleet {
    let backends: Vec<Backend> = BACKENDS
        .into_iter()
        .map(|(name, port)| {
            let host = format!("contoso-{name}.openai.azure.com");
            Backend::new(name, &host).at(&host, port).tls(None)
        })
        .collect();
    let identity = Identity::imds().at("imds", IMDS_PORT);
    let mut plugin = render::minimal_plugin(&backends, Some(&identity));
    clients::add_usage(&mut plugin);
    // `docker-compose.yml` decides which ports are published: on the loopback interface only.
    let address = || "0.0.0.0".to_owned();
    Fleet {
        plugin,
        backends,
        identity: Some(identity),
        listener: Listener {
            address: address(),
            port: 10000,
            tls: None,
        },
        admin: Admin {
            address: address(),
            port: 9901,
        },
        status: Some(Status {
            address: address(),
            port: 9902,
        }),
        module: MODULE.into(),
        engine: Engine::Router,
        clients: Clients::Keys { file: KEYS.into() },
        ..render::demo_fleet()
    }
}

/// The configuration of that fleet, which requires keys from clients.
pub fn configuration() -> String {
    render::envoy(&fleet())
}

/// The file of the clients' keys.
pub fn keys() -> String {
    clients::keys_file(fleet().client_header())
}
