//! Problems of a configuration, each with its place.

use core::fmt;

use super::redact::without_secrets;
use crate::prelude::*;

/// A problem of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path, such as `backends[0].weight`. Empty for the whole configuration.
    pub path: String,
    /// The kind of problem.
    pub fault: Fault,
}

/// `PATH: FAULT`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => self.fault.fmt(f),
            path => write!(f, "{path}: {}", self.fault),
        }
    }
}

/// The kind of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The field is required and missing.
    Missing {
        /// The reason why the field's usual default does not apply.
        why: Option<String>,
        /// The expected form.
        form: String,
    },
    /// The value does not have the expected form.
    Refused {
        /// The value, without parts that may be secrets.
        value: String,
        /// The expected form.
        form: String,
    },
    /// No field has this name.
    Unknown {
        /// The names of the fields that are allowed here.
        known: Vec<&'static str>,
    },
    /// Any other problem, as a sentence.
    Other(String),
}

impl Fault {
    /// A required field of this form is missing.
    pub fn missing(form: &str) -> Self {
        Self::Missing {
            why: None,
            form: form.to_owned(),
        }
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        Self::Other(text.to_owned())
    }
}

impl From<fmt::Arguments<'_>> for Fault {
    fn from(text: fmt::Arguments<'_>) -> Self {
        Self::Other(text.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { why: None, form } => write!(f, "is missing; use {form}"),
            Self::Missing {
                why: Some(why),
                form,
            } => write!(f, "is missing, and {why}; use {form}"),
            Self::Refused { value, form } => write!(f, "{value} is not allowed; use {form}"),
            Self::Unknown { known } => write!(f, "unknown field; use one of {}", known.join(", ")),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// All problems of a configuration. It displays one per line: the field's path, the value and the expected form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub(super) problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems in the order of the fields.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        // A path contains the names of unknown fields, and a name may be a secret.
        f.write_str(&without_secrets(&lines.join("\n")))
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
impl ConfigError {
    /// The problems, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        self.problems.iter().map(Problem::to_string).collect()
    }
}
