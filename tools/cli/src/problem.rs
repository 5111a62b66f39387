//! What is wrong with a file, and where.

use std::fmt;

use azure_openai_balancer::core::config::without_secrets;

use crate::document::{Document, Position};
use crate::suggestion::with_suggestion;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    at: Position,
    path: String,
    text: String,
}

impl Problem {
    /// A problem of the field `path`, or of the whole where that is empty.
    pub(crate) fn new(at: Position, path: &str, text: String) -> Self {
        Self {
            at,
            path: path.to_owned(),
            text,
        }
    }

    /// The path of the field, without secrets; empty for the whole file.
    pub(crate) fn path(&self) -> String {
        without_secrets(&self.path).to_string()
    }

    /// The mistake and the expected form.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.at
    }
}

/// `LINE:COLUMN: PATH: what is wrong`, as compilers have it and editors find it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.at, self.text),
            // A path has the names of fields, and so whatever was put in the place of one.
            path => write!(f, "{}: {}: {}", self.at, without_secrets(path), self.text),
        }
    }
}

/// Collects what is wrong with a document.
pub(crate) struct Problems<'d> {
    document: &'d Document,
    found: Vec<Problem>,
}

impl<'d> Problems<'d> {
    pub(crate) fn of(document: &'d Document) -> Self {
        Self {
            document,
            found: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, path: &str, text: impl Into<String>) {
        let text = with_suggestion(path, text.into());
        // What should not be there is its key; what should be otherwise is its value.
        let at = match text.starts_with("unknown field") {
            true => self.document.key_position(path),
            false => self.document.position(path),
        };
        self.found.push(Problem::new(at, path, text));
    }

    /// All problems in the order of the file; none is good.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        match self.found.is_empty() {
            true => Ok(value),
            false => Err(self.in_order()),
        }
    }

    /// All of them, in the order of the file.
    pub(crate) fn in_order(mut self) -> Vec<Problem> {
        self.found
            .sort_by_key(|problem| (problem.at.line, problem.at.column));
        self.found
    }

    /// A problem's path and text, where the path is one of the file. The names of fields may have colons.
    pub(crate) fn split<'p>(&self, problem: &'p str) -> Option<(&'p str, &'p str)> {
        let ends = problem.match_indices(": ").map(|(at, _)| at);
        let parts = ends.filter_map(|at| Some((problem.get(..at)?, problem.get(at + 2..)?)));
        parts.filter(|(path, _)| self.document.has(path)).last()
    }

    /// Whether there is anything at `path` in the file.
    pub(crate) fn is_written(&self, path: &str) -> bool {
        self.document.has(path)
    }

    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}
