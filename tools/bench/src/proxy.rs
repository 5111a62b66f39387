//! Starts and stops the proxies that are measured.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::config::{self, Surroundings};
use crate::cores::Cores;
use crate::curves::Shape;
use crate::load::CLIENT_KEY;
use crate::variant::Variant;

/// The time limit until a started proxy serves.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The time between two checks of whether a started proxy serves.
const POLL: Duration = Duration::from_millis(5);

/// A running proxy, or a backend without one. Dropping it ends its processes.
#[derive(Debug)]
pub struct Proxy {
    /// The address for requests.
    pub address: SocketAddr,
    /// The ids of the proxy's processes; empty if there is only a backend.
    pub processes: Vec<u32>,
    _children: Vec<Guard>,
}

/// Starts proxies.
pub struct Launcher<'a> {
    /// The path of Envoy.
    pub envoy: &'a Path,
    /// The path of the LiteLLM proxy, if it could be installed.
    pub litellm: Option<&'a Path>,
    /// The folder for configurations and logs.
    pub folder: &'a Path,
    /// Whether the logs have each callback and host call.
    pub trace: bool,
    /// The cores for the processes.
    pub cores: &'a Cores,
    /// Files and addresses for the configurations.
    pub around: Surroundings<'a>,
}

impl Launcher<'_> {
    /// Starts `variant` and waits until it serves. With `workers`, Envoy has this number of workers and runs on all cores.
    pub fn start(&mut self, variant: Variant, workers: Option<u32>) -> Result<Proxy> {
        self.start_shaped(variant, workers, Shape::default())
    }

    /// [`Self::start`] with a fleet of this shape.
    pub fn start_shaped(
        &mut self,
        variant: Variant,
        workers: Option<u32>,
        shape: Shape,
    ) -> Result<Proxy> {
        let mut name = match workers {
            Some(workers) => format!("{}-{workers}", variant.key()),
            None => variant.key().to_owned(),
        };
        if shape != Shape::default() {
            let kind = match (shape.half_cool, shape.is_tokenless) {
                (true, _) => "-cooling",
                (_, true) => "-tokenless",
                _ => "",
            };
            name.push_str(&format!("-of-{}{kind}", shape.backends));
        }
        let proxy = match variant {
            Variant::Direct => Ok(Proxy {
                address: self.around.backends.addresses[0],
                processes: Vec::new(),
                _children: Vec::new(),
            }),
            Variant::LiteLlm => self.start_litellm(&name),
            Variant::ExtProc => self.start_with_service(&name, workers),
            _ => self.start_envoy(variant, shape, &name, workers),
        };
        proxy.with_context(|| {
            let log = self.folder.join(format!("{name}.log"));
            format!("{variant} did not start; its log is {}", log.display())
        })
    }

    fn spawn(&self, command: &mut Command, name: &str, everywhere: bool) -> Result<Guard> {
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stderr(log);
        let child = self.cores.spawn(command, everywhere);
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Guard(child.with_context(|| format!("start {program}"))?))
    }

    fn start_envoy(
        &self,
        variant: Variant,
        shape: Shape,
        name: &str,
        workers: Option<u32>,
    ) -> Result<Proxy> {
        let configuration = config::envoy(variant, shape, &self.around)?;
        let file = self.write(name, &configuration)?;
        let admin = self.folder.join(format!("{name}.admin"));
        // An earlier run's file has the address of an Envoy that has ended.
        let _ = fs::remove_file(&admin);
        let mut command = Command::new(self.envoy);
        if self.trace {
            command.args(["--component-log-level", "wasm:trace"]);
        }
        command
            .args(["--disable-hot-restart", "--log-level", "warning"])
            .args(["--concurrency", &workers.unwrap_or(1).to_string()])
            .arg("--admin-address-path")
            .arg(&admin)
            .arg("--config-path")
            .arg(file)
            .stdout(Stdio::null());
        let mut envoy = self.spawn(&mut command, name, workers.is_some())?;
        let address = wait_until(&mut envoy, || listening(&admin))?;
        Ok(Proxy {
            address,
            processes: vec![envoy.0.id()],
            _children: vec![envoy],
        })
    }

    /// Starts Envoy and its `ext_proc` service on the same core. The service's CPU counts as part of the variant's cost.
    fn start_with_service(&mut self, name: &str, workers: Option<u32>) -> Result<Proxy> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("ext-proc").stdout(Stdio::piped());
        let mut service = self.spawn(&mut command, "ext_proc-service", workers.is_some())?;
        let stdout = service.0.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        self.around.ext_proc = Some(address.context("the service did not print its address")?);
        let mut proxy = self.start_envoy(Variant::ExtProc, Shape::default(), name, workers)?;
        proxy.processes.push(service.0.id());
        proxy._children.push(service);
        Ok(proxy)
    }

    fn start_litellm(&self, name: &str) -> Result<Proxy> {
        let program = self.litellm.context("no LiteLLM proxy was named")?;
        let file = self.write(name, &config::litellm(self.around.backends))?;
        // The proxy cannot choose a port itself. If another process takes this port first, the start fails with an error.
        let free = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(file)
            .args(["--host", "127.0.0.1", "--num_workers", "1"])
            .args(["--port", &free.port().to_string()])
            .env("LITELLM_MASTER_KEY", CLIENT_KEY)
            // Without this variable, LiteLLM fetches prices from the internet.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_LOG", "ERROR")
            .stdout(Stdio::null());
        let mut litellm = self.spawn(&mut command, name, false)?;
        wait_until(&mut litellm, || {
            get(free, "/health/liveliness").is_some().then_some(())
        })?;
        Ok(Proxy {
            address: free,
            processes: vec![litellm.0.id()],
            _children: vec![litellm],
        })
    }

    fn write(&self, name: &str, configuration: &Value) -> Result<PathBuf> {
        let file = self.folder.join(format!("{name}.json"));
        fs::write(&file, serde_json::to_vec_pretty(configuration)?)
            .with_context(|| format!("{}: cannot be written", file.display()))?;
        Ok(file)
    }
}

/// The address of Envoy's listener, once Envoy is ready. Envoy writes the address of its admin interface to the file `admin`.
fn listening(admin: &Path) -> Option<SocketAddr> {
    let admin = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    get(admin, "/ready").filter(|body| body.trim() == "LIVE")?;
    let listeners: Value = serde_json::from_str(&get(admin, "/listeners?format=json")?).ok()?;
    let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
    let ip = address["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

/// The body of a successful response from this address and path.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut answer = ureq::get(format!("http://{address}{path}")).call().ok()?;
    answer.body_mut().read_to_string().ok()
}

fn wait_until<T>(process: &mut Guard, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = ready() {
            return Ok(found);
        }
        if let Some(status) = process.0.try_wait()? {
            bail!("it ended with {status}");
        }
        if start.elapsed() > START_LIMIT {
            bail!("it did not serve within {} s", START_LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Errors are ignored, because the process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
