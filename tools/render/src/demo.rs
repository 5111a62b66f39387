//! A small fleet on this machine.

use std::collections::BTreeMap;

use crate::{minimal_plugin, Admin, Backend, Clients, Engine, Fleet, Identity, Listener};

/// Three backends and an identity endpoint on this machine, without TLS, and the shortest plugin configuration. It
/// works in every supported Envoy, so it has the filter engine.
pub fn demo_fleet() -> Fleet {
    let backends: Vec<Backend> = [
        ("eastus", 18081),
        ("westus", 18082),
        ("swedencentral", 18083),
    ]
    .into_iter()
    .map(|(name, port)| {
        Backend::new(name, &format!("contoso-{name}.openai.azure.com"))
            .at("127.0.0.1", port)
            .tls(None)
    })
    .collect();
    let identity = Identity::imds().at("127.0.0.1", 18090);
    Fleet {
        plugin: minimal_plugin(&backends, Some(&identity)),
        backends,
        identity: Some(identity),
        further_identities: Vec::new(),
        authorities: Vec::new(),
        token_files: Vec::new(),
        listener: Listener {
            address: "127.0.0.1".to_owned(),
            port: 10000,
            tls: None,
        },
        admin: Admin {
            address: "127.0.0.1".to_owned(),
            port: 9901,
        },
        status: None,
        module: "target/azure_openai_balancer.wasm".into(),
        environment: BTreeMap::new(),
        host_environment: Vec::new(),
        engine: Engine::Filter,
        clients: Clients::Open,
        limits: None,
    }
}
