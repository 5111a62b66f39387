//! Counters: in memory, or in Redis, where several services share them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::Client;

/// The time limit of Redis's answer.
const LIMIT: Duration = Duration::from_secs(2);

/// The number of counters from which on those of past windows are removed.
const MANY: usize = 10_000;

/// The place of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// This process alone.
    #[default]
    Memory,
    /// The Redis at this URL: `redis://host:6379`, or `redis+unix:///path` for a unix socket.
    Redis(String),
}

/// One addition to a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// The counter's name, with its window.
    pub key: String,
    /// The number of hits; 0 only reads the counter.
    pub hits: u64,
    /// The end of the window, in seconds since 1970.
    pub end: u64,
    /// The seconds for which the counter must be kept.
    pub lives: u64,
}

/// The counters.
pub(crate) enum Counters {
    Memory(Mutex<HashMap<String, Counter>>),
    Redis(Box<ConnectionManager>),
}

/// One counter in memory.
pub(crate) struct Counter {
    hits: u64,
    end: u64,
}

impl Counters {
    /// Redis is connected with the first charge, and again whenever the connection is lost.
    pub(crate) fn open(store: &Store) -> Result<Self, String> {
        let url = match store {
            Store::Memory => return Ok(Self::Memory(Mutex::default())),
            Store::Redis(url) => url,
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT))
            .set_max_delay(Duration::from_millis(200))
            .set_number_of_retries(1);
        let manager = Client::open(url.as_str())
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, config));
        match manager {
            Ok(manager) => Ok(Self::Redis(Box::new(manager))),
            // The URL may have a password.
            Err(error) => Err(format!("the URL of Redis: {error}")),
        }
    }

    /// Adds to the counters, each of which may exceed its limit. Returns the new counts, in the same order.
    pub(crate) async fn add(&self, charges: &[Charge], now: u64) -> Result<Vec<u64>, String> {
        match self {
            Self::Memory(counters) => {
                let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
                if counters.len() > MANY {
                    counters.retain(|_, counter| counter.end > now);
                }
                let counts = charges.iter().map(|charge| {
                    let counter = counters.entry(charge.key.clone());
                    let counter = counter.or_insert(Counter {
                        hits: 0,
                        end: charge.end,
                    });
                    counter.hits = counter.hits.saturating_add(charge.hits);
                    counter.hits
                });
                Ok(counts.collect())
            }
            Self::Redis(_) if charges.is_empty() => Ok(Vec::new()),
            Self::Redis(manager) => {
                let mut pipeline = redis::pipe();
                for Charge {
                    key, hits, lives, ..
                } in charges
                {
                    pipeline.cmd("INCRBY").arg(key).arg(hits);
                    pipeline.cmd("EXPIRE").arg(key).arg(lives).ignore();
                }
                let mut connection = ConnectionManager::clone(manager);
                let counts = pipeline.query_async(&mut connection).await;
                counts.map_err(|error| format!("Redis: {error}"))
            }
        }
    }
}
