//! A small rate limit service, which stands in for Envoy's reference service (`envoyproxy/ratelimit`) in tests and in the demo.
//!
//! It speaks the same protocol (`envoy.service.ratelimit.v3.RateLimitService`), reads the same file of limits, and counts in the same
//! fixed windows, in memory or in Redis. It is no product: use the reference service in production.
//!
//! ```
//! use ratelimit::{Limits, Server, Settings};
//!
//! let limits = Limits::parse("
//! domain: azure_openai
//! descriptors:
//! - {key: client, rate_limit: {unit: minute, requests_per_unit: 1000}}
//! ")?;
//! let server = Server::start(Settings::new(limits))?;
//! println!("{}", server.address());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod limits;
mod server;
mod service;
mod storage;
mod window;

pub use crate::limits::{Limit, Limits};
pub use crate::server::{Server, Settings};
pub use crate::storage::Store;
pub use crate::window::{Clock, Unit};
