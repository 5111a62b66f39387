//! Fetches the dependencies of builds and tests, in the versions of [`pins`], into `target/`. Nothing is installed outside of the
//! workspace.

pub mod debian;
pub mod envoy;
pub mod files;
pub mod library;
pub mod paths;
pub mod pins;
pub mod process;
pub mod python;
pub mod revision;
