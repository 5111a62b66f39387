//! Envoy's admin interface, as far as tests need it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::Client;

/// One Envoy's admin interface.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(address).give_up_after(Duration::from_secs(10)),
        }
    }

    pub(crate) fn get(&self, path: &str) -> io::Result<String> {
        let answer = self.client.send("GET", path, &[], b"")?;
        match answer.status {
            200 => Ok(answer.text()),
            status => Err(io::Error::other(format!(
                "{path}: {status} {}",
                answer.text()
            ))),
        }
    }

    /// The counters and gauges whose names start with `prefix`.
    pub(crate) fn stats(&self, prefix: &str) -> io::Result<BTreeMap<String, i64>> {
        let text = self.get("/stats")?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit_once(": "))
            // Histograms and text have no number here.
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The address of the listener with this name; `None` before Envoy has opened it.
    pub(crate) fn listener(&self, name: &str) -> io::Result<Option<SocketAddr>> {
        let listeners: Value = serde_json::from_str(&self.get("/listeners?format=json")?)?;
        let statuses = listeners["listener_statuses"].as_array();
        let mut statuses = statuses.into_iter().flatten();
        let Some(status) = statuses.find(|status| status["name"] == name) else {
            return Ok(None);
        };
        let socket = &status["local_address"]["socket_address"];
        let address = socket["address"].as_str().unwrap_or_default();
        let port = socket["port_value"].as_u64().unwrap_or_default();
        Ok(format!("{address}:{port}").parse().ok())
    }

    /// Envoy's reason for refusing the last listener; `None` if it refused none.
    pub(crate) fn listener_error(&self) -> io::Result<Option<String>> {
        let dump: Value =
            serde_json::from_str(&self.get("/config_dump?resource=dynamic_listeners")?)?;
        Ok(dump["configs"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|listener| listener["error_state"]["details"].as_str())
            .map(str::to_owned))
    }
}
