//! The tool `azure-openai-balancer`: it makes a checked, complete configuration from a list of Azure OpenAI resources.
//!
//! [`check`] reads a plugin configuration or a [`list`] of backends, and reports every problem with its line.
//! [`render`](fn@render) makes a configuration from the list of backends, for [`Envoy`](Target::Envoy),
//! [`Istio`](Target::Istio) or [`Envoy Gateway`](Target::EnvoyGateway). Both use the module's own parser.

pub mod arguments;
pub mod document;
pub mod list;
pub mod plugin;
pub mod schema;

mod check;
mod envoy_gateway;
mod expand;
mod fields;
mod files;
mod fleet;
mod istio;
mod keys;
mod kubernetes;
mod limits;
mod problem;
mod rendering;
mod report;
mod strict;
mod suggestion;
mod summary;
mod typed;
mod validation;
mod version;
mod warnings;

pub use crate::arguments::run;
pub use crate::check::{check, Checked, Form};
pub use crate::fields::with_tables;
pub use crate::files::{file_table, ExpectedFile};
pub use crate::keys::{add_key, key_lines, keys, trial};
pub use crate::problem::Problem;
pub use crate::rendering::{fleet, render, rendered, Options, Rendered, Target};
pub use crate::report::report;
pub use crate::summary::summary;
pub use crate::validation::validate;
pub use crate::version::version;
