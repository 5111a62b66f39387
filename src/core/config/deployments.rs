//! The deployments of a backend, as its configuration names them.

/// A backend's deployments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployments {
    /// The names that clients use, each with the backend's own; in the order of the former.
    aliases: Vec<(String, String)>,
    /// What of a name that is not among them.
    pub unlisted: Unlisted,
}

impl Deployments {
    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.aliases.is_empty()
    }

    /// Adds a name that clients use, with the backend's own.
    #[inline(never)]
    pub fn add(&mut self, name: &str, own: &str) {
        let place = self
            .aliases
            .partition_point(|(known, _)| known.as_str() < name);
        self.aliases
            .insert(place, (name.to_owned(), own.to_owned()));
    }

    /// The names that clients use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(|(name, _)| name.as_str())
    }

    /// The backend's own for a name that clients use, where its configuration has one.
    pub fn alias(&self, name: &str) -> Option<&str> {
        let place = self
            .aliases
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        self.aliases.get(place.ok()?).map(|(_, own)| own.as_str())
    }
}

/// What a deployment is that a backend's configuration does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// It is called the same there.
    #[default]
    Pass,
    /// It is not there.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_whatever_order_the_names_came() {
        let mut deployments = Deployments::default();
        assert!(deployments.is_empty());
        for name in ["m", "z", "a", "mm"] {
            deployments.add(name, &format!("own-{name}"));
        }
        assert!(deployments.names().eq(["a", "m", "mm", "z"]));
        for name in ["a", "m", "mm", "z"] {
            let own = format!("own-{name}");
            assert_eq!(deployments.alias(name), Some(own.as_str()));
        }
        for other in ["", "b", "own-a", "zz"] {
            assert_eq!(deployments.alias(other), None);
        }
    }
}
