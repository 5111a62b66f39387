//! The paths of the workspace, of its build results, and of fetched tools.

use std::env;
use std::path::{Path, PathBuf};

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    // Cargo sets the variable when it runs a program. A program that is started by hand uses the path from its compilation.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .ancestors()
        .nth(2)
        .map_or_else(|| package.clone(), Path::to_path_buf)
}

/// The folder of cargo's build results: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => env::current_dir().map_or_else(
            |_| PathBuf::from(&directory),
            |current| current.join(&directory),
        ),
        _ => workspace().join("target"),
    }
}

/// The folder of fetched tools: always `target` in the workspace, so that builds with different target folders share it.
pub fn tools() -> PathBuf {
    workspace().join("target")
}

/// A path as text for messages. Paths inside the workspace are relative to it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap_or(path)
        .display()
        .to_string()
}
