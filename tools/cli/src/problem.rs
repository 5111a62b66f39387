//! Problems of a file, with their places.

use std::fmt;

use azure_openai_balancer::core::config::{without_secrets, Fault};

use crate::document::{Document, Position};
use crate::suggestion::suggestion;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    at: Position,
    path: String,
    text: String,
}

impl Problem {
    /// A problem of the field `path`, or of the whole file if `path` is empty.
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

    /// The place of the problem.
    pub fn position(&self) -> Position {
        self.at
    }
}

/// `LINE:COLUMN: PATH: the problem`, the form of compilers, which editors recognize.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.at, self.text),
            // A path contains the names of fields, and so any text that stands in place of one.
            path => write!(f, "{}: {}: {}", self.at, without_secrets(path), self.text),
        }
    }
}

/// Collects the problems of a document.
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

    pub(crate) fn add(&mut self, path: &str, fault: impl Into<Fault>) {
        let fault = fault.into();
        let (at, text) = match &fault {
            // The place of an unknown field is its key. The place of a wrong value is the value.
            Fault::Unknown { known } => {
                let text = match suggestion(path, known) {
                    Some(suggestion) => {
                        format!(
                            "unknown field, {suggestion} Use one of {}",
                            known.join(", ")
                        )
                    }
                    None => fault.to_string(),
                };
                (self.document.key_position(path), text)
            }
            _ => (self.document.position(path), fault.to_string()),
        };
        self.found.push(Problem::new(at, path, text));
    }

    /// The value without problems, or all problems in the order of the file.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        match self.found.is_empty() {
            true => Ok(value),
            false => Err(self.in_order()),
        }
    }

    /// All problems, in the order of the file.
    pub(crate) fn in_order(mut self) -> Vec<Problem> {
        self.found
            .sort_by_key(|problem| (problem.at.line, problem.at.column));
        self.found
    }

    /// Whether the file has a value at `path`.
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
