//! Options of a gateway, and the simulators in front of which it runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use render::{
    Admin, Authority, Backend, Clients, Engine, Fleet, Identity, Listener, TlsOptions, TokenFile,
};
use serde_json::{json, Value};
use simulator::{BackendSettings, Settings, Simulator};

use crate::{EnvoyVersion, Gateway};

/// One simulated Azure OpenAI resource, as Envoy reaches it.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The backend's name.
    pub name: String,
    /// The backend's host name. No DNS knows it.
    pub host: String,
    /// The address at which the backend really listens.
    pub address: SocketAddr,
    /// The certificate authority that checks the backend's certificate; `None` for plain HTTP.
    pub ca_file: Option<PathBuf>,
}

/// A simulator with a backend of each name, whose host is `contoso-<name>.openai.azure.com`, and an identity endpoint.
///
/// # Panics
///
/// When the simulator cannot start.
pub fn simulate(names: &[&str]) -> Simulator {
    simulate_with(names, |_| {})
}

/// A simulator as [`simulate`] starts it, with backends that speak TLS.
///
/// # Panics
///
/// When the simulator cannot start.
pub fn simulate_tls(names: &[&str]) -> Simulator {
    simulate_with(names, |settings| {
        for backend in &mut settings.backends {
            backend.tls = simulator::Tls::On;
        }
    })
}

/// A simulator as [`simulate`] starts it, after `patch` has changed its settings.
///
/// # Panics
///
/// When the simulator cannot start.
pub fn simulate_with(names: &[&str], patch: impl FnOnce(&mut Settings)) -> Simulator {
    let backends = names
        .iter()
        .map(|name| BackendSettings {
            host: format!("contoso-{name}.openai.azure.com"),
            ..BackendSettings::new(name)
        })
        .collect();
    let mut settings = Settings {
        backends,
        ..Settings::default()
    };
    patch(&mut settings);
    Simulator::start(settings).unwrap_or_else(|e| panic!("the simulator did not start: {e}"))
}

/// The backends `east` and `west`, and a gateway with this engine in front of them.
///
/// # Panics
///
/// When the simulator cannot start.
pub fn east_and_west(engine: Engine) -> (Simulator, GatewayBuilder) {
    let azure = simulate(&["east", "west"]);
    let gateway = Gateway::builder().simulator(&azure).engine(engine);
    (azure, gateway)
}

/// The reason why a gateway did not start.
#[derive(Debug)]
pub struct StartError {
    /// The condition that did not come true in time.
    pub reason: String,
    /// The log of Envoy and the module until then.
    pub log: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; the end of the log:\n{}",
            self.reason,
            last_lines(&self.log)
        )
    }
}

impl std::error::Error for StartError {}

/// The process to start.
pub(crate) struct Process {
    pub(crate) version: EnvoyVersion,
    pub(crate) workers: u32,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Replacements in the rendered listener.
    pub(crate) rewrites: Vec<(String, String)>,
    /// Replacements in the rest of the configuration.
    pub(crate) cluster_rewrites: Vec<(String, String)>,
    /// The fleet that the rest of the configuration is rendered from; `None` for the listener's fleet.
    pub(crate) clusters: Option<Fleet>,
}

/// The end of a log, long enough to see what went wrong.
pub(crate) fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

type PluginPatch = Box<dyn FnOnce(&mut Value)>;
type FleetPatch = Box<dyn FnOnce(&mut Fleet)>;

/// Options of a [`Gateway`].
#[must_use]
pub struct GatewayBuilder {
    version: EnvoyVersion,
    workers: u32,
    log_level: String,
    envoy_log_level: Option<String>,
    upstreams: Vec<Upstream>,
    identity: Option<SocketAddr>,
    environment: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
    drain: Option<Duration>,
    plugin: Vec<PluginPatch>,
    fleet: Vec<FleetPatch>,
    rewrites: Vec<(String, String)>,
    cluster_rewrites: Vec<(String, String)>,
    upstream_filter: bool,
}

