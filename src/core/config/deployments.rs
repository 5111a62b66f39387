//! The deployments of a backend, as its configuration names them. Azure ignores the case of deployment names.

use crate::prelude::*;

/// A backend's deployments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployments {
    /// Pairs of the name that clients use, in lower case, and the backend's own name. Sorted by the former.
    aliases: Vec<(String, String)>,
    /// The treatment of deployments that are not listed.
    pub unlisted: Unlisted,
}

impl Deployments {
    /// Whether no deployment is listed.
    pub fn is_empty(&self) -> bool {
        self.aliases.is_empty()
    }

    /// Adds the name that clients use, with the backend's own name.
    #[inline(never)]
    pub fn add(&mut self, name: &str, own: &str) {
        let name = name.to_ascii_lowercase();
        let place = self.aliases.partition_point(|(known, _)| *known < name);
        self.aliases.insert(place, (name, own.to_owned()));
    }

    /// The names that clients use, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(|(name, _)| name.as_str())
    }

    /// The backend's own name of the deployment that clients call `name`.
    pub fn alias(&self, name: &str) -> Option<&str> {
        let place = self
            .aliases
            .binary_search_by(|(known, _)| known.bytes().cmp(lower_case(name)));
        self.aliases.get(place.ok()?).map(|(_, own)| own.as_str())
    }
}

fn lower_case(name: &str) -> impl Iterator<Item = u8> + '_ {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// The treatment of deployments that a backend does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// The backend has them, under the names that clients use.
    #[default]
    Pass,
    /// The backend does not have them.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_order_and_case() {
        let mut deployments = Deployments::default();
        assert!(deployments.is_empty());
        for name in ["m", "Z", "a", "mM"] {
            deployments.add(name, &format!("own-{name}"));
        }
        assert!(deployments.names().eq(["a", "m", "mm", "z"]));
        for (name, own) in [
            ("a", "own-a"),
            ("A", "own-a"),
            ("m", "own-m"),
            ("mm", "own-mM"),
            ("Mm", "own-mM"),
            ("z", "own-Z"),
            ("Z", "own-Z"),
        ] {
            assert_eq!(deployments.alias(name), Some(own));
        }
        for other in ["", "b", "own-a", "zz", "É"] {
            assert_eq!(deployments.alias(other), None);
        }
    }
}
