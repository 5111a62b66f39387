//! The simulated resources and the identity endpoint, wherever they run. The tour uses them through the simulator's
//! admin endpoint.

use std::time::Duration;

use anyhow::{anyhow, bail, Context, Result};
use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::{json, Value};
use simulator::{Behaviour, TokenCheck};
use ureq::Agent;

use crate::client;

/// A running simulator.
#[derive(Debug)]
pub struct Simulation {
    admin: Admin,
    backends: Vec<Backend>,
}

impl Simulation {
    /// The simulator whose admin endpoint is at `url`, such as `http://127.0.0.1:18091`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn at(url: &str) -> Result<Self> {
        let admin = Admin {
            agent: client::agent(),
            url: format!("{}/admin", url.trim_end_matches('/')),
        };
        let states: Vec<BackendState> = admin.get("/backends")?;
        let backends = states.into_iter().map(|state| Backend {
            admin: admin.clone(),
            name: state.name,
        });
        Ok(Self {
            backends: backends.collect(),
            admin,
        })
    }

    /// The address of the simulator's admin endpoint, as `http://address:port`.
    pub fn url(&self) -> &str {
        self.admin.url.trim_end_matches("/admin")
    }

    /// The backends, in the order of the simulator's settings.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The requests at all services, in the order of their arrival.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn requests(&self) -> Result<Vec<Received>> {
        self.admin.get("/requests")
    }

    /// The number of requests at the identity endpoint.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn imds_requests(&self) -> Result<u64> {
        Ok(self.imds()?.requests)
    }

    /// The number of tokens that the identity endpoint has issued.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn imds_tokens(&self) -> Result<u64> {
        Ok(self.imds()?.tokens)
    }

    /// Sets the lifetime of new tokens, in whole seconds.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn set_token_lifetime(&self, lifetime: Duration) -> Result<()> {
        let seconds = json!({ "seconds": lifetime.as_secs() });
        self.admin.put("/imds/token-lifetime", &seconds)
    }

    /// Makes all backends refuse the tokens issued so far.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn revoke_tokens(&self) -> Result<()> {
        self.admin.post("/imds/revoke")
    }

    /// Restores the default answers of every service, and forgets all requests.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn reset(&self) -> Result<()> {
        self.admin.post("/reset")
    }

    fn imds(&self) -> Result<ImdsState> {
        self.admin.get("/imds")
    }
}

/// A simulated resource.
#[derive(Debug)]
pub struct Backend {
    admin: Admin,
    name: String,
}

impl Backend {
    /// The backend's name, as in the balancer's configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of received requests.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn count(&self) -> Result<u64> {
        Ok(self.state()?.requests)
    }

    /// The backend's address, as the simulator sees it.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn addr(&self) -> Result<String> {
        Ok(self.state()?.addr)
    }

    /// Sets the backend's answers.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn set(&self, behaviour: &Behaviour) -> Result<()> {
        self.admin.put(&self.path("behaviour"), &json!(behaviour))
    }

    /// Restores the backend's default answers.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn clear(&self) -> Result<()> {
        self.admin.delete(&self.path("behaviour"))
    }

    /// Stops listening: connections are refused.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn stop(&self) -> Result<()> {
        self.admin.post(&self.path("stop"))
    }

    /// Listens again.
    ///
    /// # Errors
    /// When the port cannot be opened, or the simulator does not answer.
    pub fn restart(&self) -> Result<()> {
        self.admin.post(&self.path("restart"))
    }

    fn path(&self, what: &str) -> String {
        format!("/backends/{}/{what}", self.name)
    }

    fn state(&self) -> Result<BackendState> {
        let states: Vec<BackendState> = self.admin.get("/backends")?;
        let state = states.into_iter().find(|state| state.name == self.name);
        state.with_context(|| format!("the simulator has no backend {} any more", self.name))
    }
}

/// A request as a service received it.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// The backend's name, or `imds`.
    pub service: String,
    /// The result of the credential's check.
    pub token: TokenCheck,
    headers: Vec<(String, String)>,
}