impl Default for GatewayBuilder {
    fn default() -> Self {
        Self {
            version: EnvoyVersion::default(),
            workers: 1,
            log_level: "debug".to_owned(),
            envoy_log_level: None,
            upstreams: Vec::new(),
            identity: None,
            environment: Vec::new(),
            secrets: Vec::new(),
            drain: None,
            plugin: Vec::new(),
            fleet: Vec::new(),
            rewrites: Vec::new(),
            cluster_rewrites: Vec::new(),
            upstream_filter: true,
        }
    }
}

impl GatewayBuilder {
    /// Adds all of a simulator's backends, and takes access tokens from its identity endpoint.
    pub fn simulator(mut self, simulator: &Simulator) -> Self {
        for backend in simulator.backends() {
            let ca_file = backend.tls().then(|| simulator.ca_path().to_owned());
            self = self.upstream(Upstream {
                name: backend.name().to_owned(),
                host: backend.host().to_owned(),
                address: backend.addr(),
                ca_file,
            });
        }
        self.identity(simulator.imds().addr())
    }

    /// Adds a backend.
    pub fn upstream(mut self, upstream: Upstream) -> Self {
        self.upstreams.push(upstream);
        self
    }

    /// Takes access tokens from this address. Without it the fleet has no identity.
    pub fn identity(mut self, address: SocketAddr) -> Self {
        self.identity = Some(address);
        self
    }

    /// Runs this Envoy. The default is the newest.
    pub fn version(mut self, version: EnvoyVersion) -> Self {
        self.version = version;
        self
    }

    /// Sets the retry engine. The default is the filter.
    pub fn engine(self, engine: Engine) -> Self {
        self.fleet(move |fleet| fleet.engine = engine)
    }

    /// Sets the number of Envoy's worker threads. The default is 1.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the log level of Envoy's `wasm` component, which logs the module's lines too. The default is `debug`.
    pub fn log_level(mut self, level: &str) -> Self {
        self.log_level = level.to_owned();
        self
    }

    /// Sets the log level of all of Envoy's components. The default is `info`.
    pub fn envoy_log_level(mut self, level: &str) -> Self {
        self.envoy_log_level = Some(level.to_owned());
        self
    }

    /// Takes access tokens from the simulator's Entra ID, by the identity source `source`.
    pub fn entra_id(self, simulator: &Simulator, source: &str) -> Self {
        let entra = simulator::EntraSettings::default();
        let address = simulator.imds().addr();
        let identity = json!({"source": source, "cluster": "entra_id"});
        self.environment("AZURE_TENANT_ID", &entra.tenant)
            .environment("AZURE_CLIENT_ID", &entra.client_id)
            .environment("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/")
            .plugin(move |plugin| plugin["identity"] = identity)
            .fleet(move |fleet| {
                fleet.identity = None;
                fleet.authorities.push(Authority {
                    cluster: "entra_id".to_owned(),
                    host: "login.microsoftonline.com".to_owned(),
                    address: address.ip().to_string(),
                    port: address.port(),
                    tls: None,
                });
            })
    }

    /// Takes access tokens from the simulator's Entra ID by workload identity: Envoy serves the token file `file` at
    /// `socket`.
    pub fn workload_identity(self, simulator: &Simulator, file: &Path, socket: &Path) -> Self {
        let (file, socket) = (file.to_owned(), socket.to_owned());
        self.entra_id(simulator, "workload_identity")
            .plugin(|plugin| plugin["identity"]["token_file_cluster"] = json!("token_file"))
            .fleet(move |fleet| {
                fleet.token_files.push(TokenFile {
                    cluster: "token_file".to_owned(),
                    file,
                    socket,
                });
            })
    }

    /// Changes the plugin's configuration, which has only `backends` and `identity` at first.
    pub fn plugin(mut self, patch: impl FnOnce(&mut Value) + 'static) -> Self {
        self.plugin.push(Box::new(patch));
        self
    }

    /// Sends requests to a backend although it fails.
    pub fn without_cooldowns(self) -> Self {
        self.plugin(|plugin| plugin["cooldown"] = Value::Null)
    }

    /// Asks the first backend first, always, and retries on the second one without a limit.
    pub fn first_backend_first(self) -> Self {
        self.without_cooldowns().plugin(|plugin| {
            plugin["retry"]["budget"] = Value::Null;
            plugin["backends"][1]["priority"] = json!(1);
        })
    }

