//! Objects that live on one backend: stored responses, files, batches, threads and others.
//!
//! Only the backend that made an object knows it, so later requests for the object must reach that backend. This needs
//! no store: the client's id names the resource, as in `resp_68a1.b3k9x0q` for `resp_68a1`. The filter adds this
//! suffix, a [`Tag`](ids::Tag), to ids in answers and removes it from requests. So tags survive restarts, and every
//! replica that has the backend in its configuration understands them. [`objects`] recognizes the ids.

pub mod ids;
pub mod objects;
