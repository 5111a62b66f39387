//! Edits of headers.

use crate::prelude::*;
use alloc::borrow::Cow;

/// An edit of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Sets a header, and replaces its values.
    Set(&'a str, Cow<'a, str>),
    /// Removes a header.
    Remove(&'a str),
}

impl<'a> Edit<'a> {
    /// The name and value, if the edit sets a header.
    pub fn value(&self) -> Option<(&'a str, &Cow<'a, str>)> {
        match self {
            Self::Set(name, value) => Some((*name, value)),
            Self::Remove(_) => None,
        }
    }
}

/// Edits of headers in order. The first `FEW` need no allocation.
#[derive(Clone, Debug)]
pub struct Edits<'a, const FEW: usize> {
    few: [Edit<'a>; FEW],
    len: usize,
    more: Vec<Edit<'a>>,
}

impl<const FEW: usize> Default for Edits<'_, FEW> {
    fn default() -> Self {
        const NONE: Edit<'_> = Edit::Remove("");
        Self {
            few: [NONE; FEW],
            len: 0,
            more: Vec::new(),
        }
    }
}

impl<'a, const FEW: usize> Edits<'a, FEW> {
    /// Sets a header, and replaces its values.
    pub fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        self.push(Edit::Set(name, value.into()));
    }

    /// Removes a header.
    pub fn remove(&mut self, name: &'a str) {
        self.push(Edit::Remove(name));
    }

    fn push(&mut self, edit: Edit<'a>) {
        match self.few.get_mut(self.len) {
            Some(place) => {
                *place = edit;
                self.len += 1;
            }
            None => self.more.push(edit),
        }
    }

    /// The edits in order.
    pub fn iter(&self) -> impl Iterator<Item = &Edit<'a>> {
        let few = self.few.get(..self.len).unwrap_or_default();
        few.iter().chain(&self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_edits_keeps_its_order() {
        let names: Vec<_> = (0..9).map(|number| number.to_string()).collect();
        for count in 0..names.len() {
            let mut edits = Edits::<3>::default();
            for name in &names[..count] {
                edits.remove(name);
            }
            let expected: Vec<_> = names[..count]
                .iter()
                .map(|name| Edit::Remove(name))
                .collect();
            assert!(edits.iter().eq(&expected));
        }
    }
}
