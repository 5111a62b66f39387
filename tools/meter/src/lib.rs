//! Counts what a request costs the built module, without a clock: instructions, callbacks, host calls and bytes across the
//! module's boundary. The numbers are the same on every machine, so that a test can hold them to a budget.
//!
//! The module runs in an interpreter, with counters put into it ([`module`]). Around it is the mock host of the adapter's tests:
//! that calls a native module's callbacks as C symbols and offers it host calls as C symbols, so this crate defines the former
//! (`callbacks`) and calls the latter (`imports`), and the mock host does not know the difference.

pub mod budget;
pub mod cost;
pub mod module;
pub mod paths;

mod callbacks;
mod imports;
mod instrument;
mod wasi;
