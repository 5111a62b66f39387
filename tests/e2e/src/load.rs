//! Many requests at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Chat, Connection, Gateway, Response};

/// Runs `work` on this many threads at once, each with its number. Returns the results in order.
///
/// # Panics
///
/// When one of the threads does.
pub fn parallel<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Sets a flag when a scope ends, by a panic or otherwise: threads that look at the flag end too.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends `total` requests over this many connections. Each connection sends one request after the other.
///
/// A connection that ends is opened again. A failed request is counted, not repeated.
pub fn load(gateway: &Gateway, connections: usize, total: usize, chat: &Chat) -> LoadResult {
    let body = chat.bytes();
    let next = AtomicUsize::new(0);
    let client = gateway.client();
    let started = Instant::now();
    let parts = parallel(connections, |_| {
        let mut part = LoadResult::default();
        let mut connection: Option<Connection> = None;
        while next.fetch_add(1, Ordering::Relaxed) < total {
            let mut current = match connection.take().filter(Connection::is_open) {
                Some(open) => open,
                None => match client.connect() {
                    Ok(new) => new,
                    Err(error) => {
                        part.failed(&error);
                        continue;
                    }
                },
            };
            match current.send("POST", &chat.path, JSON, &body) {
                Ok(answer) => {
                    part.answered(&answer);
                    connection = Some(current);
                }
                Err(error) => part.failed(&error),
            }
        }
        part
    });
    let mut all = LoadResult::default();
    for part in parts {
        all.add(part);
    }
    all.times.sort_unstable();
    all.elapsed = started.elapsed();
    all
}

/// The header of a JSON request.
pub(crate) const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// The results of a [`load`].
#[derive(Clone, Debug, Default)]
pub struct LoadResult {
    /// The number of answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// The number of requests without a whole answer, by reason.
    pub errors: BTreeMap<String, usize>,
    /// The number of answers by backend, as `x-sim-backend` names it, or else `x-aoai-backend`.
    pub backends: BTreeMap<String, usize>,
    /// The durations of the answered requests, shortest first.
    pub times: Vec<Duration>,
    /// The time from the first request to the last answer.
    pub elapsed: Duration,
}

impl LoadResult {
    /// The number of answers with this status.
    pub fn status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// The number of answers from this backend.
    pub fn backend(&self, name: &str) -> usize {
        self.backends.get(name).copied().unwrap_or_default()
    }

    /// The time within which this share (0 to 1) of the answered requests ended.
    pub fn within(&self, share: f64) -> Duration {
        let index = (self.times.len() as f64 * share).ceil() as usize;
        self.times
            .get(index.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    fn answered(&mut self, answer: &Response) {
        *self.statuses.entry(answer.status).or_default() += 1;
        let backend = answer
            .header("x-sim-backend")
            .or_else(|| answer.header("x-aoai-backend"));
        if let Some(backend) = backend {
            *self.backends.entry(backend.to_owned()).or_default() += 1;
        }
        self.times.push(answer.elapsed);
    }

    fn failed(&mut self, error: &std::io::Error) {
        *self.errors.entry(error.to_string()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        for (backend, count) in other.backends {
            *self.backends.entry(backend).or_default() += count;
        }
        self.times.extend(other.times);
    }
}
