//! The variants that are measured, and the conditions.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::STREAM_EVENTS;
use crate::load::{Asks, Request};

/// The program between the client and the backends, in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Variant {
    /// No program: the client sends requests to a backend.
    Direct,
    /// Envoy with one route to three hosts. All other variants are compared with it.
    Envoy,
    /// A second plain Envoy. Its difference to the first one is noise.
    EnvoyAgain,
    /// Envoy without the module, as close to the balancer as possible: a fixed token, and retries on another host.
    Stock,
    /// A Lua filter that does round robin and sets the token.
    Lua,
    /// A gRPC service that does round robin and sets the token.
    ExtProc,
    /// A wasm filter that does nothing.
    Idle,
    /// A module that only makes the host calls of [`Self::Filter`].
    FloorFilter,
    /// Modules that only make the host calls of [`Self::Router`].
    FloorRouter,
    /// [`Self::FloorRouter`] without the clusters' filters. The difference is the price of seeing each attempt.
    FloorDownstream,
    /// A module that only makes the host calls of [`Self::FilterLean`].
    FloorFilterLean,
    /// Modules that only make the host calls of [`Self::RouterLean`].
    FloorRouterLean,
    /// A module that only makes the host calls of [`Self::FilterEverything`].
    FloorFilterEverything,
    /// Modules that only make the host calls of [`Self::RouterEverything`].
    FloorRouterEverything,
    /// The balancer with the filter engine.
    Filter,
    /// The balancer with the router engine.
    Router,
    /// The filter engine with `affinity` by `prompt_cache_key`.
    FilterAffinity,
    /// The router engine with `affinity` by `prompt_cache_key`.
    RouterAffinity,
    /// The filter engine with `usage: false`. The difference to [`Self::Filter`] is the price of counting tokens.
    FilterUncounted,
    /// The router engine with `usage: false`. The difference to [`Self::Router`] is the price of counting tokens.
    RouterUncounted,
    /// The filter engine without the features that read answers: `usage: false`, `retry.stream_start: 0s`.
    FilterLean,
    /// The router engine without the features that read answers: `usage: false`, `retry.stream_start: 0s`.
    RouterLean,
    /// The filter engine with prices, client names, `headers.why` and limits of clients.
    FilterEverything,
    /// The router engine with prices, client names, `headers.why` and limits of clients.
    RouterEverything,
    /// The filter engine of another build.
    FilterAgainst,
    /// The router engine of another build.
    RouterAgainst,
    /// The LiteLLM proxy.
    LiteLlm,
}

/// The balancer's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// The default settings.
    Default,
    /// `affinity` by `prompt_cache_key`.
    Affinity,
    /// `usage: false`.
    Uncounted,
    /// `usage: false`, `retry.stream_start: 0s`.
    Lean,
    /// Prices, client names, `headers.why` and limits of clients.
    Everything,
}

impl Variant {
    /// All variants, in the order of the report.
    pub const ALL: [Self; 27] = [
        Self::Direct,
        Self::Envoy,
        Self::EnvoyAgain,
        Self::Stock,
        Self::Lua,
        Self::ExtProc,
        Self::Idle,
        Self::FloorFilter,
        Self::FloorRouter,
        Self::FloorDownstream,
        Self::FloorFilterLean,
        Self::FloorRouterLean,
        Self::FloorFilterEverything,
        Self::FloorRouterEverything,
        Self::Filter,
        Self::Router,
        Self::FilterAffinity,
        Self::RouterAffinity,
        Self::FilterUncounted,
        Self::RouterUncounted,
        Self::FilterLean,
        Self::RouterLean,
        Self::FilterEverything,
        Self::RouterEverything,
        Self::FilterAgainst,
        Self::RouterAgainst,
        Self::LiteLlm,
    ];

