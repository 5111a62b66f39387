//! The clients that a backend notified of a wait.
//!
//! A backend's wait for one client is evidence about that client's requests first. So the wait binds only notified
//! clients, each until its own time. Once several clients were notified, the quota itself is used up, and the wait
//! binds all. Clients without known names count as one.

use crate::codec::{Fields, Writer};
use crate::demand::Client;
use crate::time::Timestamp;

/// The number of notified clients at which a wait binds all.
const ENOUGH: usize = 3;

/// The clients that were notified of the current wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notified([Entry; ENOUGH]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    client: Client,
    /// The end of the client's wait. The default marks an unused entry.
    until: Timestamp,
}

impl Notified {
    /// The end of the client's wait, if it has one: the client's own, or the earliest one if the wait binds all.
    pub(super) fn until(&self, client: Client, now: Timestamp) -> Option<Timestamp> {
        let mut all: Option<Timestamp> = None;
        let mut lasting: usize = 0;
        for entry in self.0.iter().filter(|entry| entry.until > now) {
            if entry.client == client {
                return Some(entry.until);
            }
            all = Some(all.map_or(entry.until, |all| all.min(entry.until)));
            lasting = lasting.saturating_add(1);
        }
        all.filter(|_| lasting == ENOUGH)
    }

    /// Whether the client's own wait may count, so that it may differ from other clients' waits.
    pub(super) fn distinguishes(&self, client: Client) -> bool {
        let mut known = self.0.iter();
        known.any(|it| it.client == client && it.until > Timestamp::default())
    }

    /// Notes a client's wait.
    pub(super) fn note(&mut self, client: Client, until: Timestamp, now: Timestamp) {
        let lasts = |entry: &Entry| entry.until > now;
        let own = self
            .0
            .iter()
            .position(|it| it.client == client && lasts(it));
        let earliest = self.0.iter().enumerate().min_by_key(|(_, it)| it.until);
        let at = own.or(earliest.map(|(at, _)| at));
        if let Some(entry) = at.and_then(|at| self.0.get_mut(at)) {
            *entry = Entry { client, until };
        }
    }

    /// Notes a client's wait, unless one already binds the client.
    pub(super) fn note_another(&mut self, client: Client, until: Timestamp, now: Timestamp) {
        if self.until(client, now).is_none() {
            self.note(client, until, now);
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let known = || {
            let entries = self.0.iter();
            entries.filter(|entry| entry.until > Timestamp::default())
        };
        writer.length(known().count());
        for entry in known() {
            writer.u32(entry.client.number());
            writer.time(entry.until);
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let mut notified = Self::default();
        for at in 0..fields.u8()? {
            *notified.0.get_mut(usize::from(at))? = Entry {
                client: Client::from_number(fields.u32()?),
                until: fields.time()?,
            };
        }
        Some(notified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip};

    const CLIENTS: [Client; 4] = [
        Client::from_number(1),
        Client::from_number(2),
        Client::from_number(3),
        Client::from_number(4),
    ];

    #[test]
    fn a_wait_binds_notified_clients() {
        let mut notified = Notified::default();
        assert_eq!(notified.until(Client::UNKNOWN, at(0)), None);
        notified.note(CLIENTS[0], at(10), at(0));
        notified.note(CLIENTS[1], at(20), at(0));
        let apart = CLIENTS.map(|client| notified.distinguishes(client));
        assert_eq!(apart, [true, true, false, false]);
        assert!(!notified.distinguishes(Client::UNKNOWN));
        let untils =
            |notified: &Notified, now| CLIENTS.map(|client| notified.until(client, at(now)));
        assert_eq!(
            untils(&notified, 9),
            [Some(at(10)), Some(at(20)), None, None]
        );
        assert_eq!(untils(&notified, 10), [None, Some(at(20)), None, None]);
        // A client's next wait counts, even if it is shorter.
        notified.note(CLIENTS[1], at(15), at(0));
        assert_eq!(notified.until(CLIENTS[1], at(0)), Some(at(15)));
    }

    #[test]
    fn a_wait_of_three_clients_binds_all() {
        let mut notified = Notified::default();
        for (client, until) in CLIENTS.into_iter().zip([30, 10, 20]) {
            notified.note_another(client, at(until), at(0));
        }
        assert_eq!(notified.until(CLIENTS[3], at(9)), Some(at(10)));
        notified.note_another(CLIENTS[3], at(40), at(9));
        assert_eq!(
            notified.until(CLIENTS[1], at(9)),
            Some(at(10)),
            "nothing new"
        );
        // The first wait is over, so clients may be served again.
        assert_eq!(notified.until(CLIENTS[3], at(10)), None);
        notified.note(CLIENTS[3], at(40), at(10));
        assert_eq!(notified.until(CLIENTS[1], at(10)), Some(at(20)));
    }

    #[test]
    fn the_record_of_notified_clients_can_be_read() {
        let mut notified = Notified::default();
        assert_eq!(
            roundtrip(&notified, Notified::encode, Notified::decode),
            notified
        );
        notified.note(CLIENTS[2], at(30), at(0));
        assert_eq!(
            roundtrip(&notified, Notified::encode, Notified::decode),
            notified
        );
    }
}
