//! From a list of Azure OpenAI backends to a complete, commented Envoy configuration.
//!
//! A [`Fleet`] describes the parts: the backends, the identity endpoint, the listeners, the module and its
//! configuration. [`envoy`] turns it into one file that Envoy starts with. [`bootstrap`] and [`listener`] split that
//! text in two, for users who change the listener while Envoy runs.
//!
//! ```
//! let yaml = render::envoy(&render::demo_fleet());
//! assert!(yaml.contains("cluster_header: \"x-aoai-cluster\""));
//! ```
//!
//! The text is written for people first. It has comments, keeps one order, and changes only where the fleet changes.
//! All texts of the fleet are quoted strings ([`yaml::quoted`]), so no name can break out of its place.

pub mod parts;
pub mod yaml;

mod bootstrap;
mod clients;
mod clusters;
mod connections;
mod demo;
mod fleet;
mod json;
mod limits;
mod listener;
mod route;
mod status;
mod token_file;

pub use crate::bootstrap::{bootstrap, envoy};
pub use crate::clients::{keys_file, Key};
pub use crate::demo::demo_fleet;
pub use crate::fleet::{
    minimal_plugin, Admin, Authority, Backend, Certificate, Clients, Engine, Fleet, Identity,
    Listener, Status, TlsOptions, TokenFile, TokenIssuer, CLIENT_HEADER,
};
pub use crate::limits::{
    limits_file, ClientLimits, LimitService, OnFailure, SharedLimits, LIMITS_CLUSTER,
    LIMIT_SERVICE_TIMEOUT, SERVICE_CLUSTER,
};
pub use crate::listener::{listener, LISTENER_NAME};
pub use crate::status::STATUS_NAME;
