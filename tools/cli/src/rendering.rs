//! Rendering: what is asked for, and what is made of it.

use crate::check::check_short;
use crate::document::Document;
use crate::fleet::fleet;
use crate::plugin::Engine;
use crate::Problem;

/// What a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Envoy, as one file that it starts from.
    Envoy,
}

/// What is asked for beside the short form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Another engine than the file's.
    pub engine: Option<Engine>,
    /// Everyone may ask.
    pub open: bool,
}

/// Makes a configuration of the short form in `text`.
///
/// # Errors
/// Everything that is wrong with the short form, in the order of the file.
pub fn render(target: Target, text: &str, options: Options) -> Result<String, Vec<Problem>> {
    let document = Document::parse(text).map_err(|problem| vec![problem])?;
    let checked = check_short(&document, options.engine)?;
    let (Some(plugin), Some(expanded)) = (&checked.plugin, &checked.expanded) else {
        return Ok(String::new());
    };
    Ok(match target {
        Target::Envoy => render::envoy(&fleet(plugin, expanded, options.open)),
    })
}
