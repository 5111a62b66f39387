//! Reading a request's body for what decides where it goes, while it is held.

use super::config::Config;
use super::json::scan::Scan;
use super::multipart::Scanner;
use super::request::{BodyForm, Found, Need, Request};

/// The reading of one body.
#[derive(Debug, Default)]
pub enum Inspection {
    /// There is nothing to look for, or it was found.
    #[default]
    Done,
    /// A JSON document. What it says last counts, so it is read to its end.
    Json(Box<Scan>),
    /// A form, which is read until the value has come.
    Form(Box<Scanner>),
}

impl Inspection {
    /// The reading that `request`, which has a body, needs.
    pub fn of(request: &Request, config: &Config) -> Self {
        match (request.needs(config), &request.form) {
            (Need::Nothing, _) => Self::Done,
            (_, BodyForm::Json) => Self::Json(Box::default()),
            (_, BodyForm::Multipart(content_type)) => match Scanner::new(content_type, "model") {
                Some(scanner) => Self::Form(Box::new(scanner)),
                None => Self::Done,
            },
        }
    }

    /// Whether more of the body has to be read.
    pub fn is_under_way(&self) -> bool {
        !matches!(self, Self::Done)
    }

    /// Reads the next chunk; `end` where it is the last. What was found, once that is all there is to find.
    pub fn push(&mut self, chunk: &[u8], end: bool) -> Option<Found> {
        let over = match self {
            Self::Done => return None,
            Self::Json(scan) => {
                scan.push(chunk);
                end
            }
            Self::Form(scanner) => {
                scanner.push(chunk);
                end || scanner.is_done()
            }
        };
        if !over {
            return None;
        }
        Some(match std::mem::take(self) {
            Self::Done => Found::Nothing,
            Self::Json(scan) => scan.finish().map_or(Found::Nothing, Found::Json),
            Self::Form(scanner) => scanner.value().cloned().map_or(Found::Nothing, Found::Form),
        })
    }

    /// Reads no further.
    pub fn give_up(&mut self) {
        *self = Self::Done;
    }
}
