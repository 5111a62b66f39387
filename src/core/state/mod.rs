//! Objects that live on one backend: stored responses, files, batches, threads and their like.
//!
//! Only the backend that made an object knows it, so a client that names it later must reach that backend. No store is needed
//! for that: the id that the client sees says where the object lives, `resp_68a1` becomes `resp_68a1.b3k9x0q`. The suffix, a
//! [`Tag`](ids::Tag), is added to ids on their way down and cut off on their way up, so it survives restarts and is understood
//! by every replica that has the backend in its configuration. Which strings are such ids says [`objects`].

pub mod ids;
pub mod objects;
