//! The version of the tool.

/// The version with the revision that the tool was built from, where the build knew one.
pub fn version() -> &'static str {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match option_env!("AOAI_TOOL_REVISION") {
        Some(revision) => {
            // It lives as long as the program, which asks once.
            String::leak(format!("{VERSION} (revision {revision})"))
        }
        None => VERSION,
    }
}
