//! The processes the tour starts. However it ends, they end first.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::process::{kill_process, Pid, Signal};

/// How long a process may take to end when asked to.
const END_LIMIT: Duration = Duration::from_secs(3);

const POLL: Duration = Duration::from_millis(20);

/// All processes of one tour. Copies are of the same list: one is for whoever handles Ctrl-C.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    interrupted: AtomicBool,
    running: Mutex<Vec<Arc<Mutex<Child>>>>,
}

impl Processes {
    /// Starts a process. It gets no signal from the terminal: it is ended from here, in good order.
    ///
    /// # Errors
    /// When it cannot be started, or everything is to end already.
    pub fn start(&self, command: &mut Command) -> Result<Process> {
        let mut running = lock(&self.shared.running);
        self.check()?;
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("{:?} could not be started", command.get_program()))?;
        let child = Arc::new(Mutex::new(child));
        running.push(Arc::clone(&child));
        Ok(Process { child })
    }

    /// Ends everything that runs, and whatever waits here.
    pub fn interrupt(&self) {
        self.shared.interrupted.store(true, Ordering::SeqCst);
        for child in lock(&self.shared.running).drain(..) {
            end(&child);
        }
    }

    /// Whether everything is to end.
    pub fn interrupted(&self) -> bool {
        self.shared.interrupted.load(Ordering::SeqCst)
    }

    /// Waits, but not after an interrupt.
    ///
    /// # Errors
    /// When there was one.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }

    fn check(&self) -> Result<()> {
        if self.interrupted() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// A running process, which is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
}

impl Process {
    /// Its number.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// What it writes, if that was to be piped; the first caller gets it.
    pub fn stdout(&self) -> Option<ChildStdout> {
        lock(&self.child).stdout.take()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// Asks the process to end, and ends it when it does not.
fn end(child: &Mutex<Child>) {
    let mut child = lock(child);
    // Until it has been waited for, its number belongs to no other process.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_process_ends_with_its_handle() {
        let process = Processes::default()
            .start(&mut sleeper("exec sleep 60"))
            .unwrap();
        let child = Arc::clone(&process.child);
        assert!(process.ended().is_none());
        drop(process);
        assert!(lock(&child).try_wait().unwrap().is_some());
    }

    #[test]
    fn an_interrupt_ends_all_and_nothing_starts_after_it() {
        let processes = Processes::default();
        let process = processes.start(&mut sleeper("exec sleep 60")).unwrap();
        processes.interrupt();
        assert!(process.ended().is_some());
        assert!(processes.start(&mut sleeper("exit 0")).is_err());
        assert!(processes.pause(Duration::from_secs(60)).is_err());
    }
}
