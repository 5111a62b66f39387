//! The version of the tool.

/// The version, with the revision that the tool was built from, if the build knew it.
pub fn version() -> &'static str {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match option_env!("AOAI_TOOL_REVISION") {
        Some(revision) => {
            // Leaked once: the text lives as long as the program.
            String::leak(format!("{VERSION} (revision {revision})"))
        }
        None => VERSION,
    }
}
