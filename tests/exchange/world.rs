//! A worker with three backends on a host without an Envoy.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use azure_openai_balancer::core::balancer::Balancer;
use azure_openai_balancer::core::config::{Plugin, Secret};
use azure_openai_balancer::core::demand::Demand;
use azure_openai_balancer::core::health::{Blame, Finding, Seen};
use azure_openai_balancer::core::host::Host;
use azure_openai_balancer::core::identity::Fetched;
use azure_openai_balancer::core::time::Timestamp;

use super::host::MapAndClock;

pub(crate) const ENGINES: [&str; 2] = ["filter", "router"];

/// The clusters. The first two backends have keys of their own, `KEY-a` and `KEY-b`. The last backend gets the token.
pub(crate) const BACKENDS: [&str; 3] = ["a", "b", "c"];

pub(crate) struct World {
    pub(crate) balancer: Balancer<MapAndClock>,
    pub(crate) is_router: bool,
    pub(crate) max_attempts: usize,
    host: MapAndClock,
    tokens: Cell<u32>,
    steps: RefCell<BTreeSet<Step>>,
}

/// A transition between two states, by their names.
pub(crate) type Step = (&'static str, &'static str);

impl World {
    pub(crate) fn new(engine: &str, max_attempts: u8, waits: bool) -> Self {
        let wait = if waits { "2s" } else { "0s" };
        let json = format!(
            r#"{{"backends": [
                    {{"name": "a", "cluster": "a", "host": "a.example", "api_key_env": "A", "deployments": {{"gpt": "own"}}}},
                    {{"name": "b", "cluster": "b", "host": "b.example", "api_key_env": "B", "first_byte_timeout": "2s"}},
                    {{"name": "c", "cluster": "c", "host": "c.example"}}
                ],
                "identity": {{"cluster": "imds"}},
                "cooldown": {{"wait_timeout": "{wait}"}},
                "retry": {{"engine": "{engine}", "max_attempts": {max_attempts}, "replay_limit": "1KiB",
                    "stream_idle_timeout": "5s"}}}}"#
        );
        let environment = |name: &str| Some(format!("KEY-{}", name.to_lowercase()));
        let config = match Plugin::from_bytes(json.as_bytes(), &environment) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        };
        let host = MapAndClock::default();
        host.pass(1_700_000_000_000);
        let world = Self {
            balancer: Balancer::new(host.clone(), config, 7).unwrap(),
            is_router: engine == "router",
            max_attempts: usize::from(max_attempts),
            host,
            tokens: Cell::default(),
            steps: RefCell::default(),
        };
        world.renew();
        world
    }

    pub(crate) fn note_step(&self, from: &'static str, to: &'static str) {
        self.steps.borrow_mut().insert((from, to));
    }

    /// The transitions that requests have made, except those to their end.
    pub(crate) fn steps(self) -> BTreeSet<Step> {
        self.steps.into_inner()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.host.now()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, millis: u64) {
        self.host.pass(millis);
        self.balancer.credentials.look(self.now());
        self.balancer.fleet.on_tick(self.now());
    }

    /// The token service gives a new token.
    pub(crate) fn renew(&self) {
        self.tokens.set(self.tokens.get() + 1);
        let fetched = Fetched {
            token: Secret::new(format!("TOKEN-{}", self.tokens.get())),
            expires_on: self.now() + Duration::from_secs(3600),
        };
        for store in self.balancer.credentials.stores() {
            store.finish(&Ok(fetched.clone()), self.now()).unwrap();
        }
    }

    /// The credential that the backend of this cluster gets.
    pub(crate) fn credential(&self, cluster: &str) -> (&'static str, String) {
        match cluster {
            "c" => (
                "authorization",
                format!("Bearer TOKEN-{}", self.tokens.get()),
            ),
            keyed => ("api-key", format!("KEY-{keyed}")),
        }
    }

    fn learn(&self, backend: usize, finding: Finding) {
        let rules = &self.balancer.config.cooldown;
        let seen = Seen::default();
        let fleet = &self.balancer.fleet;
        fleet.learn(rules, backend, finding, &seen, self.now());
    }

    /// Lets every backend fail until its breaker opens, and then waits until the backends may recover.
    pub(crate) fn let_all_recover(&self) {
        for backend in 0..BACKENDS.len() {
            for _ in 0..20 {
                self.learn(backend, Finding::Failed(0, Blame::First));
            }
        }
        while !(0..BACKENDS.len()).all(|backend| self.recovers(backend)) {
            self.pass(1_000);
        }
        self.renew();
    }

    fn recovers(&self, backend: usize) -> bool {
        let health = self.balancer.fleet.health(backend).unwrap();
        matches!(health.trouble(self.now()), Some((_, None)))
    }

    /// Whether the backend has room for another attempt while it recovers.
    pub(crate) fn admits(&self, backend: usize) -> bool {
        let health = self.balancer.fleet.health(backend).unwrap();
        health.admits(&Demand::default(), self.now())
    }
}