impl Received {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

#[derive(Deserialize)]
struct BackendState {
    name: String,
    addr: String,
    requests: u64,
}

#[derive(Deserialize)]
struct ImdsState {
    requests: u64,
    tokens: u64,
}

/// The admin endpoint.
#[derive(Clone, Debug)]
struct Admin {
    agent: Agent,
    url: String,
}

impl Admin {
    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let value = self.answer_of("GET", path, self.agent.get(self.at(path)).call())?;
        serde_json::from_value(value)
            .with_context(|| format!("GET {}: not as expected", self.at(path)))
    }

    fn put(&self, path: &str, body: &Value) -> Result<()> {
        let sent = self.agent.put(self.at(path)).send(body.to_string());
        self.answer_of("PUT", path, sent).map(drop)
    }

    fn post(&self, path: &str) -> Result<()> {
        let sent = self.agent.post(self.at(path)).send_empty();
        self.answer_of("POST", path, sent).map(drop)
    }

    fn delete(&self, path: &str) -> Result<()> {
        let sent = self.agent.delete(self.at(path)).call();
        self.answer_of("DELETE", path, sent).map(drop)
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The simulator's answer, which is JSON, or an error.
    fn answer_of(
        &self,
        method: &str,
        path: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let what = || format!("the simulator: {method} {}", self.at(path));
        let mut answer = answer.map_err(|error| anyhow!("{}: {error}", what()))?;
        // `/requests` has the requests of the whole tour.
        let body = answer.body_mut().with_config().limit(256 * 1024 * 1024);
        let body = body.read_to_string().with_context(what)?;
        if answer.status() != 200 {
            bail!("{}: {} {body}", what(), answer.status());
        }
        serde_json::from_str(&body).with_context(what)
    }
}

#[cfg(test)]
mod tests {
    use simulator::{BackendSettings, Settings, Simulator};

    use super::*;

    #[test]
    fn it_does_what_the_handles_do() {
        let simulator = Simulator::start(Settings {
            backends: vec![BackendSettings::new("east"), BackendSettings::new("west")],
            admin_port: Some(0),
            ..Settings::default()
        })
        .unwrap();
        let admin = simulator.admin_addr().unwrap();
        let simulation = Simulation::at(&format!("http://{admin}/")).unwrap();
        let names: Vec<_> = simulation.backends().iter().map(Backend::name).collect();
        assert_eq!(names, ["east", "west"]);

        let east = &simulation.backends()[0];
        let status = || {
            let url = format!(
                "http://{}{}",
                simulator.backend("east").addr(),
                client::CHAT
            );
            let answer = client::agent().post(url).send("{}");
            answer.map(|answer| answer.status().as_u16()).ok()
        };
        east.set(&Behaviour::throttled(1)).unwrap();
        assert_eq!(status(), Some(429));
        east.clear().unwrap();
        assert_eq!(status(), Some(401));
        east.stop().unwrap();
        assert_eq!(status(), None);
        east.restart().unwrap();
        assert_eq!(status(), Some(401));
        assert_eq!(east.count().unwrap(), 3);
        assert_eq!(
            east.addr().unwrap(),
            simulator.backend("east").addr().to_string()
        );
        let last = simulation.requests().unwrap().pop().unwrap();
        assert_eq!(last.service, "east");
        assert_eq!(last.token, TokenCheck::Missing);
        assert!(last.header("host").is_some() && last.header("x-none").is_none());

        assert_eq!(simulation.imds_requests().unwrap(), 0);
        assert_eq!(simulation.imds_tokens().unwrap(), 0);
        simulation
            .set_token_lifetime(Duration::from_secs(5))
            .unwrap();
        simulation.revoke_tokens().unwrap();
        simulation.reset().unwrap();
        assert!(simulation.requests().unwrap().is_empty());
    }

    #[test]
    fn a_simulator_that_is_not_there_is_named() {
        let error = Simulation::at("http://127.0.0.1:9").unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("the simulator: GET http://127.0.0.1:9/admin/backends: "),
            "{error}"
        );
    }
}