    /// The variant's name on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Envoy => "envoy",
            Self::EnvoyAgain => "again",
            Self::Stock => "stock",
            Self::Lua => "lua",
            Self::ExtProc => "ext_proc",
            Self::Idle => "idle",
            Self::FloorFilter => "floor_filter",
            Self::FloorRouter => "floor_router",
            Self::FloorDownstream => "floor_downstream",
            Self::FloorFilterLean => "floor_filter_lean",
            Self::FloorRouterLean => "floor_router_lean",
            Self::FloorFilterEverything => "floor_filter_everything",
            Self::FloorRouterEverything => "floor_router_everything",
            Self::Filter => "filter",
            Self::Router => "router",
            Self::FilterAffinity => "filter_affinity",
            Self::RouterAffinity => "router_affinity",
            Self::FilterUncounted => "filter_uncounted",
            Self::RouterUncounted => "router_uncounted",
            Self::FilterLean => "filter_lean",
            Self::RouterLean => "router_lean",
            Self::FilterEverything => "filter_everything",
            Self::RouterEverything => "router_everything",
            Self::FilterAgainst => "filter-against",
            Self::RouterAgainst => "router-against",
            Self::LiteLlm => "litellm",
        }
    }

    /// The variant with this [`key`](Self::key).
    pub fn named(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.key() == key)
    }

    /// Whether the variant is measured by default.
    pub fn is_usual(self) -> bool {
        self != Self::FloorDownstream
    }

    /// Whether the variant only makes the balancer's host calls.
    pub fn is_floor(self) -> bool {
        matches!(
            self,
            Self::FloorFilter
                | Self::FloorRouter
                | Self::FloorDownstream
                | Self::FloorFilterLean
                | Self::FloorRouterLean
                | Self::FloorFilterEverything
                | Self::FloorRouterEverything
        )
    }

    /// Whether the variant is the balancer.
    pub fn is_balancer(self) -> bool {
        matches!(
            self,
            Self::Filter
                | Self::Router
                | Self::FilterAffinity
                | Self::RouterAffinity
                | Self::FilterUncounted
                | Self::RouterUncounted
                | Self::FilterLean
                | Self::RouterLean
                | Self::FilterEverything
                | Self::RouterEverything
                | Self::FilterAgainst
                | Self::RouterAgainst
        )
    }

    /// Whether the variant is the balancer with its default settings.
    fn is_default(self) -> bool {
        matches!(self, Self::Filter | Self::Router)
    }

    /// Whether the variant is the balancer with the router engine, or a floor in its place.
    pub fn is_router(self) -> bool {
        matches!(
            self,
            Self::FloorRouter
                | Self::FloorDownstream
                | Self::FloorRouterLean
                | Self::FloorRouterEverything
                | Self::Router
                | Self::RouterAffinity
                | Self::RouterUncounted
                | Self::RouterLean
                | Self::RouterEverything
                | Self::RouterAgainst
        )
    }

    /// A short name for variants in the charts of curves.
    pub fn engine_name(self) -> &'static str {
        match self {
            _ if self.is_router() => "router",
            _ if self.is_balancer() => "filter",
            Self::Stock => "stock",
            _ => "plain Envoy",
        }
    }

    fn is_against(self) -> bool {
        matches!(self, Self::FilterAgainst | Self::RouterAgainst)
    }

    /// The settings of the balancer, or of the balancer whose host calls a floor makes.
    pub fn settings(self) -> Settings {
        match self {
            Self::FilterAffinity | Self::RouterAffinity => Settings::Affinity,
            Self::FilterUncounted | Self::RouterUncounted => Settings::Uncounted,
            Self::FilterLean | Self::RouterLean | Self::FloorFilterLean | Self::FloorRouterLean => {
                Settings::Lean
            }
            Self::FilterEverything
            | Self::RouterEverything
            | Self::FloorFilterEverything
            | Self::FloorRouterEverything => Settings::Everything,
            _ => Settings::Default,
        }
    }

    /// Whether the variant has to send the token with every request.
    pub fn sends_token(self) -> bool {
        self.is_balancer()
            || self.is_floor()
            || matches!(self, Self::Stock | Self::Lua | Self::ExtProc)
    }

    /// Whether the variant sends a failed request to another backend.
    pub fn retries(self) -> bool {
        self.is_balancer() || self == Self::Stock
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "backend alone",
            Self::Envoy => "plain Envoy",
            Self::EnvoyAgain => "plain Envoy, again",
            Self::Stock => "stock Envoy: token, retries",
            Self::Lua => "Lua",
            Self::ExtProc => "ext_proc service",
            Self::Idle => "wasm that does nothing",
            Self::FloorFilter => "floor: balancer, filter engine",
            Self::FloorRouter => "floor: balancer, router engine",
            Self::FloorDownstream => "floor: router engine, listener only",
            Self::FloorFilterLean => "floor: answers not read, filter engine",
            Self::FloorRouterLean => "floor: answers not read, router engine",
            Self::FloorFilterEverything => "floor: everything on, filter engine",
            Self::FloorRouterEverything => "floor: everything on, router engine",
            Self::Filter => "balancer, filter engine",
            Self::Router => "balancer, router engine",
            Self::FilterAffinity => "affinity, filter engine",
            Self::RouterAffinity => "affinity, router engine",
            Self::FilterUncounted => "tokens not counted, filter engine",
            Self::RouterUncounted => "tokens not counted, router engine",
            Self::FilterLean => "answers not read, filter engine",
            Self::RouterLean => "answers not read, router engine",
            Self::FilterEverything => "everything on, filter engine",
            Self::RouterEverything => "everything on, router engine",
            Self::FilterAgainst => "other build, filter engine",
            Self::RouterAgainst => "other build, router engine",
            Self::LiteLlm => "LiteLLM proxy",
        })
    }
}

