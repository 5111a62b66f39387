//! The LiteLLM proxy, for the benchmarks only.

use std::path::PathBuf;

use anyhow::Result;

use crate::{paths, pins, python};

/// Installs the proxy, about 150 MB, unless it is there, and returns its program.
///
/// # Errors
/// It cannot be installed.
pub fn ensure() -> Result<PathBuf> {
    let wanted = format!("litellm[proxy]=={}", pins::LITELLM);
    python::program(&paths::litellm(), &wanted, "litellm")
}
