//! Managed identity: from a token service's wire format to a token that is fetched once for all workers.
//!
//! - [`fetch`] makes the calls for a token. [`source`] has the requests and answers of IMDS and App Service, `entra`
//!   those of Entra ID.
//! - [`claims`] reads a token's claims.
//! - [`record`] is the state that the workers share, with its state machine: absent, fetching, valid, refreshing,
//!   failed.
//! - [`store`] is one worker's view of the record, and [`keeper`] its part of the work.
//! - [`credentials`] has the credential of each backend.

pub mod claims;
pub mod credentials;
mod entra;
pub mod fetch;
pub mod keeper;
pub mod record;
pub mod source;
pub mod store;

pub use credentials::{Credentials, Identities};
pub use fetch::{Call, Fetch, Next};
pub use keeper::Keeper;
pub use record::{Before, Record, State};
pub use source::{Answer, Failure, Fetched};
pub use store::{Authorization, Renewal, TokenStore};
