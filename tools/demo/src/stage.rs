//! The services of the tour: the simulator and Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use render::{Clients, Engine, Fleet, Identity};
use simulator::{BackendSettings, ImdsSettings, Settings, Simulator};

use crate::client::Client;
use crate::clients;
use crate::envoy::Envoy;
use crate::ports::{self, Port};
use crate::processes::Processes;
use crate::screen::Screen;
use crate::simulation::{Backend, Simulation};
use crate::{Running, Setup};

/// The running services. Dropping this ends them.
pub struct Stage {
    /// The client of most steps.
    pub client: Client,
    /// The client of the team whose usage is shown.
    pub search: Client,
    /// The client of the team with a limit.
    pub batch: Client,
    /// Envoy with the module.
    pub envoy: Envoy,
    /// The backends and the identity endpoint.
    pub simulation: Simulation,
    /// The fleet, with its actual ports.
    pub fleet: Fleet,
    /// Envoy's counts before the tour.
    before: BTreeMap<String, i64>,
    /// The simulator, if this tour started it.
    _simulator: Option<Simulator>,
}

impl Stage {
    /// Starts everything, and lists it.
    ///
    /// # Errors
    /// When a port is taken, or a service does not start.
    pub fn set(setup: &Setup, screen: Screen, processes: &Processes) -> Result<Self> {
        let mut fleet = setup.fleet.clone();
        check_ports(&fleet, setup.admin_port)?;
        screen.title("The Azure OpenAI balancer: a real Envoy in front of simulated resources");
        let simulator = simulate(&fleet, setup.admin_port)?;
        let admin = simulator.admin_addr().context("no admin endpoint")?;
        for backend in &mut fleet.backends {
            backend.port = simulator.backend(&backend.name).port();
        }
        if let Some(identity) = &mut fleet.identity {
            identity.port = simulator.imds().port();
        }
        for backend in &fleet.backends {
            screen.fact(
                &backend.name,
                format!("127.0.0.1:{:<6} simulates {}", backend.port, backend.host),
            );
        }
        let port = simulator.imds().port();
        screen.fact(
            "IMDS",
            format!("127.0.0.1:{port:<6} simulates the token endpoint"),
        );

        let config = match &setup.config {
            Some(config) => config.clone(),
            None => rendered(&mut fleet, &setup.folder)?,
        };
        let envoy = Envoy::start(
            &setup.envoy,
            &config,
            &setup.directory,
            &setup.folder,
            processes,
        )?;
        screen.fact(
            &format!("Envoy {}", envoy.version()),
            format!(
                "{:<16} runs {}",
                envoy.url().trim_start_matches("http://"),
                shown(&config, &setup.directory)
            ),
        );
        screen.fact("retry engine", engine(&fleet));
        screen.fact("Envoy's log", shown(envoy.log(), &setup.directory));
        Ok(Self {
            client: Client::new(envoy.url(), clients::DEMO.key, &fleet),
            search: Client::new(envoy.url(), clients::SEARCH.key, &fleet),
            batch: Client::new(envoy.url(), clients::BATCH.key, &fleet),
            envoy,
            simulation: Simulation::at(&format!("http://{admin}"))?,
            fleet,
            before: BTreeMap::new(),
            _simulator: Some(simulator),
        })
    }

    /// Uses running services, and lists them.
    ///
    /// # Errors
    /// When a service does not answer.
    pub fn attach(running: &Running, screen: Screen, processes: &Processes) -> Result<Self> {
        let fleet = running.fleet.clone();
        screen.title("The Azure OpenAI balancer: a real Envoy in front of simulated resources");
        let simulation = Simulation::at(&running.addresses.simulator)?;
        // The tour's counts start at zero, even after earlier requests.
        simulation.reset()?;
        for backend in &fleet.backends {
            screen.fact(
                &backend.name,
                format!("{}:{} is simulated", backend.address, backend.port),
            );
        }
        if let Some(identity) = &fleet.identity {
            let Identity { address, port, .. } = identity;
            screen.fact("IMDS", format!("{address}:{port} is simulated"));
        }
        let envoy = Envoy::attach(
            &running.addresses.envoy,
            &running.addresses.envoy_admin,
            processes,
        )?;
        screen.fact(
            &format!("Envoy {}", envoy.version()),
            envoy.url().trim_start_matches("http://"),
        );
        screen.fact("retry engine", engine(&fleet));
        Ok(Self {
            client: Client::new(envoy.url(), clients::DEMO.key, &fleet),
            search: Client::new(envoy.url(), clients::SEARCH.key, &fleet),
            batch: Client::new(envoy.url(), clients::BATCH.key, &fleet),
            before: envoy.statistics()?,
            envoy,
            simulation,
            fleet,
            _simulator: None,
        })
    }

