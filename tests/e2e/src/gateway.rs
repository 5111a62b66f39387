//! A running Envoy with the module.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use render::Fleet;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use simulator::Simulator;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::builder::{last_lines, GatewayBuilder, Process, StartError};
use crate::Client;

/// The longest time until Envoy is ready. Several Envoys may start at once on the machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest time until Envoy accepts or refuses a listener.
const UPDATE_LIMIT: Duration = Duration::from_secs(30);

/// The longest time until Envoy ends after a request to end.
const END_LIMIT: Duration = Duration::from_secs(3);

const POLL: Duration = Duration::from_millis(20);

/// A running Envoy with the module. Dropping it ends Envoy; if Envoy has ended before, the test fails.
///
/// Envoy's files are in a temporary folder. When the test panics, the folder stays and its path is printed.
#[derive(Debug)]
pub struct Gateway {
    folder: Option<TempDir>,
    path: PathBuf,
    envoy: Child,
    fleet: Fleet,
    rewrites: Vec<(String, String)>,
    workers: u32,
    admin: Admin,
    address: SocketAddr,
    /// Whether Envoy was ready. From then on, only the test may end it.
    is_ready: bool,
}

/// Envoy's reaction to a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Envoy serves with the new configuration.
    Accepted,
    /// Envoy refused the new configuration and keeps the old one. The text is Envoy's reason, followed by everything
    /// logged meanwhile, the module's lines included.
    Rejected(String),
}

