//! Limits of clients that a rate limit service keeps for all Envoys together.
//!
//! Envoy's own filter `ratelimit` calls the service before the module sees a request, and reports the tokens of the
//! answer when that is over. The service is Envoy's reference service (<https://github.com/envoyproxy/ratelimit>), or
//! another one with its protocol.

mod file;
mod filters;
mod refusals;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::TlsOptions;

pub use self::file::limits_file;
pub(crate) use self::filters::{early_cluster, filters, names_cluster};
pub(crate) use self::refusals::mappers;

/// The cluster of the rate limit service.
pub const SERVICE_CLUSTER: &str = "rate_limit_service";

/// The cluster of requests before the limits have let them pass. It has no endpoint. It exists because Envoy's filter
/// skips requests without a cluster, and because the limits' statistics belong to a cluster.
pub const LIMITS_CLUSTER: &str = "client_limits";

/// The limits' domain, as the rate limit service knows it.
pub(crate) const DOMAIN: &str = "azure_openai";

/// The name for requests without a client's name. No client can have it.
pub(crate) const UNNAMED: &str = "(unnamed)";

/// The default time limit of the service's answer. Each request waits for that answer.
pub const LIMIT_SERVICE_TIMEOUT: Duration = Duration::from_millis(250);

/// The limits, and the service that keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLimits {
    /// The service.
    pub service: LimitService,
    /// The time limit of the service's answer.
    pub timeout: Duration,
    /// The treatment of requests while the service does not answer.
    pub on_failure: OnFailure,
    /// The limits of every client without limits of its own.
    pub default: ClientLimits,
    /// The limits of single clients, by their names.
    pub clients: BTreeMap<String, ClientLimits>,
}

impl SharedLimits {
    /// Whether tokens are limited, for any client.
    pub fn have_tokens(&self) -> bool {
        let mut all = self.clients.values().chain([&self.default]);
        all.any(|it| it.tokens_per_minute.is_some() || it.tokens_per_day.is_some())
    }
}

/// The place of the rate limit service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitService {
    /// Its host name or IP address.
    pub address: String,
    /// Its port, which speaks gRPC.
    pub port: u16,
    /// The TLS options; `None` for plain HTTP/2.
    pub tls: Option<TlsOptions>,
}

/// The treatment of requests while the rate limit service does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They pass, and nothing is limited.
    #[default]
    Pass,
    /// They are answered 503.
    Refuse,
}

/// The limits of one client; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Tokens a minute.
    pub tokens_per_minute: Option<u32>,
    /// Tokens a day.
    pub tokens_per_day: Option<u32>,
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
}

/// One of a client's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    TokensPerMinute,
    TokensPerDay,
    RequestsPerMinute,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::RequestsPerMinute,
    ];

    /// The descriptor's key.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensPerDay => "tokens_per_day",
            Self::RequestsPerMinute => "requests_per_minute",
        }
    }

    /// The window, as the service's file calls it.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::TokensPerMinute | Self::RequestsPerMinute => "minute",
            Self::TokensPerDay => "day",
        }
    }

    pub(crate) const fn of(self, limits: &ClientLimits) -> Option<u32> {
        match self {
            Self::TokensPerMinute => limits.tokens_per_minute,
            Self::TokensPerDay => limits.tokens_per_day,
            Self::RequestsPerMinute => limits.requests_per_minute,
        }
    }
}

impl SharedLimits {
    /// Whether any client has a limit of this kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        let mut all = self.clients.values().chain([&self.default]);
        all.any(|limits| kind.of(limits).is_some())
    }
}

/// The subject of a filter. Each subject has its own filter, so that an answer says which of them it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Tokens,
    Requests,
}

impl Subject {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }

    pub(crate) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::TokensPerMinute | Kind::TokensPerDay => Self::Tokens,
            Kind::RequestsPerMinute => Self::Requests,
        }
    }
}
