//! Rendering: what is asked for, and what is made of it.

use crate::check::check_short;
use crate::document::Document;
use crate::expand::Expanded;
use crate::plugin::{Engine, Plugin};
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
    match target {
        Target::Envoy => fleet(text, options).map(|fleet| render::envoy(&fleet)),
    }
}

/// What the Envoy configuration of a short form is made from.
///
/// # Errors
/// Everything that is wrong with the short form, in the order of the file.
pub fn fleet(text: &str, options: Options) -> Result<render::Fleet, Vec<Problem>> {
    let (plugin, expanded) = read(text, options)?;
    Ok(crate::fleet::fleet(&plugin, &expanded, options.open))
}

/// The short form in `text`, checked.
fn read(text: &str, options: Options) -> Result<(Plugin, Expanded), Vec<Problem>> {
    let document = Document::parse(text).map_err(|problem| vec![problem])?;
    check_short(&document, options.engine)
}