impl Gateway {
    /// Options for a new gateway.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::default()
    }

    pub(crate) fn launch(process: Process, fleet: Fleet) -> Result<Self, StartError> {
        let Process {
            version, workers, ..
        } = process;
        let folder = tempfile::Builder::new()
            .prefix("gateway-")
            .tempdir()
            .expect("a temporary folder");
        let path = folder.path().to_owned();
        write_listener(&path, &fleet, &process.rewrites);
        let bootstrap = path.join("envoy.yaml");
        let clusters = process.clusters.as_ref().unwrap_or(&fleet);
        let mut text = render::bootstrap(clusters, &path.join(LISTENER_FILE));
        for (from, to) in &process.cluster_rewrites {
            assert!(
                text.contains(from),
                "the bootstrap does not contain {from:?}"
            );
            text = text.replace(from, to);
        }
        fs::write(&bootstrap, text).expect("write envoy.yaml");
        let log = |name: &str| File::create(path.join(name)).expect("create a log file");
        let envoy = Command::new(version.binary())
            .arg("-c")
            .arg(&bootstrap)
            .args(process.arguments)
            .arg("--admin-address-path")
            .arg(path.join(ADMIN_FILE))
            // Lines of the access log appear after 20 ms, not after ten seconds.
            .args(["--file-flush-interval-msec", "20"])
            // Envoy must share nothing with other Envoys on this machine.
            .arg("--disable-hot-restart")
            .envs(process.environment)
            .stdin(Stdio::null())
            .stdout(log(ACCESS_LOG_FILE))
            .stderr(log(LOG_FILE))
            .spawn()
            .unwrap_or_else(|e| panic!("start Envoy {}: {e}", version.number()));

        // From here on, an error drops the gateway and so ends the process.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self {
            folder: Some(folder),
            path,
            envoy,
            fleet,
            rewrites: process.rewrites,
            workers,
            admin: Admin::new(nowhere),
            address: nowhere,
            is_ready: false,
        };
        match gateway.await_ready() {
            Ok(()) => {
                gateway.is_ready = true;
                Ok(gateway)
            }
            Err(reason) => Err(StartError {
                reason: format!("Envoy {}: {reason}", version.number()),
                log: gateway.log(),
            }),
        }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the status page.
    ///
    /// # Panics
    ///
    /// When the fleet has no status page.
    pub fn status_address(&self) -> SocketAddr {
        let address = self.admin.listener(render::STATUS_NAME);
        let address = address.unwrap_or_else(|e| panic!("admin interface: {e}"));
        address.expect("a status page")
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A client of the gateway.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The fleet that the configuration is rendered from, with the last attempted update.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The plugin's configuration, with the last attempted update.
    pub fn plugin(&self) -> Value {
        self.fleet.plugin.clone()
    }

    /// The log of Envoy and the module so far, without the access log.
    pub fn log(&self) -> String {
        read_lossy(&self.path.join(LOG_FILE))
    }

    /// The access log so far: one JSON object for each request that has ended. A line may be about 20 ms late.
    pub fn access_log(&self) -> Vec<Value> {
        read_lossy(&self.path.join(ACCESS_LOG_FILE))
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The value of a counter or gauge; `None` if Envoy has none of this name.
    pub fn stat(&self, name: &str) -> Option<i64> {
        self.stats(name).get(name).copied()
    }

    /// The value of a counter `wasmcustom.aoai.NAME` after every attempt that has reached a backend is counted. Workers
    /// report counts once a second. Before that, a zero would prove nothing.
    ///
    /// # Panics
    ///
    /// When the attempts are not counted within seconds.
    pub fn settled_stat(&self, azure: &Simulator, name: &str) -> i64 {
        let attempts = || {
            let stats = self.stats("wasmcustom.aoai.backend.");
            let attempts = stats.iter().filter(|(name, _)| name.ends_with(".attempts"));
            attempts.map(|(_, count)| count).sum::<i64>()
        };
        let made = i64::try_from(azure.upstream_calls()).expect("some attempts");
        self.wait_for(
            |_| attempts() == made,
            Duration::from_secs(5),
            &format!("{made} attempts to be counted"),
        );
        let name = format!("wasmcustom.aoai.{name}");
        self.stat(&name)
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// The counters and gauges whose names start with `prefix`. The module's names start with `wasmcustom.`.
    ///
    /// # Panics
    ///
    /// When Envoy does not answer.
    pub fn stats(&self, prefix: &str) -> BTreeMap<String, i64> {
        self.admin.stats(prefix).unwrap_or_else(|e| {
            panic!(
                "statistics: {e}; the end of the log:\n{}",
                last_lines(&self.log())
            )
        })
    }

    /// The admin interface's answer at this path.
    ///
    /// # Panics
    ///
    /// When the status is not 200.
    pub fn admin(&self, path: &str) -> String {
        self.admin
            .get(path)
            .unwrap_or_else(|e| panic!("admin interface: {e}"))
    }

    /// Envoy's resident memory now, in bytes.
    pub fn memory(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.envoy.id())).expect("Envoy runs");
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
            .expect("VmRSS in /proc")
    }

    /// Checks that Envoy runs and answers, and that the module has never trapped: no VM was restarted.
    ///
    /// # Panics
    ///
    /// When one of these checks fails.
    pub fn assert_unharmed(&self) {
        let stats = self.stats("wasm.");
        let reloads = |(name, count): (&String, &i64)| name.contains("vm_reload") && *count > 0;
        assert!(
            !stats.iter().any(reloads) && !self.log().contains("Function: proxy_on"),
            "the module trapped: {stats:?}; the end of the log:\n{}",
            last_lines(&self.log())
        );
    }

    /// Waits until no request of a client or to a backend is in progress.
    ///
    /// # Panics
    ///
    /// When a request is still in progress after `limit`.
    pub fn assert_quiet_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let mut active = self.stats("cluster.aoai_");
            active.extend(self.stats("http.azure_openai."));
            active.retain(|name, count| name.ends_with("rq_active") && *count != 0);
            if active.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {limit:?} requests are in progress: {active:?}; the end of the log:\n{}",
                last_lines(&self.log())
            );
            thread::sleep(POLL);
        }
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    ///
    /// When the condition does not hold within `limit`. The message has `what`, and the end of the log.
    pub fn wait_for(&self, condition: impl Fn(&Self) -> bool, limit: Duration, what: &str) {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} for {what}; the end of the log:\n{}",
                last_lines(&self.log())
            );
            thread::sleep(POLL);
        }
    }

    /// Gives the module a new configuration while Envoy runs. Waits until every worker has accepted it, or Envoy has
    /// refused it.
    ///
    /// # Panics
    ///
    /// When Envoy neither accepts nor refuses the configuration.
    pub fn update(&mut self, plugin: Value) -> Update {
        self.fleet.plugin = plugin;
        self.reload()
    }

    /// Gives the listener another module while Envoy runs, and waits like [`update`](Self::update). The clusters keep
    /// their module.
    ///
    /// # Panics
    ///
    /// When Envoy neither accepts nor refuses the module.
    pub fn update_module(&mut self, module: &Path) -> Update {
        self.fleet.module = module.to_owned();
        self.reload()
    }

    fn reload(&mut self) -> Update {
        let before = self.stats(LISTENER_STATS);
        let logged = self.log().len();
        write_listener(&self.path, &self.fleet, &self.rewrites);
        let deadline = Instant::now() + UPDATE_LIMIT;
        while Instant::now() < deadline {
            let now = self.stats(LISTENER_STATS);
            let grown = |name: &str| {
                let name = format!("{LISTENER_STATS}{name}");
                now.get(&name).copied().unwrap_or_default()
                    - before.get(&name).copied().unwrap_or_default()
            };
            if grown("lds.update_rejected") > 0 {
                let reason = self.admin.listener_error().expect("admin interface");
                let log = self.log();
                let log = log.get(logged..).unwrap_or(&log);
                return Update::Rejected(format!("{}\n{log}", reason.unwrap_or_default()));
            }
            if grown("lds.update_success") > 0 && self.is_everywhere(&grown) {
                return Update::Accepted;
            }
            thread::sleep(POLL);
        }
        panic!(
            "Envoy did not take the update within {UPDATE_LIMIT:?}; the end of the log:\n{}",
            last_lines(&self.log())
        );
    }

    /// Whether every worker has the new listener, or there was nothing new.
    fn is_everywhere(&self, grown: &dyn Fn(&str) -> i64) -> bool {
        let replaced = grown("listener_modified") + grown("listener_in_place_updated") > 0;
        !replaced || grown("listener_create_success") >= i64::from(self.workers)
    }

    /// Waits for the admin interface, for readiness, and for the listener.
    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        let mut missing = "its admin interface";
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.envoy.try_wait() {
                return Err(format!("it ended with {status}"));
            }
            match self.progress() {
                Ok(None) => return Ok(()),
                Ok(Some(next)) => missing = next,
                Err(refused) => return Err(refused),
            }
            thread::sleep(POLL);
        }
        Err(format!("waited {START_LIMIT:?} for {missing}"))
    }

    /// The next missing condition before the gateway can serve; `None` when it can. An error if it never will.
    fn progress(&mut self) -> Result<Option<&'static str>, String> {
        if self.admin_address().is_none() {
            return Ok(Some("its admin interface"));
        }
        let Ok(stats) = self.admin.stats(LISTENER_STATS) else {
            return Ok(Some("its statistics"));
        };
        let stat = |name: &str| {
            let name = format!("{LISTENER_STATS}{name}");
            stats.get(&name).copied().unwrap_or_default()
        };
        if stat("lds.update_rejected") > 0 {
            let reason = self.admin.listener_error().ok().flatten();
            return Err(format!(
                "it refused the listener: {}",
                reason.unwrap_or_default()
            ));
        }
        if self.admin.get("/ready").is_err() {
            return Ok(Some("/ready"));
        }
        if stat("listener_create_success") < i64::from(self.workers) {
            return Ok(Some("the listener on every worker"));
        }
        match self.admin.listener(render::LISTENER_NAME) {
            Ok(Some(address)) => {
                self.address = address;
                Ok(None)
            }
            _ => Ok(Some("the listener's port")),
        }
    }

    fn admin_address(&mut self) -> Option<SocketAddr> {
        let address = fs::read_to_string(self.path.join(ADMIN_FILE)).ok()?;
        let address = address.trim().parse().ok()?;
        self.admin = Admin::new(address);
        Some(address)
    }

    /// Asks Envoy to end, and kills it if it does not. Returns the exit status if Envoy had ended before.
    fn end(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        if let Some(status) = self.envoy.try_wait()? {
            return Ok(Some(status));
        }
        kill_process(Pid::from_child(&self.envoy), Signal::TERM)?;
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if self.envoy.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
        self.envoy.kill()?;
        self.envoy.wait()?;
        Ok(None)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let ended = self.end();
        if thread::panicking() {
            if let Some(folder) = self.folder.take() {
                eprintln!(
                    "Envoy's configuration and logs are in {}",
                    folder.keep().display()
                );
            }
            return;
        }
        if let (true, Ok(Some(status))) = (self.is_ready, ended) {
            panic!(
                "Envoy had ended with {status}; the end of its log:\n{}",
                last_lines(&self.log())
            );
        }
    }
}

const LISTENER_FILE: &str = "listener.yaml";
const ADMIN_FILE: &str = "admin.txt";
const LOG_FILE: &str = "envoy.log";
const ACCESS_LOG_FILE: &str = "access.log";
const LISTENER_STATS: &str = "listener_manager.";

/// Puts the listener's file in place by renaming it, the event that Envoy watches for.
fn write_listener(folder: &Path, fleet: &Fleet, rewrites: &[(String, String)]) {
    let new = folder.join("listener.yaml.new");
    let mut listener = render::listener(fleet);
    for (from, to) in rewrites {
        assert!(
            listener.contains(from),
            "the listener does not contain {from:?}"
        );
        listener = listener.replace(from, to);
    }
    fs::write(&new, listener).expect("write the listener");
    fs::rename(&new, folder.join(LISTENER_FILE)).expect("put the listener in place");
}

fn read_lossy(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
