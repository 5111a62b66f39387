//! The behaviours of a service: a queue before a standing one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A behaviour that may be limited in number and to some requests.
pub(crate) trait Scripted: Clone + Default {
    /// The number of requests for which it still applies.
    fn remaining(&mut self) -> &mut Option<u32>;

    /// Whether it applies to requests with this path.
    fn applies_to(&self, path: &str) -> bool;
}

/// The behaviours of one service.
#[derive(Default)]
pub(crate) struct Script<B> {
    /// Whether anything was ever set: without a behaviour, no lock is taken.
    written: AtomicBool,
    lines: Mutex<Lines<B>>,
}

#[derive(Default)]
struct Lines<B> {
    queue: VecDeque<B>,
    standing: Option<B>,
}

impl<B: Scripted> Script<B> {
    fn lines(&self) -> MutexGuard<'_, Lines<B>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces all behaviours by one.
    pub(crate) fn set(&self, behaviour: B) {
        let mut lines = self.lines();
        lines.queue.clear();
        lines.standing = Some(behaviour);
        self.written.store(true, Ordering::Release);
    }

    /// Replaces the queue. A behaviour without a number applies once.
    pub(crate) fn queue(&self, behaviours: Vec<B>) {
        let mut lines = self.lines();
        lines.queue = behaviours.into();
        for behaviour in &mut lines.queue {
            behaviour.remaining().get_or_insert(1);
        }
        self.written.store(true, Ordering::Release);
    }

    /// Restores the default.
    pub(crate) fn clear(&self) {
        *self.lines() = Lines {
            queue: VecDeque::new(),
            standing: None,
        };
        self.written.store(false, Ordering::Release);
    }

    /// The behaviour for the next request, which has this path.
    pub(crate) fn next(&self, path: &str) -> B {
        if !self.written.load(Ordering::Acquire) {
            return B::default();
        }
        let mut lines = self.lines();
        lines.queue.retain_mut(|line| *line.remaining() != Some(0));
        if let Some(line) = lines.queue.iter_mut().find(|line| line.applies_to(path)) {
            return use_once(line);
        }
        if let Some(line) = &mut lines.standing {
            if *line.remaining() != Some(0) && line.applies_to(path) {
                return use_once(line);
            }
        }
        B::default()
    }
}

fn use_once<B: Scripted>(line: &mut B) -> B {
    let used = line.clone();
    if let Some(left) = line.remaining() {
        *left = left.saturating_sub(1);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::Behaviour;

    #[test]
    fn a_queue_comes_before_the_standing_behaviour() {
        let script = Script::default();
        script.set(Behaviour::hang());
        script.queue(vec![
            Behaviour::status(500),
            Behaviour::status(502).times(2),
        ]);
        let answers: Vec<_> = (0..4).map(|_| script.next("/").answer).collect();
        let expected = [
            Behaviour::status(500),
            Behaviour::status(502),
            Behaviour::status(502),
            Behaviour::hang(),
        ]
        .map(|behaviour| behaviour.answer);
        assert_eq!(answers, expected);
    }

    #[test]
    fn a_behaviour_meant_for_other_paths_waits() {
        let script = Script::default();
        script.queue(vec![Behaviour::status(500).on_path("/chat")]);
        assert_eq!(script.next("/files"), Behaviour::normal());
        assert_eq!(script.next("/chat").answer, Behaviour::status(500).answer);
        assert_eq!(script.next("/chat"), Behaviour::normal());
    }
}
