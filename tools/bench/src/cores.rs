//! Assigns cores: the proxy has the first core for itself; the load and the backends share the last one.

use std::io;
use std::process::{Child, Command};
use std::thread;

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// The cores that this process may use.
#[derive(Clone, Debug)]
pub struct Cores {
    all: Vec<usize>,
}

impl Cores {
    /// Finds the cores that this process may use.
    pub fn find() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let all = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        Ok(Self { all: all.collect() })
    }

    /// The number of cores.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether the proxy and the load have different cores. If not, no process is pinned.
    pub fn are_apart(&self) -> bool {
        self.all.len() >= 2
    }

    /// The proxy's core, the first one.
    fn proxy(&self) -> &[usize] {
        match self.are_apart() {
            true => &self.all[..1],
            false => &self.all,
        }
    }

    /// The load's core, the last one.
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

    /// Lets the calling thread run on all cores.
    pub fn unpin(&self) {
        pin(&self.all);
    }

    /// Runs this on the proxy's core.
    pub fn on_proxy_core<T: Send + Default>(&self, run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                pin(self.proxy());
                run()
            });
            running.join().unwrap_or_default()
        })
    }

    /// Starts a process on the proxy's core, or on all cores if `everywhere` is set.
    pub fn spawn(&self, command: &mut Command, everywhere: bool) -> io::Result<Child> {
        // A process inherits the cores of the thread that starts it.
        thread::scope(|scope| {
            let spawn = scope.spawn(|| {
                pin(if everywhere { &self.all } else { self.proxy() });
                command.spawn()
            });
            spawn
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
        })
    }
}

/// Pins the calling thread. A failure is only a warning: without pinning the measurements are noisier, but not wrong.
fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("warning: a thread could not be pinned to the cores {cores:?}: {error}");
    }
}
