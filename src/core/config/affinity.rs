//! The rule that keeps requests together on one backend.

use super::field::{text, Text};
use super::fields::{affinity, plugin};
use super::forms::{is_header_name, HEADER_FORM};
use super::reader::{refused, Object, Problems};
use crate::prelude::*;

/// The range of `affinity.most`, for error messages.
pub(super) const MOST_FORM: &str = "a number from 1 to 10, such as 1.25";

/// The rule by which requests with equal keys stay on one backend, so that its prompt cache serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityRules {
    /// The place of the key in a request.
    pub by: AffinityKey,
    /// The most attempts that a backend gets, in percent of its fair share.
    pub most_percent: u16,
}

/// The place of the affinity key in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityKey {
    /// The field `prompt_cache_key` of the body. Clients send the same key with prompts that begin alike.
    ///
    /// Source: <https://platform.openai.com/docs/guides/prompt-caching>
    PromptCacheKey,
    /// The request header with this name, in lower case.
    Header(String),
    /// The client's name, from the header [`HeaderNames::client`](super::HeaderNames::client).
    Client,
}

/// The header with the key, in `affinity.by`.
const HEADER: Text = text("header", HEADER_FORM, is_header_name).required();

/// Reads the rule, if there is one.
#[inline(never)]
pub(super) fn read_affinity(root: &mut Object<'_>, problems: &Problems) -> Option<AffinityRules> {
    if root.is_null(&plugin::AFFINITY) {
        return None;
    }
    let mut object = root.object(&plugin::AFFINITY)?;
    let most_percent = object.hundredths(&affinity::MOST);
    let by = object
        .required(affinity::BY.name, affinity::BY.form)
        .and_then(|by| {
            if by.is_object() {
                let mut by = Object::new(object.path_of(affinity::BY.name), by, problems)?;
                let header = by.text(&HEADER);
                by.finish();
                return header.map(AffinityKey::Header);
            }
            match by.as_str() {
                Some("prompt_cache_key") => Some(AffinityKey::PromptCacheKey),
                Some("client") => Some(AffinityKey::Client),
                _ => {
                    object.problem(affinity::BY.name, refused(by, affinity::BY.form));
                    None
                }
            }
        });
    object.finish();
    Some(AffinityRules {
        by: by?,
        most_percent: u16::try_from(most_percent).unwrap_or(u16::MAX),
    })
}
