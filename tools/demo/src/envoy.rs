//! The Envoy of the tour.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;
use ureq::Agent;

use crate::client;
use crate::processes::{Process, Processes};

/// The longest time until Envoy is ready, with the module's compilation.
const START_LIMIT: Duration = Duration::from_secs(30);

/// More than one, as in production, and no more, because some machines are small.
const WORKERS: u32 = 2;

/// The name of Envoy's log, which has the module's lines too.
const LOG: &str = "envoy.log";
const ACCESS_LOG: &str = "access.log";
const ADMIN: &str = "admin-address.txt";

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// `None` for an Envoy that runs elsewhere.
    process: Option<Process>,
    agent: Agent,
    admin: String,
    listener: String,
    version: String,
    log: PathBuf,
}

/// The path of Envoy's log.
pub fn log(folder: &Path) -> PathBuf {
    folder.join(LOG)
}

impl Envoy {
    /// Starts Envoy and waits until it serves.
    ///
    /// # Errors
    /// When Envoy does not get ready.
    pub fn start(
        binary: &Path,
        config: &Path,
        directory: &Path,
        folder: &Path,
        processes: &Processes,
    ) -> Result<Self> {
        let create = |name: &str| {
            let path = folder.join(name);
            File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))
        };
        let admin_file = folder.join(ADMIN);
        // The file of an earlier run would have the wrong address.
        let _ = fs::remove_file(&admin_file);
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(config)
            .args(["--concurrency", &WORKERS.to_string()])
            .arg("--admin-address-path")
            .arg(&admin_file)
            // Several Envoys may run on one machine. Lines of the access log appear at once.
            .args(["--disable-hot-restart", "--file-flush-interval-msec", "100"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(create(ACCESS_LOG)?)
            .stderr(create(LOG)?);
        let mut envoy = Self {
            process: Some(processes.start(&mut command)?),
            agent: client::agent(),
            admin: String::new(),
            listener: String::new(),
            version: String::new(),
            log: log(folder),
        };
        envoy.wait(processes, |envoy| {
            envoy.admin = format!("http://{}", fs::read_to_string(&admin_file)?.trim());
            envoy.listener = envoy.listens()?;
            Ok(())
        })?;
        Ok(envoy)
    }

    /// An Envoy that runs elsewhere, with these URLs. Waits until it serves.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn attach(url: &str, admin: &str, processes: &Processes) -> Result<Self> {
        let mut envoy = Self {
            process: None,
            agent: client::agent(),
            admin: admin.trim_end_matches('/').to_owned(),
            listener: url.trim_end_matches('/').to_owned(),
            version: String::new(),
            log: PathBuf::new(),
        };
        envoy.wait(processes, |_| Ok(()))?;
        Ok(envoy)
    }

    /// The address for clients, as `http://address:port`.
    pub fn url(&self) -> &str {
        &self.listener
    }

    /// The admin interface, as `http://address:port`.
    pub fn admin_url(&self) -> &str {
        &self.admin
    }

    /// Envoy's version, such as `1.40.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Envoy's log, with the module's lines.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The counters and gauges of the module, without Envoy's prefix.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub fn statistics(&self) -> Result<BTreeMap<String, i64>> {
        const PREFIX: &str = "wasmcustom.";
        let text = self.get("/stats")?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(PREFIX));
        Ok(lines
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect())
    }

    /// Reports an Envoy that has ended.
    ///
    /// # Errors
    /// When Envoy has ended.
    pub fn check_alive(&self) -> Result<()> {
        let Some(status) = self.process.as_ref().and_then(Process::ended) else {
            return Ok(());
        };
        let log = fs::read(&self.log).unwrap_or_default();
        let complaints = complaints(&String::from_utf8_lossy(&log));
        bail!("Envoy ended with {status}{complaints}");
    }

    /// Waits until Envoy serves, and finds its addresses.
    fn wait(
        &mut self,
        processes: &Processes,
        find: impl Fn(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !find(self)
            .and_then(|()| self.is_ready())
            .unwrap_or_default()
        {
            self.check_alive()?;
            if Instant::now() > deadline {
                bail!("Envoy was not ready after {} s", START_LIMIT.as_secs());
            }
            processes.pause(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool> {
        self.get("/ready")?;
        let created = self.get("/stats?filter=listener_manager.listener_create_success")?;
        let created = created.rsplit(':').next().unwrap_or_default().trim();
        if created.parse::<u32>()? < WORKERS {
            return Ok(false);
        }
        let info: Value = serde_json::from_str(&self.get("/server_info")?)?;
        // `COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
        let version = info["version"].as_str().unwrap_or_default();
        self.version = version.split('/').nth(1).unwrap_or(version).to_owned();
        Ok(true)
    }

    /// The address for clients, as the admin interface reports it.
    fn listens(&self) -> Result<String> {
        let listeners: Value = serde_json::from_str(&self.get("/listeners?format=json")?)?;
        let statuses = listeners["listener_statuses"].as_array();
        let mut statuses = statuses.into_iter().flatten();
        let status = statuses.find(|status| status["name"] == render::LISTENER_NAME);
        let socket = &status.context("no listener")?["local_address"]["socket_address"];
        let address = socket["address"].as_str().context("no listener")?;
        Ok(format!("http://{address}:{}", socket["port_value"]))
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut response = self.agent.get(format!("{}{path}", self.admin)).call()?;
        let body = response.body_mut().read_to_string()?;
        if response.status() != 200 {
            bail!(
                "Envoy's admin interface: {path}: {} {body}",
                response.status()
            );
        }
        Ok(body)
    }
}

/// The last errors in a log, each on its own line, without time and place.
fn complaints(log: &str) -> String {
    const MOST: usize = 5;
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("[error]") || line.contains("[critical]"))
        // `[time][thread][level][component] [source file:line] message`
        .filter_map(|line| line.splitn(3, "] ").last())
        .collect();
    let last = &errors[errors.len().saturating_sub(MOST)..];
    last.iter().map(|error| format!("\n  {error}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_the_last_errors() {
        let line = |level: &str, text: &str| {
            format!("[2026-01-01 00:00:00.000][1][{level}][wasm] [source/wasm.cc:1] {text}\n")
        };
        let log = [
            line("error", "[a] one"),
            line("info", "no"),
            line("critical", "two"),
        ];
        assert_eq!(complaints(&log.concat()), "\n  [a] one\n  two");
        assert_eq!(complaints(&line("error", "x").repeat(9)), "\n  x".repeat(5));
        assert_eq!(complaints(""), "");
    }
}
