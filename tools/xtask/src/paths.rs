//! Where things lie: the workspace, what is built and what is fetched.

use std::env;
use std::path::{Path, PathBuf};

use crate::pins;

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    // Cargo sets the variable when it runs the program; the compiled-in value serves a program started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .ancestors()
        .nth(2)
        .map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => env::current_dir().map_or_else(
            |_| PathBuf::from(&directory),
            |current| current.join(&directory),
        ),
        _ => workspace().join("target"),
    }
}

/// Where fetched tools lie: always `target` in the workspace, so that builds into different places share them.
pub fn tools() -> PathBuf {
    workspace().join("target")
}

/// The target directory of the builds for wasm32-wasip1. Not the one of the host: the compiler may be another one.
pub fn wasm_target() -> PathBuf {
    target().join("wasm")
}

/// The finished module.
pub fn module() -> PathBuf {
    target().join("wasm32-wasip1/release/azure_openai_balancer.wasm")
}

/// The copy of the module that the checked-in configurations name: always below the workspace, where Envoy runs.
pub fn configured_module() -> PathBuf {
    tools().join("azure_openai_balancer.wasm")
}

/// Debian's compiler with its wasm32-wasip1 library.
pub fn debian_rust() -> PathBuf {
    tools().join("debian-rust")
}

/// The pinned Envoy binary of this version.
pub fn envoy(pinned: &pins::Envoy) -> PathBuf {
    tools().join("envoy").join(pinned.version).join("envoy")
}

/// Debian's Chromium.
pub fn chromium() -> PathBuf {
    tools().join("chromium")
}

/// The Python environment that holds the openai SDK.
pub fn python() -> PathBuf {
    tools().join("python")
}

/// The Python environment that holds the LiteLLM proxy.
pub fn litellm() -> PathBuf {
    tools().join("litellm")
}

/// Debian's Redis server.
pub fn redis() -> PathBuf {
    tools().join("redis")
}

/// The counts of the last test run, for the end of a longer run.
pub fn counts() -> PathBuf {
    tools().join("test-counts.txt")
}

/// A path as a reader wants it: relative to the workspace where it lies inside.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap_or(path)
        .display()
        .to_string()
}
