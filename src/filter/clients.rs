//! The counters of clients' requests.

use std::cell::RefCell;

use super::host::{self, HostError, Metric};
use crate::core::clients::{counter_name, Clients};

/// Counts requests by client, and hands the counts over to Envoy. Each worker tells its clients apart for itself.
#[derive(Default)]
pub(crate) struct ClientCounters {
    clients: RefCell<Clients>,
    /// Envoy's numbers of those counters that have been handed over, by the client's place.
    counters: RefCell<Vec<Option<u32>>>,
}

impl ClientCounters {
    /// Counts a request of `client`.
    pub(crate) fn count(&self, client: &str) {
        if let Ok(mut clients) = self.clients.try_borrow_mut() {
            clients.count(client);
        }
    }

    /// Hands the counts over. A counter is defined when its client is first met: no configuration knows the names.
    #[inline(never)]
    pub(crate) fn hand_over(&self) {
        let (Ok(mut clients), Ok(mut counters)) = (
            self.clients.try_borrow_mut(),
            self.counters.try_borrow_mut(),
        ) else {
            return;
        };
        clients.drain(|place, client, count| {
            if counters.len() <= place {
                counters.resize(place.saturating_add(1), None);
            }
            let Some(counter) = counters.get_mut(place) else {
                return;
            };
            if let Err(error) = hand_over(counter, client, count) {
                log::error!("{error}");
            }
        });
    }
}

#[inline(never)]
fn hand_over(counter: &mut Option<u32>, client: &str, count: u32) -> Result<(), HostError> {
    let id = match *counter {
        Some(id) => id,
        None => host::define_metric(Metric::Counter, &counter_name(client))?,
    };
    *counter = Some(id);
    host::increment_metric(id, count)
}
