//! The objects and lists around a position in a JSON document.

/// The depth up to which nesting is read. The ids of Azure OpenAI's APIs are within the first ten levels.
pub const MAX_DEPTH: usize = 32;

/// An object or a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Level {
    /// An object.
    #[default]
    Object,
    /// A list.
    List {
        /// Whether its strings are ids of objects.
        of_ids: bool,
    },
}

/// The open objects and lists. Those that are unread, or nested too deep, are only counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Nesting {
    levels: [Level; MAX_DEPTH],
    depth: usize,
    /// The depth from which levels are only counted.
    unread_from: Option<usize>,
}

impl Nesting {
    /// The number of open objects and lists.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The innermost object or list, if there is one and it is read.
    pub(super) fn level(&self) -> Option<Level> {
        match self.is_read() {
            true => self.levels.get(self.depth.checked_sub(1)?).copied(),
            false => None,
        }
    }

    /// Whether this position is read.
    pub(super) fn is_read(&self) -> bool {
        self.unread_from.is_none()
    }

    /// Opens an object or a list. Nothing in it is read, unless `is_read`.
    pub(super) fn open(&mut self, level: Level, is_read: bool) {
        let slot = self.levels.get_mut(self.depth);
        if slot.is_none() || !is_read {
            self.unread_from = self.unread_from.or(Some(self.depth));
        }
        if let Some(slot) = slot {
            *slot = level;
        }
        self.depth = self.depth.saturating_add(1);
    }

    /// Closes the innermost object or list, if there is one.
    pub(super) fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.unread_from.is_some_and(|from| self.depth <= from) {
            self.unread_from = None;
        }
    }

    /// Closes all objects and lists.
    pub(super) fn reset(&mut self) {
        // The levels themselves mean nothing at depth 0. Resetting them would take longer than reading a line.
        self.depth = 0;
        self.unread_from = None;
    }
}
