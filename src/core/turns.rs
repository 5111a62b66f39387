//! The turns of requests, which workers share.

use super::codec::Fields;

const TURN_VERSION: u8 = 3;

/// The number of health changes whose backends are known. A worker that missed more reads all backends.
const CHANGES: usize = 4;

/// The counter of turns, and the edition of the backends' health. The edition changes with the health, so a worker that
/// draws a turn knows whether to read the health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// The next turn.
    pub next: u64,
    /// The edition of the backends' health.
    pub edition: u32,
    /// The backends whose changes made the last editions, indexed by the edition's number.
    changed: [u8; CHANGES],
}

impl Turns {
    /// The size of the encoded turns in bytes.
    pub const SIZE: usize = 13 + CHANGES;

    /// The state after drawing a turn.
    #[must_use]
    #[inline]
    pub fn after_draw(self) -> Self {
        Self {
            next: self.next.wrapping_add(1),
            ..self
        }
    }

    /// The state after a change of this backend's health.
    #[must_use]
    pub fn after_change(mut self, backend: usize) -> Self {
        self.edition = self.edition.wrapping_add(1);
        if let Some(changed) = self.changed.get_mut(place(self.edition)) {
            *changed = u8::try_from(backend).unwrap_or(u8::MAX);
        }
        self
    }

    /// The backends whose health changed since the edition `known`, possibly with duplicates. `None` if it may be any
    /// backend.
    pub fn changed_since(&self, known: u32) -> Option<impl Iterator<Item = usize> + '_> {
        let missed = usize::try_from(self.edition.wrapping_sub(known)).ok()?;
        let editions = (0..missed).map(|back| self.edition.wrapping_sub(back as u32));
        let changed = editions.filter_map(|edition| self.changed.get(place(edition)));
        (missed <= CHANGES).then(|| changed.copied().map(usize::from))
    }

    /// The turns as bytes.
    #[inline]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [TURN_VERSION; Self::SIZE];
        let slots = bytes.split_at_mut(1).1;
        if let Some((next, slots)) = slots.split_first_chunk_mut() {
            *next = self.next.to_le_bytes();
            if let Some((edition, changed)) = slots.split_first_chunk_mut() {
                *edition = self.edition.to_le_bytes();
                changed.copy_from_slice(&self.changed);
            }
        }
        bytes
    }

    /// The turns in `bytes`. Missing or unreadable bytes decode to the first turn.
    #[inline]
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        let turns = bytes.and_then(|bytes| {
            let mut fields = Fields::new(bytes, TURN_VERSION)?;
            Some(Self {
                next: fields.u64()?,
                edition: fields.u32()?,
                changed: fields.u32()?.to_le_bytes(),
            })
        });
        turns.unwrap_or_default()
    }
}

/// The index of the backend whose change made this edition.
fn place(edition: u32) -> usize {
    edition as usize % CHANGES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[test]
    fn turns_are_drawn_in_order() {
        let mut turns = Turns::decode(None);
        for expected in 0..3 {
            assert_eq!(turns.next, expected);
            turns = Turns::decode(Some(&turns.after_draw().encode()));
            turns = Turns::decode(Some(&turns.after_change(7).encode()));
        }
        assert_eq!(turns.edition, 3);
    }

    #[test]
    fn unreadable_bytes_count_as_absent() {
        for bytes in [&[][..], &[TURN_VERSION], &[TURN_VERSION; 16], &[9; 17]] {
            assert_eq!(Turns::decode(Some(bytes)), Turns::default(), "{bytes:?}");
        }
    }

    #[test]
    fn counters_wrap_around() {
        let last = Turns {
            next: u64::MAX,
            edition: u32::MAX,
            ..Turns::default()
        };
        assert_eq!(last.after_draw().after_change(0), Turns::default());
    }

    #[test]
    fn few_missed_changes_name_their_backends() {
        let mut turns = Turns {
            edition: u32::MAX - 1,
            ..Turns::default()
        };
        let mut editions = vec![turns.edition];
        for backend in [3, 99, 0, 3, 7, 8] {
            turns = Turns::decode(Some(&turns.after_change(backend).encode()));
            editions.push(turns.edition);
        }
        let since = |edition: u32| {
            let changed = turns.changed_since(edition);
            changed.map(|changed| changed.collect::<Vec<_>>())
        };
        let known: Vec<_> = editions.into_iter().map(since).collect();
        let expected = [
            None,
            None,
            Some(vec![8, 7, 3, 0]),
            Some(vec![8, 7, 3]),
            Some(vec![8, 7]),
            Some(vec![8]),
            Some(vec![]),
        ];
        assert_eq!(known, expected);
        // An edition from another Envoy process.
        assert_eq!(since(turns.edition.wrapping_add(1)), None);
    }
}
