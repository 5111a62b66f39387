//! Objects that live on one backend: which backend makes them, and the ids that clients see.

use super::fields::{plugin, state};
use super::reader::Object;
use super::redact::redacted_text;
use super::Backend;
use crate::prelude::*;

/// The name of a backend, for error messages.
pub(super) const HOME_FORM: &str = "the name of one of the backends";

/// The backend for new objects, and the ids that clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateRules {
    /// The backend for lists and for objects whose ids carry no tag. If it is `None` or lacks the API, the first
    /// backend with the API takes its place.
    pub home: Option<usize>,
    /// The ids that clients see.
    pub ids: Ids,
}

/// The ids that clients see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// Ids name the backend, so every backend can make objects.
    #[default]
    Tagged,
    /// Ids are the backends' own, so the home backend makes all objects.
    Plain,
}

#[inline(never)]
pub(super) fn read_state(root: &mut Object<'_>, backends: &[Backend]) -> StateRules {
    let Some(mut object) = root.object(&plugin::STATE) else {
        return StateRules::default();
    };
    let home = object.text(&state::HOME);
    let index = home.as_ref().and_then(|home| {
        let index = backends.iter().position(|backend| backend.name == *home);
        if index.is_none() && !backends.is_empty() {
            let problem = format!("{} is not allowed; use {HOME_FORM}", redacted_text(home));
            object.problem(state::HOME.name, problem);
        }
        index
    });
    let ids = object.choice(&state::IDS);
    object.finish();
    StateRules { home: index, ids }
}
