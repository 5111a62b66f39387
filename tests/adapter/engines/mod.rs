//! A gateway with either engine, so that rules common to both are tested once. The test plays client, backends and
//! token service, and [`cases!`] runs it with each engine.

mod requests;

use std::rc::Rc;

use mock_host::{Headers, Host, Router, Setup, Vm};
use serde_json::{json, Value};

pub(crate) use super::support::*;
pub(crate) use requests::*;

/// Makes two tests of each case: one in `filter_engine`, one in `router_engine`.
macro_rules! cases {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)+) => {
        $($(#[$attribute])* fn $name($engine: $crate::adapter::engines::Engine) $body)+

        mod filter_engine {
            $(#[test] fn $name() { super::$name($crate::adapter::engines::Engine::Filter) })+
        }

        mod router_engine {
            $(#[test] fn $name() { super::$name($crate::adapter::engines::Engine::Router) })+
        }
    };
}
pub(crate) use cases;

pub(crate) const EAST: &str = "aoai_east";
pub(crate) const WEST: &str = "aoai_west";
pub(crate) const NORTH: &str = "aoai_north";
pub(crate) const CLUSTERS: [&str; 3] = [EAST, WEST, NORTH];
pub(crate) const UPSTREAM: &str = r#"{"role": "upstream"}"#;

/// The engine that makes the further attempts: the filter itself, or Envoy's router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Filter,
    Router,
}

impl Engine {
    /// `CONFIG` with the first `count` backends, these fields, and the engine.
    pub(crate) fn config(self, count: usize, more: Value) -> String {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config["backends"].as_array_mut().unwrap().truncate(count);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        if self == Self::Router {
            config["retry"]["engine"] = json!("router");
        }
        config.to_string()
    }

    /// A worker without a token yet.
    pub(crate) fn tokenless(self, count: usize, more: Value) -> Gateway {
        self.start(Setup::new(self.config(count, more)))
    }

    /// A worker without a token yet, with this setup, whose configuration must be this engine's.
    pub(crate) fn start(self, setup: Setup) -> Gateway {
        self.start_on(&Host::new(), setup)
    }

    /// A worker without a token yet, with this setup, in the process `host`.
    pub(crate) fn start_on(self, host: &Host, setup: Setup) -> Gateway {
        let vm = host.start(setup).unwrap();
        match self {
            Self::Filter => Gateway {
                host: host.clone(),
                vm: Rc::new(vm),
                routed: None,
            },
            Self::Router => Gateway::routed(vm, Setup::new(UPSTREAM)),
        }
    }

    /// A worker with `count` backends, these fields in its configuration, and a token.
    pub(crate) fn fleet(self, count: usize, more: Value) -> Gateway {
        self.ready(Setup::new(self.config(count, more)))
    }

    /// A worker with this setup and a token.
    pub(crate) fn ready(self, setup: Setup) -> Gateway {
        let gateway = self.start(setup);
        gateway.host.advance(millis(1));
        give_token(&gateway.vm, TOKEN);
        gateway
    }

    /// A worker with three backends and a token.
    pub(crate) fn gateway(self) -> Gateway {
        self.fleet(3, json!({}))
    }

    /// Another worker of the same process, which has found the token in shared data.
    pub(crate) fn beside(self, gateway: &Gateway, count: usize, more: Value) -> Gateway {
        let other = self.start_on(&gateway.host, Setup::new(self.config(count, more)));
        gateway.host.advance(millis(50));
        other
    }
}

/// One worker of a gateway.
pub(crate) struct Gateway {
    pub(crate) host: Host,
    pub(crate) vm: Rc<Vm>,
    /// The plugin behind Envoy's router, and that router.
    routed: Option<(Vm, Router)>,
}

impl Gateway {
    /// A worker of the router engine with this setup behind Envoy's router.
    pub(crate) fn routed(vm: Vm, upstream: Setup) -> Self {
        let upstream = vm.plugin(upstream).unwrap();
        let router = Router::new(&vm, &upstream, &[EAST, WEST, NORTH, "aoai_other"]);
        Self {
            host: vm.host(),
            vm: Rc::new(vm),
            routed: Some((upstream, router)),
        }
    }

    /// The plugin behind Envoy's router.
    pub(crate) fn upstream(&self) -> &Vm {
        &self.routed.as_ref().expect("a router engine").0
    }

    /// Envoy's router.
    pub(crate) fn router(&self) -> Router {
        let routed = self.routed.as_ref().expect("a router engine");
        routed.1.clone()
    }

    /// A client's request; `end` if it has no body.
    pub(crate) fn request(&self, headers: impl Into<Headers>, end: bool) -> Request {
        match &self.routed {
            Some((_, router)) => Request::Router(router.request(headers, end)),
            None => Request::filtered(&self.vm, self.vm.request(headers, end)),
        }
    }

    /// A client's chat request, complete.
    pub(crate) fn send(&self) -> Request {
        let request = self.request(chat_of(BODY.len()), false);
        request.body(BODY, true);
        request
    }

    /// A client's request that has no body.
    pub(crate) fn get(&self) -> Request {
        self.request(listing(), true)
    }

    /// A client's request to `path`, complete, with its body in two parts.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Request {
        let request = self.request(request_of(method, path, body), body.is_empty());
        if !body.is_empty() {
            let (one, other) = body.split_at(body.len() / 2);
            request.body(one, false);
            request.body(other, true);
        }
        request
    }

    /// Whether the module expects attempts of the request `id` behind Envoy's router.
    pub(crate) fn knows(&self, id: u32) -> bool {
        let Some((upstream, _)) = &self.routed else {
            return false;
        };
        let next = format!("{EAST} {id:08x}");
        let properties = [
            ("xds\0cluster_name", EAST.as_bytes()),
            ("aoai_next", next.as_bytes()),
        ];
        let stream = upstream.request_with(&properties, chat(), true);
        let refused = stream.answered();
        refused.is_none_or(|answer| answer.details != "aoai_no_request")
    }

    /// The value of a statistic, after the worker's report.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        counted(&self.host, name)
    }

    /// The worker requests a token, and the token service answers with this one.
    pub(crate) fn renew(&self, token: &str) {
        self.host.advance(millis(5));
        give_token(&self.vm, token);
    }

    /// The worker requests a token, and the token service fails.
    pub(crate) fn renew_in_vain(&self) {
        self.host.advance(millis(5));
        self.vm.answer(&fetch(&self.vm), 500, [], "");
    }

    /// The clusters of the next requests, each of which is answered.
    pub(crate) fn served_by(&self, requests: usize) -> Vec<String> {
        let served = (0..requests).map(|_| {
            let request = self.get();
            let attempt = request.attempt();
            answer(&attempt, 200, "fine");
            attempt.cluster()
        });
        served.collect()
    }

    /// The first backend answers 429, and another one serves the request.
    pub(crate) fn throttle_east(&self, retry_after: &str) {
        let request = self.get();
        assert_eq!(request.attempt().cluster(), EAST);
        throttle(&request.attempt(), retry_after);
        answer(&request.attempt(), 200, "from another");
        assert_eq!(request.answer().status, 200);
    }
}
