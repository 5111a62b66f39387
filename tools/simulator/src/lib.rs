//! Simulated Azure OpenAI resources and identity endpoint, for tests, demos and benchmarks.
//!
//! ```
//! use simulator::{BackendSettings, Behaviour, Settings, Simulator};
//!
//! let simulator = Simulator::start(Settings {
//!     backends: vec![BackendSettings::new("east"), BackendSettings::new("west")],
//!     ..Settings::default()
//! })?;
//! simulator.backend("east").set(Behaviour::throttled(7).times(1));
//! assert_eq!(simulator.backend("west").count(), 0);
//! # Ok::<(), std::io::Error>(())
//! ```

mod account;
mod admin;
mod audit;
mod azure;
mod backend;
mod behaviour;
mod body;
mod certificates;
mod echo;
mod exchange;
mod imds;
mod realtime;
mod script;
mod server;
mod settings;
mod simulator;
mod tokens;

pub use crate::account::Account;
pub use crate::audit::RecordedRequest;
pub use crate::azure::Api;
pub use crate::backend::BackendHandle;
pub use crate::behaviour::{
    Answer, Behaviour, Encoding, Exact, Failure, HalfHead, Raw, SlowBody, Stream, Unread, When,
};
pub use crate::imds::{Assertion, Expires, ImdsAnswer, ImdsBehaviour, ImdsHandle};
pub use crate::server::Break;
pub use crate::settings::{
    Auth, BackendSettings, ContentFilter, EntraSettings, ImdsSettings, Settings, Tls,
};
pub use crate::simulator::Simulator;
pub use crate::tokens::TokenCheck;
