//! What is measured, and under which conditions.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::STREAM_EVENTS;
use crate::load::{Asks, Request};

/// What stands between the client and the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Variant {
    /// Nothing.
    Direct,
    /// Envoy with one route to three hosts. All others are compared with it.
    Envoy,
    /// The same once more: what it differs by is noise.
    EnvoyAgain,
    /// What comes nearest without the module: a fixed token, retries on another host.
    Stock,
    /// Round robin and token by a Lua filter.
    Lua,
    /// Round robin and token by a service that Envoy asks over gRPC.
    ExtProc,
    /// A wasm filter that does nothing.
    Idle,
    /// The host calls of the balancer's filter engine, and nothing else.
    FloorFilter,
    /// The host calls of the balancer's router engine, and nothing else.
    FloorRouter,
    /// The same without those of the clusters' filters: what is above this is the price of seeing each attempt.
    FloorDownstream,
    /// The balancer, filter engine.
    Filter,
    /// The balancer, router engine.
    Router,
    /// The filter engine with `affinity` by `prompt_cache_key`.
    FilterAffinity,
    /// The router engine with `affinity` by `prompt_cache_key`.
    RouterAffinity,
    /// The filter engine with `usage: false`: what the others have more is the price of counting tokens.
    FilterUncounted,
    /// The router engine with that.
    RouterUncounted,
    /// The filter engine without what reads answers: `usage: false`, `retry.stream_start: 0s`.
    FilterLean,
    /// The router engine without that.
    RouterLean,
    /// The filter engine with everything that can be switched on for a chat.
    FilterEverything,
    /// The router engine with that.
    RouterEverything,
    /// The filter engine of another build.
    FilterAgainst,
    /// The router engine of another build.
    RouterAgainst,
    /// The LiteLLM proxy.
    LiteLlm,
}

impl Variant {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 23] = [
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

    /// What the command line calls it.
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

    /// The variant of this [`key`](Self::key).
    pub fn named(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.key() == key)
    }

    /// Whether it is measured unless others are named.
    pub fn is_usual(self) -> bool {
        self != Self::FloorDownstream
    }

    /// Whether it makes the balancer's host calls in its place.
    pub fn is_floor(self) -> bool {
        matches!(
            self,
            Self::FloorFilter | Self::FloorRouter | Self::FloorDownstream
        )
    }

    /// Whether it is the balancer.
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

    /// Whether it is the balancer as it is shipped.
    fn is_default(self) -> bool {
        matches!(self, Self::Filter | Self::Router)
    }

    /// Whether it has the router engine.
    pub fn is_router(self) -> bool {
        matches!(
            self,
            Self::Router
                | Self::RouterAffinity
                | Self::RouterUncounted
                | Self::RouterLean
                | Self::RouterEverything
                | Self::RouterAgainst
        )
    }

    /// A word for the few variants that curves are measured of.
    pub fn engine_name(self) -> &'static str {
        match self {
            _ if self.is_router() => "router",
            _ if self.is_balancer() => "filter",
            _ => "plain Envoy",
        }
    }

    fn is_against(self) -> bool {
        matches!(self, Self::FilterAgainst | Self::RouterAgainst)
    }

    fn has_affinity(self) -> bool {
        matches!(self, Self::FilterAffinity | Self::RouterAffinity)
    }

    fn is_uncounted(self) -> bool {
        matches!(self, Self::FilterUncounted | Self::RouterUncounted)
    }

    /// Whether every request has to arrive with the token.
    pub fn shows_token(self) -> bool {
        self.is_balancer()
            || self.is_floor()
            || matches!(self, Self::Stock | Self::Lua | Self::ExtProc)
    }

    /// Whether a failed request is sent to another backend.
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
            Self::FloorFilter => "floor: filter engine's host calls",
            Self::FloorRouter => "floor: router engine's host calls",
            Self::FloorDownstream => "floor: router engine's, listener only",
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
    /// Requests with a body of so many KiB over 16 connections.
    Body(usize),
    /// Streams over 64 connections.
    Streams,
    /// Streams of [`LONG_STREAM`] events over 16 connections.
    LongStreams,
    /// Requests with a body of 1 KiB and keys of their own over 16 connections.
    Keyed,
    /// Small requests over one connection.
    Alone,
    /// Streams over one connection.
    FirstByte,
    /// The same, the first attempt of each failing.
    FirstByteRetried,
    /// The same, the first attempt of each beginning with an error inside its stream.
    FirstByteFailed,
    /// Requests of 16 KiB while one backend throttles.
    Throttled,
    /// Small requests to an Envoy with so many workers on all cores.
    Workers(u32),
}

/// Events of a long stream.
pub const LONG_STREAM: usize = 1000;

impl Workload {
    /// What is measured in shuffled order.
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

    /// What a single worker and several of them are measured by.
    pub const WORKERS: [Self; 3] = [Self::Workers(1), Self::Workers(2), Self::Workers(4)];

    /// Its name on the command line; those with several workers have none.
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

    /// The condition of this name.
    pub fn named(key: &str) -> Option<Self> {
        Self::SHUFFLED
            .into_iter()
            .find(|workload| workload.key() == key)
    }

    /// The request that is sent.
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

    /// Over how many connections.
    pub fn connections(self) -> usize {
        match self {
            Self::Alone | Self::FirstByte | Self::FirstByteRetried | Self::FirstByteFailed => 1,
            Self::Streams => 64,
            _ => 16,
        }
    }

    /// How long its slices are where the others' are `usual`: a stream begins and ends in few of the short ones.
    pub fn slice(self, usual: Duration) -> Duration {
        match self {
            Self::LongStreams => usual * 16,
            Self::Streams | Self::FirstByte | Self::FirstByteRetried | Self::FirstByteFailed => {
                usual * 4
            }
            _ => usual,
        }
    }

    /// Whether it makes sense for `variant`.
    pub fn suits(self, variant: Variant) -> bool {
        let is_plain = variant == Variant::Envoy;
        match self {
            Self::Keyed => {
                is_plain || variant.is_default() || variant.is_against() || variant.has_affinity()
            }
            // Without keys, affinity changes nothing.
            _ if variant.has_affinity() => false,
            Self::Streams => true,
            // Each slice takes long.
            Self::LongStreams => is_plain || variant.is_balancer(),
            // Tokens are counted in streams at the price of every event, elsewhere once.
            _ if variant.is_uncounted() => false,
            Self::FirstByteRetried => variant.retries(),
            // Nothing else than the balancer retries these.
            Self::FirstByteFailed => {
                variant.is_balancer()
                    && !matches!(variant, Variant::FilterLean | Variant::RouterLean)
            }
            // Plain Envoy, with nothing throttled, is what the others are compared with. The floors, which retry nothing, meet
            // nothing throttled either.
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
