//! The values that workers share: turns and the health of each backend.

use super::Fleet;
use crate::health::Health;
use crate::plan::BackendSet;
use crate::prelude::*;
use crate::swap::{read, swap, SharedMap, SwapError};
use crate::turns::Turns;

impl<M: SharedMap> Fleet<M> {
    /// Reads what other workers learned, for a request that draws no turn.
    pub fn refresh(&self) {
        match self.read_turns() {
            Ok(turns) => self.sync(&turns),
            Err(error) => {
                log::warn!("backends' health: {error}; using the last known state")
            }
        }
    }

    /// Draws a request's turn, and reads what other workers learned.
    pub fn draw(&self) -> u64 {
        let turns = self.turns.swap(&self.map, |bytes| {
            let turns = Turns::decode(bytes);
            (turns, Some(turns.after_draw().encode()))
        });
        match turns {
            Ok(turns) => {
                self.sync(&turns);
                turns.next
            }
            Err(error) => {
                // Requests must go on. This worker's own turns are fair, but not exact across workers.
                log::warn!("round robin: {error}; using turns of this worker only");
                let turn = self.own_turns.get();
                self.own_turns.set(turn.wrapping_add(1));
                turn
            }
        }
    }

    /// Changes a backend's shared record. Increments the edition if the change matters to other workers.
    pub(super) fn change<T: Default>(
        &self,
        backend: usize,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> Result<T, SwapError<M::Error>> {
        let mut result = T::default();
        self.alter(backend, &mut |health| result = change(health))?;
        Ok(result)
    }

    /// [`Self::change`] without its type parameter, so that the module contains the code once.
    #[inline(never)]
    fn alter(
        &self,
        backend: usize,
        change: &mut dyn FnMut(&mut Health),
    ) -> Result<(), SwapError<M::Error>> {
        let key = self.health_keys.get(backend).map_or("", String::as_str);
        let result = swap(&self.map, key, |bytes| {
            let before = Health::decode(bytes);
            let mut after = before.clone();
            change(&mut after);
            let store = (after != before).then(|| after.encode());
            ((before, after), store)
        });
        let (before, after) =
            result.inspect_err(|error| log::error!("backends' health: {error}"))?;
        let must_announce = !after.looks_like(&before);
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_health(backend, after);
        }
        if must_announce {
            self.announce(backend);
        }
        Ok(())
    }

    /// Increments the edition, so that every worker reads this backend's health at its next request.
    fn announce(&self, backend: usize) {
        let announced = swap(&self.map, self.turns.key(), |bytes| {
            let turns = Turns::decode(bytes);
            let after = turns.after_change(backend);
            ((turns.edition, after.edition), Some(after.encode()))
        });
        match announced {
            // The worker already knows its own change.
            Ok((before, after)) if self.edition.get() == Some(before) => {
                self.edition.set(Some(after));
            }
            Ok(_) => {}
            Err(error) => log::error!("backends' health: {error}"),
        }
    }

    #[inline]
    pub(super) fn sync(&self, turns: &Turns) {
        if self.edition.get() != Some(turns.edition) {
            self.catch_up(turns);
        }
    }

    /// Reads the health of the backends that other workers changed, or of all backends after too many changes.
    #[inline(never)]
    fn catch_up(&self, turns: &Turns) {
        let Ok(mut view) = self.view.try_borrow_mut() else {
            return;
        };
        let known = self.edition.get();
        let changed = known.and_then(|known| turns.changed_since(known));
        let wanted: BackendSet = match changed {
            Some(changed) => changed.collect(),
            None => (0..self.health_keys.len()).collect(),
        };
        let keys = wanted.into_iter().filter_map(|backend| {
            let key = self.health_keys.get(backend)?;
            Some((backend, key))
        });
        let found = keys.map(|(backend, key)| {
            let health = read(&self.map, key, Health::decode)?;
            Ok((backend, health))
        });
        match found.collect::<Result<Vec<_>, SwapError<M::Error>>>() {
            Ok(found) => view.set_every_health(found),
            Err(error) => {
                log::error!("backends' health: {error}");
                return;
            }
        }
        self.edition.set(Some(turns.edition));
    }

    pub(super) fn read_turns(&self) -> Result<Turns, SwapError<M::Error>> {
        read(&self.map, self.turns.key(), Turns::decode)
    }
}
