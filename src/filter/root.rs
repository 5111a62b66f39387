//! The root context: reads the configuration, and creates a context for each request.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use super::context::Handle;
use super::host::{self, Buffer};
use super::reissue;
use super::reroute::{self, Downstream, Upstream};
use super::worker::Worker;
use crate::core::config::{Engine, Plugin};
use crate::core::host::check_version;
use crate::core::identity::keeper::describe;

/// The module's source revision. `cargo xtask wasm` and the Dockerfile set it at build time.
const REVISION: &str = match option_env!("AOAI_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The role of a root context.
enum Role {
    /// No configuration was accepted yet.
    None,
    /// Balances requests, among a listener's filters.
    Balancer(Rc<Worker>),
    /// Sees attempts, among a cluster's filters.
    Upstream,
}

/// The root context as the SDK sees it.
pub(crate) struct Root {
    id: u32,
    role: Role,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self {
            id,
            role: Role::None,
        }
    }

    fn worker(&self) -> Option<&Worker> {
        match &self.role {
            Role::Balancer(worker) => Some(worker),
            Role::None | Role::Upstream => None,
        }
    }

    #[inline(never)]
    fn configure(&mut self, size: usize) -> Result<(), String> {
        let bytes =
            host::buffer(Buffer::PluginConfiguration, 0, size).map_err(|e| e.to_string())?;
        let plugin = Plugin::from_bytes(&bytes, &|name| std::env::var(name).ok())
            .map_err(|error| error.to_string())?;
        let config = match plugin {
            Plugin::Upstream => {
                self.role = Role::Upstream;
                return Ok(());
            }
            Plugin::Balancer(config) => config,
        };
        check_version(envoy_version(), config.retry.engine)?;
        let worker = Worker::start(self.id, *config).map_err(|error| error.to_string())?;
        log::info!(
            "azure-openai-balancer {} ({REVISION}) balances {} backends; source of tokens: {}",
            env!("CARGO_PKG_VERSION"),
            worker.balancer.config.backends.len(),
            describe(&worker.balancer.config.identities),
        );
        self.role = Role::Balancer(Rc::new(worker));
        Ok(())
    }
}

/// Envoy's major and minor version.
#[inline(never)]
fn envoy_version() -> Option<(u64, u64)> {
    let part = |name: &str| {
        let path = format!("xds\0node\0user_agent_build_version\0version\0{name}");
        let bytes = host::property(&path).ok().flatten()?;
        // Envoy encodes numbers as 64-bit integers.
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    part("major_number").zip(part("minor_number"))
}

impl Context for Root {
    fn on_http_call_response(&mut self, call: u32, _: usize, _: usize, _: usize) {
        if let Some(worker) = self.worker() {
            worker.on_call_response(call);
        }
    }

    fn on_done(&mut self) -> bool {
        if let Some(worker) = self.worker() {
            worker.report_statistics(host::now());
        }
        true
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match self.configure(size) {
            Ok(()) => true,
            Err(problems) => {
                for problem in problems.lines() {
                    log::error!("configuration refused: {problem}");
                }
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(worker) = self.worker() {
            if worker.on_tick() {
                reroute::look_ahead(worker);
            }
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        match &self.role {
            // Envoy creates no stream on a root whose configuration was refused.
            Role::None => None,
            Role::Upstream => Some(Box::new(Handle::new(|me| Upstream::new(context_id, me)))),
            Role::Balancer(worker) => {
                let worker = Rc::clone(worker);
                Some(match worker.balancer.config.retry.engine {
                    Engine::Filter => Box::new(Handle::new(|me| {
                        reissue::Stream::new(context_id, worker, me)
                    })),
                    Engine::Router => {
                        Box::new(Handle::new(|me| Downstream::new(context_id, worker, me)))
                    }
                })
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
