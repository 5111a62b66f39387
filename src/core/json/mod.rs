//! JSON that passes by: what a request says and which ids an answer carries, read from bytes without building a document.
//!
//! A body comes in chunks that end anywhere, may have hundreds of megabytes and need not be well-formed. The [`lexer`] reads
//! each byte once, keeps some hundred bytes of state, and knows of every string under which key it stands. On it stand
//! [`scan`], which finds in a request what decides its backend, and [`tagger`], which finds in an answer, JSON or a stream of
//! events, where the tags of ids belong.

pub mod key;
pub mod lexer;
pub mod scan;
pub mod tagger;
