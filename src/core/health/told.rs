//! The clients that a backend told to wait.
//!
//! What a backend tells one client is evidence against that client's requests first, and perhaps against nobody else's. So a wait binds
//! the clients that were told, each until what it was told. Once a few were, it is the quota that is used up, and the wait binds all.
//! Clients whose names are not known count as one.

use crate::codec::{Fields, Writer};
use crate::demand::Client;
use crate::time::Timestamp;

/// A wait that so many clients were told binds all.
const ENOUGH: usize = 3;

/// Who was told to wait, within the current wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told([Entry; ENOUGH]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    client: Client,
    /// The default where there is nobody.
    until: Timestamp,
}

impl Told {
    /// Until when a client has to wait, if it has to: as it was told, or as soon as others may be asked.
    pub(super) fn until(&self, client: Client, now: Timestamp) -> Option<Timestamp> {
        let mut lasting = self.0.iter().filter(|entry| entry.until > now);
        let own = lasting.clone().find(|entry| entry.client == client);
        let is_enough = lasting.clone().count() == ENOUGH;
        match own {
            Some(own) => Some(own.until),
            None if is_enough => lasting.by_ref().map(|entry| entry.until).min(),
            None => None,
        }
    }

    /// Whether a client's own word may count, so that it may have to wait for another time than others.
    pub(super) fn tells_apart(&self, client: Client) -> bool {
        let mut known = self.0.iter();
        known.any(|it| it.client == client && it.until > Timestamp::default())
    }

    /// A client was told to wait until then.
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

    /// The same, of a refusal that says nothing new of those that wait already.
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
        let mut told = Self::default();
        for at in 0..fields.u8()? {
            *told.0.get_mut(usize::from(at))? = Entry {
                client: Client::from_number(fields.u32()?),
                until: fields.time()?,
            };
        }
        Some(told)
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
    fn a_wait_binds_those_who_were_told() {
        let mut told = Told::default();
        assert_eq!(told.until(Client::UNKNOWN, at(0)), None);
        told.note(CLIENTS[0], at(10), at(0));
        told.note(CLIENTS[1], at(20), at(0));
        let apart = CLIENTS.map(|client| told.tells_apart(client));
        assert_eq!(apart, [true, true, false, false]);
        assert!(!told.tells_apart(Client::UNKNOWN));
        let untils = |told: &Told, now| CLIENTS.map(|client| told.until(client, at(now)));
        assert_eq!(untils(&told, 9), [Some(at(10)), Some(at(20)), None, None]);
        assert_eq!(untils(&told, 10), [None, Some(at(20)), None, None]);
        // The next word of a client counts, even if it is shorter.
        told.note(CLIENTS[1], at(15), at(0));
        assert_eq!(told.until(CLIENTS[1], at(0)), Some(at(15)));
    }

    #[test]
    fn a_wait_that_three_were_told_binds_all() {
        let mut told = Told::default();
        for (client, until) in CLIENTS.into_iter().zip([30, 10, 20]) {
            told.note_another(client, at(until), at(0));
        }
        assert_eq!(told.until(CLIENTS[3], at(9)), Some(at(10)));
        told.note_another(CLIENTS[3], at(40), at(9));
        assert_eq!(told.until(CLIENTS[1], at(9)), Some(at(10)), "nothing new");
        // Somebody may be asked again.
        assert_eq!(told.until(CLIENTS[3], at(10)), None);
        told.note(CLIENTS[3], at(40), at(10));
        assert_eq!(told.until(CLIENTS[1], at(10)), Some(at(20)));
    }

    #[test]
    fn the_record_of_those_who_were_told_can_be_read() {
        let mut told = Told::default();
        assert_eq!(roundtrip(&told, Told::encode, Told::decode), told);
        told.note(CLIENTS[2], at(30), at(0));
        assert_eq!(roundtrip(&told, Told::encode, Told::decode), told);
    }
}