    /// Whether the retry engine is Envoy's router.
    pub fn is_router_engine(&self) -> bool {
        self.fleet.engine == Engine::Router
    }

    /// The number of requests at all backends together.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn received_by_backends(&self) -> Result<u64> {
        let backends = self.simulation.backends().iter();
        backends.map(Backend::count).sum()
    }

    /// The module's counts since the tour began, by the names of the statistics.
    ///
    /// # Errors
    /// When Envoy's admin interface does not answer.
    pub fn statistics(&self) -> Result<BTreeMap<String, i64>> {
        let mut statistics = self.envoy.statistics()?;
        for (name, count) in &mut statistics {
            *count -= self.before.get(name).copied().unwrap_or_default();
        }
        Ok(statistics)
    }

    /// The names of the backends, in the order of the configuration.
    pub fn names(&self) -> Vec<&str> {
        let backends = self.fleet.backends.iter();
        backends.map(|backend| backend.name.as_str()).collect()
    }
}

/// The fleet with free ports.
pub fn on_free_ports(mut fleet: Fleet) -> Fleet {
    fleet.listener.port = 0;
    fleet.admin.port = 0;
    for backend in &mut fleet.backends {
        backend.port = 0;
    }
    if let Some(identity) = &mut fleet.identity {
        identity.port = 0;
    }
    fleet
}

/// A path for the reader: relative to the directory if it is inside.
pub fn shown(path: &Path, directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_default();
    let path = path.strip_prefix(directory).unwrap_or(path);
    path.display().to_string()
}

fn engine(fleet: &Fleet) -> &'static str {
    match fleet.engine {
        Engine::Router => "router: Envoy's router sends a failed request to the next backend",
        _ => "filter: the module itself sends a failed request to the next backend",
    }
}

fn check_ports(fleet: &Fleet, admin_port: u16) -> Result<()> {
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let port = |port, purpose| Port {
        address: LOOPBACK,
        port,
        purpose,
    };
    let mut ports = vec![
        port(fleet.listener.port, "Envoy's listener"),
        port(fleet.admin.port, "Envoy's admin interface"),
        port(admin_port, "the simulator's admin endpoint"),
    ];
    ports.extend(
        fleet
            .identity
            .iter()
            .map(|identity| port(identity.port, "the simulated IMDS")),
    );
    let purposes: Vec<String> = fleet
        .backends
        .iter()
        .map(|backend| format!("the simulated backend {}", backend.name))
        .collect();
    let backends = fleet.backends.iter().zip(&purposes);
    ports.extend(backends.map(|(backend, purpose)| port(backend.port, purpose)));
    ports::check(&ports)
}

fn simulate(fleet: &Fleet, admin_port: u16) -> Result<Simulator> {
    let backends = fleet
        .backends
        .iter()
        .map(|backend| BackendSettings {
            host: backend.host.clone(),
            port: backend.port,
            ..BackendSettings::new(&backend.name)
        })
        .collect();
    let settings = Settings {
        backends,
        imds: ImdsSettings {
            port: fleet.identity.as_ref().map_or(0, |identity| identity.port),
            // A token with a lifetime of seconds is never returned twice, so that each renewal shows as a new token.
            renew_below: Some(Duration::from_secs(60)),
            ..ImdsSettings::default()
        },
        admin_port: Some(admin_port),
        ..Settings::default()
    };
    Simulator::start(settings).context("the simulator did not start")
}

/// Renders the configuration of this fleet, with its clients' keys beside it.
fn rendered(fleet: &mut Fleet, folder: &Path) -> Result<PathBuf> {
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(path)
    };
    if let Clients::Keys { file } = &mut fleet.clients {
        *file = write("clients.yaml", clients::local_keys())?;
    }
    write("envoy.yaml", render::envoy(fleet))
}
