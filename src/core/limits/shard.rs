//! The accounts of a few clients in one shared value.

use super::account::Account;
use crate::hash::{fingerprint, scatter};
use crate::prelude::*;
use crate::time::Timestamp;

/// The number of shared values.
pub(super) const SHARDS: u8 = 128;

/// The most accounts in a shared value. The account that was idle for longest is dropped first.
const MOST: usize = 128;

const VERSION: u8 = 2;

/// The version, and the number of changes.
const HEAD: usize = 1 + size_of::<u32>();

/// A hash of a client's name.
pub(super) type ClientId = u64;

/// The bytes per client: its id and its account.
const ENTRY: usize = size_of::<ClientId>() + Account::SIZE;

/// The shared value with the client's account, and the client's id. Clients without a name share one account.
pub(super) fn place_of(client: Option<&str>) -> (u8, ClientId) {
    let id = scatter(fingerprint(client.into_iter()));
    let shard = id % u64::from(SHARDS);
    (u8::try_from(shard).unwrap_or_default(), id)
}

/// The key of a shared value.
pub(super) fn shard_key(shard: u8) -> String {
    format!("aoai.limits.{shard}")
}

/// The accounts of a few clients, encoded as a version, the number of changes, and an entry for each client.
///
/// Because of the number, no two changes have the same bytes, which [`OftenSwapped`](crate::swap::OftenSwapped)
/// requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard(Vec<u8>);

impl Default for Shard {
    fn default() -> Self {
        let mut bytes = vec![0; HEAD];
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        Self(bytes)
    }
}

impl Shard {
    /// The accounts in `bytes`. Unreadable bytes have no accounts.
    pub(super) fn decode(bytes: Option<&[u8]>) -> Self {
        let known = bytes.filter(|bytes| {
            let entries = bytes.get(HEAD..).map_or(1, <[u8]>::len);
            bytes.first() == Some(&VERSION) && entries % ENTRY == 0
        });
        known.map_or_else(Self::default, |bytes| Self(bytes.to_vec()))
    }

    /// The bytes of the accounts after a change.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        let behind_version = self.0.get_mut(1..).unwrap_or_default();
        if let Some((number, _)) = behind_version.split_first_chunk_mut() {
            *number = u32::from_le_bytes(*number).wrapping_add(1).to_le_bytes();
        }
        self.0
    }

    /// The client's account, or a new one.
    pub(super) fn account(&self, id: ClientId) -> Account {
        let own = self.entries().find(|(own, _)| *own == id);
        let account = own.and_then(|(_, account)| Account::decode(account));
        account.unwrap_or_default()
    }

    /// Stores the client's account.
    pub(super) fn put(&mut self, id: ClientId, account: &Account) {
        let position = self.position(id);
        let at = position.saturating_mul(ENTRY).saturating_add(HEAD);
        let end = at.saturating_add(ENTRY);
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        let entry = self.0.get_mut(at..end).unwrap_or_default();
        if let Some((slot, entry)) = entry.split_first_chunk_mut() {
            *slot = id.to_le_bytes();
            account.write(entry);
        }
    }

    /// The index for this client: its own, the next free one, or that of the longest idle client.
    fn position(&self, id: ClientId) -> usize {
        let own = self.entries().position(|(own, _)| own == id);
        own.unwrap_or_else(|| match self.entries().count() {
            count if count < MOST => count,
            _ => self.oldest(),
        })
    }

    #[inline(never)]
    fn oldest(&self) -> usize {
        let last_use = |account| Account::decode(account).map(|account| account.last_use());
        let accounts = self.entries().enumerate();
        let oldest =
            accounts.min_by_key(|(_, (_, account))| -> Option<Timestamp> { last_use(account) });
        oldest.map_or(0, |(at, _)| at)
    }

    fn entries(&self) -> impl Iterator<Item = (ClientId, &[u8])> {
        let entries = self.0.get(HEAD..).unwrap_or_default();
        entries.chunks_exact(ENTRY).filter_map(|entry| {
            let (id, account) = entry.split_first_chunk::<{ size_of::<ClientId>() }>()?;
            Some((ClientId::from_le_bytes(*id), account))
        })
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::account::{Ask, Taken};
    use super::*;
    use crate::config::Limits;

    const LIMITS: Limits = Limits {
        tokens_per_minute: None,
        tokens_per_day: None,
        requests_per_minute: Some(5),
    };

    /// Whether a request of this client at `second` passes.
    fn passes(shard: &mut Shard, id: ClientId, second: u64) -> bool {
        let mut account = shard.account(id);
        let now = Timestamp::from_secs(1_700_000_000) + Duration::from_secs(second);
        let taken = account.take(&LIMITS, Ask::default(), now);
        shard.put(id, &account);
        *shard = Shard::decode(Some(&shard.clone().into_bytes()));
        matches!(taken, Taken::Charged(_))
    }

    #[test]
    fn no_client_touches_the_account_of_another() {
        let mut shard = Shard::default();
        for round in 0..8 {
            for id in 1..=20 {
                assert_eq!(passes(&mut shard, id, 0), round < 5, "{id}");
            }
        }
        assert!(passes(&mut shard, 21, 0));
        assert_eq!(shard.0.len(), HEAD + 21 * ENTRY);
    }

    #[test]
    fn the_longest_idle_client_is_forgotten() {
        let mut shard = Shard::default();
        for id in 0..MOST as u64 {
            for _ in 0..5 {
                assert!(passes(&mut shard, id, 0));
            }
        }
        // All clients except one make another request, which is refused.
        for id in (0..MOST as u64).filter(|id| *id != 7) {
            assert!(!passes(&mut shard, id, 1));
        }
        assert!(passes(&mut shard, 1_000, 1));
        assert_eq!(shard.0.len(), HEAD + MOST * ENTRY);
        assert!(!passes(&mut shard, 8, 1), "not forgotten");
        assert!(passes(&mut shard, 7, 1), "forgotten");
    }

    #[test]
    fn unreadable_bytes_have_no_accounts() {
        for bytes in [
            None,
            Some(&[][..]),
            Some(&[9]),
            Some(&[VERSION, 1]),
            Some(&[9; HEAD + ENTRY]),
            Some(&[VERSION; HEAD + 1]),
        ] {
            assert_eq!(Shard::decode(bytes), Shard::default(), "{bytes:?}");
        }
    }

    #[test]
    fn no_two_changes_have_equal_bytes() {
        let mut account = Account::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut bytes = Shard::default().into_bytes();
        for _ in 0..300 {
            assert!(seen.insert(bytes.clone()));
            let mut shard = Shard::decode(Some(&bytes));
            // One worker returns within a millisecond what another one took.
            account = shard.account(1);
            shard.put(1, &account);
            bytes = shard.into_bytes();
        }
        assert_eq!(account, Account::default());
    }

    #[test]
    fn clients_are_spread_over_the_shared_values() {
        let shards: std::collections::BTreeSet<_> = (0..2000)
            .map(|n| place_of(Some(&format!("client-{n}"))).0)
            .collect();
        assert_eq!(shards.len(), usize::from(SHARDS));
        assert_ne!(place_of(None), place_of(Some("")));
    }
}
