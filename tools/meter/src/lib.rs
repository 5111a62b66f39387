//! Counts the cost of a request in the built module, without a clock: instructions, callbacks, host calls, and bytes
//! across the module's boundary. The numbers are equal on all machines, so a test can compare them with a budget. The same runs
//! decide the [layout] of the module's code.
//!
//! The module runs in an interpreter, with added counters ([`module`]), inside the mock host of the adapter's tests.
//! The mock host calls a native module's callbacks as C symbols, and offers host calls as C symbols. This crate defines
//! the former (`callbacks`) and calls the latter (`imports`), so the mock host notices no difference.

pub mod budget;
pub mod cost;
pub mod layout;
pub mod module;
pub mod paths;

mod callbacks;
mod imports;
mod instrument;
mod marks;
#[cfg(test)]
mod testing;
mod wasi;
