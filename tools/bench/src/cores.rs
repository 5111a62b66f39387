//! Who runs where: the proxy alone on the first core, load and backends together on another one.

use std::io;
use std::process::{Child, Command};
use std::thread;

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// How the cores are shared out.
#[derive(Clone, Debug)]
pub struct Cores {
    all: Vec<usize>,
}

impl Cores {
    /// The cores this process may use.
    pub fn find() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let all = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        Ok(Self { all: all.collect() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether proxy and load have a core each. Where they have not, nothing is pinned.
    pub fn are_apart(&self) -> bool {
        self.all.len() >= 2
    }

    /// The proxy's: the first one.
    fn proxy(&self) -> &[usize] {
        match self.are_apart() {
            true => &self.all[..1],
            false => &self.all,
        }
    }

    /// The load's: the last one.
    fn load(&self) -> &[usize] {
        match self.are_apart() {
            true => &self.all[self.all.len() - 1..],
            false => &self.all,
        }
    }

    /// Pins the calling thread to the load's core.
    pub fn pin_to_load(&self) {
        pin(self.load());
    }

    /// Lets the calling thread run everywhere.
    pub fn unpin(&self) {
        pin(&self.all);
    }

    /// Starts a process on the proxy's core, or, `everywhere`, on all.
    pub fn spawn(&self, command: &mut Command, everywhere: bool) -> io::Result<Child> {
        // A process begins on the cores of the thread that starts it.
        thread::scope(|scope| {
            let spawn = scope.spawn(|| {
                pin(if everywhere { &self.all } else { self.proxy() });
                command.spawn()
            });
            spawn
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it panicked")))
        })
    }
}

/// A system that refuses it makes the numbers worse, not wrong.
fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to {cores:?}: {error}");
    }
}
