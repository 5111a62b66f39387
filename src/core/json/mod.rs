//! JSON in a stream: facts in requests and ids in answers, read without building a document.
//!
//! A body arrives in chunks that end anywhere. It may have hundreds of megabytes and need not be well-formed. The
//! [`lexer`] reads each byte once, has some hundred bytes of state, and knows the key of every string. Two readers use
//! it: [`scan`] finds the facts in a request that decide its backend. [`tagger`] finds the places for tags in an
//! answer, which is JSON or an event stream.

pub mod key;
pub mod lexer;
pub mod nesting;
pub mod scan;
pub mod tagger;
mod word;
