//! Managed identity: from a token service's wire format to a token that is fetched once for all workers.
//!
//! [`fetch`] makes the calls that a token takes; [`source`] knows the requests and answers of IMDS and App Service, `entra` those
//! of Entra ID. [`claims`] reads what a token says of itself, [`record`] is the state
//! the workers share and the machine that moves it: absent, fetching, valid, refreshing, failed. [`store`] is one worker's view
//! of that record, [`keeper`] its share of the work, and [`credentials`] says what each backend is shown.

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