    /// Sends requests to the backends over HTTP/2, without TLS.
    pub fn http2_to_backends(self) -> Self {
        self.rewrite_clusters(
            "explicit_http_config:\n          http_protocol_options: {}",
            "explicit_http_config:\n          http2_protocol_options: {}",
        )
    }

    /// Sets an environment variable of the module, with its value in the configuration.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable of the module that it takes from Envoy's own environment, as secrets should be
    /// passed.
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Changes the fleet that the configuration is rendered from, after all other options.
    pub fn fleet(mut self, patch: impl FnOnce(&mut Fleet) + 'static) -> Self {
        self.fleet.push(Box::new(patch));
        self
    }

    /// Replaces a text of the rendered listener, which must contain it. For settings that nobody should configure.
    pub fn rewrite(mut self, from: &str, to: &str) -> Self {
        self.rewrites.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Replaces a text outside the listener, which must be there.
    pub fn rewrite_clusters(mut self, from: &str, to: &str) -> Self {
        self.cluster_rewrites.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Leaves the module out of the clusters' filters, where the router engine needs it.
    pub fn without_upstream_filter(mut self) -> Self {
        self.upstream_filter = false;
        self
    }

    /// Sets how long a replaced listener, and the module's old configuration, lives on for open connections, in whole
    /// seconds. Envoy's default is 10 minutes.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Some(time);
        self
    }

    /// Starts Envoy and waits until it takes requests.
    ///
    /// # Panics
    ///
    /// When Envoy does not get ready. The message has the end of its log.
    pub fn start(self) -> Gateway {
        match self.try_start() {
            Ok(gateway) => gateway,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts Envoy and waits until it takes requests. For tests of configurations that must not start.
    pub fn try_start(self) -> Result<Gateway, StartError> {
        let mut arguments = vec![
            "--concurrency".to_owned(),
            self.workers.to_string(),
            "--component-log-level".to_owned(),
            // Envoy watches the log's folder. At level debug each line about a changed file would cause further lines.
            format!("wasm:{},file:info", self.log_level),
        ];
        if let Some(level) = &self.envoy_log_level {
            arguments.extend(["--log-level".to_owned(), level.clone()]);
        }
        if let Some(time) = self.drain {
            arguments.extend(["--drain-time-s".to_owned(), time.as_secs().to_string()]);
        }
        let mut process = Process {
            version: self.version,
            workers: self.workers,
            arguments,
            environment: self.secrets.clone(),
            rewrites: self.rewrites.clone(),
            cluster_rewrites: self.cluster_rewrites.clone(),
            clusters: None,
        };
        let upstream_filter = self.upstream_filter;
        let fleet = self.into_fleet();
        if !upstream_filter {
            process.clusters = Some(Fleet {
                engine: Engine::Filter,
                ..fleet.clone()
            });
        }
        Gateway::launch(process, fleet)
    }

    fn into_fleet(self) -> Fleet {
        let backends: Vec<Backend> = self
            .upstreams
            .into_iter()
            .map(|upstream| {
                Backend::new(&upstream.name, &upstream.host)
                    .at(&upstream.address.ip().to_string(), upstream.address.port())
                    .tls(upstream.ca_file.map(|file| TlsOptions {
                        ca_file: Some(file),
                    }))
            })
            .collect();
        let identity = self
            .identity
            .map(|address| Identity::imds().at(&address.ip().to_string(), address.port()));
        let mut plugin = render::minimal_plugin(&backends, identity.as_ref());
        for patch in self.plugin {
            patch(&mut plugin);
        }
        let loopback = || "127.0.0.1".to_owned();
        let mut fleet = Fleet {
            backends,
            identity,
            further_identities: Vec::new(),
            authorities: Vec::new(),
            token_files: Vec::new(),
            listener: Listener {
                address: loopback(),
                port: 0,
                tls: None,
            },
            admin: Admin {
                address: loopback(),
                port: 0,
            },
            status: None,
            module: crate::version::module(),
            plugin,
            environment: self.environment.into_iter().collect(),
            host_environment: self.secrets.into_iter().map(|(name, _)| name).collect(),
            engine: Engine::Filter,
            clients: Clients::Open,
            limits: None,
        };
        for patch in self.fleet {
            patch(&mut fleet);
        }
        fleet
    }
}
