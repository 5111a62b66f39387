//! The turns of requests, as workers share them.

use super::codec::Fields;

const TURN_VERSION: u8 = 2;

/// The turns of requests, one number after the other, and beside them the edition of the backends' health: it changes with
/// every change of that, so that whoever draws a turn knows whether to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// The next turn.
    pub next: u64,
    /// The edition of the backends' health.
    pub edition: u32,
}

impl Turns {
    /// How many bytes it takes.
    pub const SIZE: usize = 13;

    /// The state after the next turn was drawn.
    #[must_use]
    #[inline]
    pub fn after_draw(self) -> Self {
        Self {
            next: self.next.wrapping_add(1),
            ..self
        }
    }

    /// The state after a backend's health has changed.
    #[must_use]
    pub fn after_change(self) -> Self {
        Self {
            edition: self.edition.wrapping_add(1),
            ..self
        }
    }

    /// As bytes.
    #[inline]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [TURN_VERSION; Self::SIZE];
        let fields = self
            .next
            .to_le_bytes()
            .into_iter()
            .chain(self.edition.to_le_bytes());
        for (slot, byte) in bytes.iter_mut().skip(1).zip(fields) {
            *slot = byte;
        }
        bytes
    }

    /// From bytes; the first turn if there are none or they are not understood.
    #[inline]
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        let turns = bytes.and_then(|bytes| {
            let mut fields = Fields::new(bytes, TURN_VERSION)?;
            Some(Self {
                next: fields.u64()?,
                edition: fields.u32()?,
            })
        });
        turns.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_drawn_one_after_the_other_whatever_changes() {
        let mut turns = Turns::decode(None);
        for expected in 0..3 {
            assert_eq!(turns.next, expected);
            turns = Turns::decode(Some(&turns.after_draw().encode()));
            turns = Turns::decode(Some(&turns.after_change().encode()));
        }
        assert_eq!(turns.edition, 3);
    }

    #[test]
    fn what_is_not_understood_counts_as_absent() {
        for bytes in [&[][..], &[TURN_VERSION], &[TURN_VERSION; 12], &[9; 13]] {
            assert_eq!(Turns::decode(Some(bytes)), Turns::default(), "{bytes:?}");
        }
    }

    #[test]
    fn the_counters_wrap_instead_of_trapping() {
        let last = Turns {
            next: u64::MAX,
            edition: u32::MAX,
        };
        assert_eq!(last.after_draw().after_change(), Turns::default());
    }
}
