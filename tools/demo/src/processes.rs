//! The processes of the tour, which end before it does, however it ends.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::process::{kill_process, Pid, Signal};

/// The longest time until a process ends after a request to end.
const END_LIMIT: Duration = Duration::from_secs(3);

const POLL: Duration = Duration::from_millis(20);

/// All processes of one tour. Copies share the list: one is for the handler of Ctrl-C.
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
    /// Starts a process. It gets no signal from the terminal, because the tour ends it in order.
    ///
    /// # Errors
    /// When it cannot be started, or everything is ending already.
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

    /// Ends all processes and all pauses.
    pub fn interrupt(&self) {
        self.shared.interrupted.store(true, Ordering::SeqCst);
        for child in lock(&self.shared.running).drain(..) {
            end(&child);
        }
    }

    /// Whether everything is ending.
    pub fn interrupted(&self) -> bool {
        self.shared.interrupted.load(Ordering::SeqCst)
    }

    /// Waits, unless there is an interrupt.
    ///
    /// # Errors
    /// When there was an interrupt.
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

/// A running process. Dropping it ends the process.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
}

impl Process {
    /// The process's number.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// The process's output, if it is piped; the first caller gets it.
    pub fn stdout(&self) -> Option<ChildStdout> {
        lock(&self.child).stdout.take()
    }

    /// The exit status, if the process has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// Asks the process to end, and kills it if it does not.
fn end(child: &Mutex<Child>) {
    let mut child = lock(child);
    // Until it is waited for, its number belongs to no other process.
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
