//! What is wrong with a configuration, and where.

use core::fmt;

use super::shown::without_secrets;
use crate::prelude::*;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path as it is written, such as `backends[0].weight`; empty for the whole configuration.
    pub path: String,
    /// What is wrong with the field.
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

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has to be there.
    Missing {
        /// Why nothing else can stand for it, if something else could.
        why: Option<String>,
        /// What it should be.
        form: String,
    },
    /// Its value is not of the form that it must have.
    Refused {
        /// The value, without what may be a secret.
        value: String,
        /// What it should be.
        form: String,
    },
    /// There is no such field.
    Unknown {
        /// The fields that there are.
        known: Vec<&'static str>,
    },
    /// Anything else, in words.
    Other(String),
}

impl Fault {
    /// A field that has to be there, of this form.
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

/// Everything that is wrong with a configuration, one line each: the field's path, the value and the expected form.
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
        // A path has the names of fields, and so whatever was put in the place of one.
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