/// The condition of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Workload {
    /// Requests with a body of this number of KiB over 16 connections.
    Body(usize),
    /// Streams over 64 connections.
    Streams,
    /// Streams of [`LONG_STREAM`] events over 16 connections.
    LongStreams,
    /// Requests with a body of 1 KiB and a `prompt_cache_key` each over 16 connections.
    Keyed,
    /// Small requests over one connection.
    Alone,
    /// Streams over one connection.
    FirstByte,
    /// Streams over one connection. The first attempt of each fails.
    FirstByteRetried,
    /// Streams over one connection. The first attempt of each is a stream that begins with an error.
    FirstByteFailed,
    /// Requests of 16 KiB while one backend throttles.
    Throttled,
    /// Small requests to an Envoy with this number of workers on all cores.
    Workers(u32),
}

/// The number of events in a long stream.
pub const LONG_STREAM: usize = 1000;

impl Workload {
    /// The conditions that are measured in shuffled order.
    pub const SHUFFLED: [Self; 12] = [
        Self::Body(1),
        Self::Body(16),
        Self::Body(100),
        Self::Body(1024),
        Self::Streams,
        Self::LongStreams,
        Self::Keyed,
        Self::Alone,
        Self::FirstByte,
        Self::FirstByteRetried,
        Self::FirstByteFailed,
        Self::Throttled,
    ];

    /// The conditions with different numbers of workers.
    pub const WORKERS: [Self; 3] = [Self::Workers(1), Self::Workers(2), Self::Workers(4)];

