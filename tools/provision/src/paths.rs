//! Where things lie: the workspace, and what is built and fetched for it.

use std::env;
use std::path::{Path, PathBuf};

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

/// A path as a reader wants it: relative to the workspace where it lies inside.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap_or(path)
        .display()
        .to_string()
}
