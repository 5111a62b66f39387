//! The simulator: services on their own runtime, and their handle.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::account::SharedAccounts;
use crate::admin::Admin;
use crate::audit::{Clock, Log, RecordedRequest};
use crate::azure::{Objects, Resource};
use crate::backend::{Backend, BackendHandle};
use crate::certificates::{Authority, TlsPort};
use crate::imds::{Imds, ImdsHandle};
use crate::script::Script;
use crate::server::{Listener, Service};
use crate::settings::{BackendSettings, Settings, Tls};
use crate::tokens::Tokens;

/// A running simulator. Dropping it closes every port and connection.
pub struct Simulator {
    services: Services,
    admin: Option<Arc<Listener<Admin>>>,
    authority: Arc<Authority>,
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

/// The services, which the admin endpoint controls too.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) backends: Arc<[BackendHandle]>,
    pub(crate) imds: ImdsHandle,
}

impl Services {
    pub(crate) fn backend(&self, name: &str) -> Option<&BackendHandle> {
        self.backends.iter().find(|backend| backend.name() == name)
    }

    /// The requests of all services, in the order of their arrival.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        let mut requests = self.imds.requests();
        requests.extend(self.backends.iter().flat_map(BackendHandle::requests));
        requests.sort_by_key(|request| request.sequence);
        requests
    }
}

impl Simulator {
    /// Opens all ports. When this returns, they accept connections.
    ///
    /// # Errors
    /// When a port is taken, two backends share a name, or a host is not valid in a certificate. The text says which.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let mut names = HashSet::from(["imds"]);
        if let Some(twice) = settings
            .backends
            .iter()
            .find(|backend| !names.insert(&backend.name))
        {
            return Err(io::Error::other(format!(
                "backend {}: the name is taken",
                twice.name
            )));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(settings.threads.max(1))
            .thread_name("simulator")
            .enable_all()
            .build()?;
        let start = Start {
            runtime: runtime.handle(),
            settings: &settings,
            clock: Arc::new(Clock::new()),
            tokens: Arc::default(),
            authority: Arc::new(Authority::new()?),
        };
        let same = |one: &BackendSettings, other: &BackendSettings| {
            one.host.eq_ignore_ascii_case(&other.host) && one.base_path == other.base_path
        };
        let mut objects: Vec<Arc<Objects>> = Vec::new();
        for backend in &settings.backends {
            let first = settings.backends.iter().position(|it| same(it, backend));
            let known = first.and_then(|first| objects.get(first).cloned());
            objects.push(known.unwrap_or_else(|| Arc::new(Objects::of(&backend.name))));
        }
        let backends = settings.backends.iter().zip(objects);
        let backends = backends.map(|(backend, objects)| start.backend(backend, objects));
        let services = Services {
            backends: backends.collect::<io::Result<_>>()?,
            imds: start.imds()?,
        };
        let admin = match settings.admin_port {
            Some(port) => Some(start.listen("admin", port, None, Admin::new(services.clone()))?),
            None => None,
        };
        let authority = Arc::clone(&start.authority);
        Ok(Self {
            services,
            admin,
            authority,
            runtime: Some(runtime),
        })
    }

    /// The backend with this name.
    ///
    /// # Panics
    /// When no backend has this name.
    pub fn backend(&self, name: &str) -> &BackendHandle {
        let found = self.services.backend(name);
        found.unwrap_or_else(|| panic!("the simulator has no backend {name}"))
    }

    /// All backends, in the order of the settings.
    pub fn backends(&self) -> &[BackendHandle] {
        &self.services.backends
    }

    /// The number of requests at all backends together.
    pub fn upstream_calls(&self) -> u64 {
        self.backends().iter().map(BackendHandle::count).sum()
    }

    /// The identity endpoint.
    pub fn imds(&self) -> &ImdsHandle {
        &self.services.imds
    }

    /// The address of the admin endpoint, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.addr())
    }

    /// The requests of all services, in the order of their arrival.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.services.requests()
    }

    /// Restores the default answers of every service, and forgets all requests.
    pub fn reset(&self) {
        self.services.imds.clear();
        self.services.imds.clear_requests();
        for backend in self.backends() {
            backend.clear();
            backend.clear_requests();
        }
    }

    /// The certificate of the authority that signed the TLS backends' certificates.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// A file with [`ca_pem`](Self::ca_pem), which exists while the simulator lives.
    pub fn ca_path(&self) -> &Path {
        self.authority.path()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        for backend in self.backends() {
            backend.stop();
        }
        self.imds().stop();
        if let Some(admin) = &self.admin {
            admin.stop();
        }
        self.authority.remove_file();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Start<'a> {
    runtime: &'a Handle,
    settings: &'a Settings,
    clock: Arc<Clock>,
    tokens: Arc<Tokens>,
    authority: Arc<Authority>,
}

impl Start<'_> {
    fn log(&self, name: &str) -> Arc<Log> {
        let Settings {
            audit_limit,
            audit_bodies,
            ..
        } = *self.settings;
        Log::new(name, audit_limit, audit_bodies, Arc::clone(&self.clock))
    }

    fn listen<S: Service>(
        &self,
        name: &str,
        port: u16,
        tls: Option<Arc<TlsPort>>,
        service: S,
    ) -> io::Result<Arc<Listener<S>>> {
        let addr = SocketAddr::new(self.settings.bind, port);
        Listener::start(self.runtime, addr, tls, Arc::new(service))
            .map(Arc::new)
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("{name}: cannot listen on {addr}: {error}"),
                )
            })
    }

    fn backend(
        &self,
        settings: &BackendSettings,
        objects: Arc<Objects>,
    ) -> io::Result<BackendHandle> {
        let name = &settings.name;
        let tls = match settings.tls {
            Tls::Off => None,
            Tls::On => {
                let port = TlsPort::new(Arc::clone(&self.authority), &settings.host);
                let wrong = |error| {
                    io::Error::other(format!("backend {name}: host {}: {error}", settings.host))
                };
                Some(Arc::new(port.map_err(wrong)?))
            }
        };
        let backend = Backend {
            name: name.clone(),
            resource: Resource::new(settings, objects),
            api_key: settings.api_key.clone(),
            base_path: settings.base_path.clone(),
            identities: settings.identities.clone(),
            auth: self.settings.auth,
            audience: self.settings.imds.audience.clone(),
            tokens: Arc::clone(&self.tokens),
            script: Script::default(),
            log: self.log(name),
            open: Arc::new(AtomicUsize::new(0)),
            answers: AtomicU64::new(1),
            accounts: SharedAccounts::default(),
        };
        let listener = self.listen(
            &format!("backend {name}"),
            settings.port,
            tls.clone(),
            backend,
        )?;
        Ok(BackendHandle {
            backend: Arc::clone(listener.service()),
            listener,
            tls_port: tls,
            host: settings.host.clone(),
        })
    }

    fn imds(&self) -> io::Result<ImdsHandle> {
        let settings = self.settings.imds.clone();
        let port = settings.port;
        let imds = Imds::new(settings, Arc::clone(&self.tokens), self.log("imds"));
        let listener = self.listen("imds", port, None, imds)?;
        Ok(ImdsHandle {
            imds: Arc::clone(listener.service()),
            listener,
        })
    }
}