    /// The condition's name on the command line. Conditions with a number of workers have none.
    pub fn key(self) -> &'static str {
        match self {
            Self::Body(1) => "1k",
            Self::Body(16) => "16k",
            Self::Body(100) => "100k",
            Self::Body(1024) => "1m",
            Self::Streams => "streams",
            Self::LongStreams => "long_streams",
            Self::Keyed => "keyed",
            Self::Alone => "alone",
            Self::FirstByte => "first_byte",
            Self::FirstByteRetried => "retried",
            Self::FirstByteFailed => "failed_stream",
            Self::Throttled => "throttled",
            Self::Body(_) | Self::Workers(_) => "",
        }
    }

    /// The condition with this [`key`](Self::key).
    pub fn named(key: &str) -> Option<Self> {
        Self::SHUFFLED
            .into_iter()
            .find(|workload| workload.key() == key)
    }

    /// The request that the load sends.
    pub fn request(self) -> Request {
        match self {
            Self::Body(kib) => Request::chat(kib << 10, Asks::Whole),
            Self::Alone | Self::Workers(_) => Request::chat(1 << 10, Asks::Whole),
            Self::Streams | Self::FirstByte => Request::chat(1 << 10, Asks::Stream(STREAM_EVENTS)),
            Self::LongStreams => Request::chat(1 << 10, Asks::Stream(LONG_STREAM)),
            Self::Keyed => Request::chat(1 << 10, Asks::Keyed),
            Self::FirstByteRetried => Request::chat(1 << 10, Asks::RetriedStream),
            Self::FirstByteFailed => Request::chat(1 << 10, Asks::FailedStream),
            Self::Throttled => Request::chat(16 << 10, Asks::Whole),
        }
    }

    /// The number of connections.
    pub fn connections(self) -> usize {
        match self {
            Self::Alone | Self::FirstByte | Self::FirstByteRetried | Self::FirstByteFailed => 1,
            Self::Streams => 64,
            _ => 16,
        }
    }

    /// The length of slices, where `usual` is the length for small requests. Slices with streams are longer, because few streams begin
    /// and end within a short one.
    pub fn slice(self, usual: Duration) -> Duration {
        match self {
            Self::LongStreams => usual * 16,
            Self::Streams | Self::FirstByte | Self::FirstByteRetried | Self::FirstByteFailed => {
                usual * 4
            }
            _ => usual,
        }
    }

    /// Whether the condition makes sense for `variant`.
    pub fn suits(self, variant: Variant) -> bool {
        let is_plain = variant == Variant::Envoy;
        let settings = variant.settings();
        match self {
            Self::Keyed => {
                let has_affinity = settings == Settings::Affinity;
                is_plain || variant.is_default() || variant.is_against() || has_affinity
            }
            // Affinity has no effect on requests without keys.
            _ if settings == Settings::Affinity => false,
            Self::Streams => true,
            // A slice takes 16 times as long as usual, so only the most interesting variants are measured.
            Self::LongStreams => is_plain || variant.is_balancer(),
            // Counting tokens is expensive in streams only, where the module reads every event.
            _ if settings == Settings::Uncounted => false,
            Self::FirstByteRetried => variant.retries(),
            // Only the balancer retries after an error in a stream, and only if it reads answers.
            Self::FirstByteFailed => variant.is_balancer() && settings != Settings::Lean,
            // Plain Envoy is the base of comparison, so no backend throttles its requests. The floors do not retry, so no backend
            // throttles theirs either.
            Self::Throttled => variant.retries() || variant.is_floor() || is_plain,
            Self::Workers(_) => is_plain || variant.is_default(),
            Self::Body(_) | Self::Alone | Self::FirstByte => true,
        }
    }

    /// Whether a backend throttles while `variant` is measured.
    pub fn throttles(self, variant: Variant) -> bool {
        self == Self::Throttled && variant.retries()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(kib) if *kib >= 1024 => write!(f, "{} MB", kib >> 10),
            Self::Body(kib) => write!(f, "{kib} KB"),
            Self::Streams => f.write_str("streams"),
            Self::LongStreams => write!(f, "streams of {LONG_STREAM}"),
            Self::Keyed => f.write_str("1 KB, keyed"),
            Self::Alone => f.write_str("one connection"),
            Self::FirstByte => f.write_str("first byte"),
            Self::FirstByteRetried => f.write_str("first byte, retried"),
            Self::FirstByteFailed => f.write_str("first byte, error in the stream"),
            Self::Throttled => f.write_str("one of three throttled"),
            Self::Workers(1) => f.write_str("1 worker"),
            Self::Workers(count) => write!(f, "{count} workers"),
        }
    }
}
