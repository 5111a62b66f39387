//! One Envoy process: the part that all its workers share.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::counts::{Count, Counts};
use crate::fault::{Fault, Faults};
use crate::shared_data::SharedData;
use crate::statistics::Statistics;
use crate::vm::{self, Refused, Setup, Vm};

/// Where the clock starts: some day in 2023.
const START: Duration = Duration::from_secs(1_700_000_000);

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl LogLevel {
    pub(crate) fn from_abi(level: u32) -> Self {
        match level {
            0 => Self::Trace,
            1 => Self::Debug,
            2 => Self::Info,
            3 => Self::Warn,
            4 => Self::Error,
            _ => Self::Critical,
        }
    }
}

/// A log line of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its level.
    pub level: LogLevel,
    /// The text.
    pub text: String,
}

/// An Envoy process: a clock, shared data, statistics and a log, for any number of workers ([`Vm`]).
///
/// Cloning gives another handle to the same process; it may be sent to another thread to start a worker there.
#[derive(Clone, Default)]
pub struct Host(pub(crate) Arc<Process>);

pub(crate) struct Process {
    /// The monotonic clock of timers.
    nanos: AtomicU64,
    /// The amount by which the module's clock was set back.
    behind: AtomicU64,
    pub(crate) shared: SharedData,
    pub(crate) statistics: Statistics,
    pub(crate) counts: Counts,
    pub(crate) faults: Faults,
    logs: Mutex<Vec<Log>>,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            nanos: AtomicU64::new(START.as_nanos() as u64),
            behind: AtomicU64::default(),
            shared: SharedData::default(),
            statistics: Statistics::default(),
            counts: Counts::default(),
            faults: Faults::default(),
            logs: Mutex::default(),
        }
    }
}

impl Process {
    pub(crate) fn nanos(&self) -> u64 {
        self.nanos.load(Ordering::SeqCst)
    }

    /// The time of day, in nanoseconds since the Unix epoch.
    pub(crate) fn clock(&self) -> u64 {
        self.nanos() - self.behind.load(Ordering::SeqCst)
    }

    pub(crate) fn set_nanos(&self, nanos: u64) {
        self.nanos.store(nanos, Ordering::SeqCst);
    }

    pub(crate) fn log(&self, level: LogLevel, text: String) {
        self.logs.lock().unwrap().push(Log { level, text });
    }

    pub(crate) fn logs(&self) -> Vec<Log> {
        self.logs.lock().unwrap().clone()
    }
}

impl Host {
    /// A process that has just started.
    pub fn new() -> Self {
        Self::default()
    }

    /// A worker on the current thread, with the plugin configuration `json`.
    ///
    /// # Panics
    /// When the module refuses the configuration; see [`Host::start`].
    pub fn vm(&self, json: &str) -> Vm {
        self.start(Setup::new(json))
            .unwrap_or_else(|refused| panic!("the configuration was refused: {refused:?}"))
    }

    /// A worker on the current thread.
    ///
    /// # Errors
    /// When the module refuses its configuration.
    pub fn start(&self, setup: Setup) -> Result<Vm, Refused> {
        Vm::start(&self.0, Rc::default(), setup)
    }

    /// The time on the process's clock, since the Unix epoch.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.clock())
    }

    /// Lets time pass. The workers of this thread tick by their timers.
    pub fn advance(&self, time: Duration) {
        vm::advance(&self.0, time);
    }

    /// Lets time pass without ticks, as if all workers of this thread were stuck.
    pub fn skip(&self, time: Duration) {
        let nanos = self.0.nanos() + time.as_nanos() as u64;
        self.0.set_nanos(nanos);
    }

    /// Sets the process's clock back. Timers do not notice, because Envoy's use another clock.
    pub fn set_clock_back(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        self.0.behind.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Lets host calls fail from now on.
    pub fn inject(&self, fault: Fault) {
        self.0.faults.add(fault);
    }

    /// Lets no host call fail any more.
    pub fn heal(&self) {
        self.0.faults.clear();
    }

    /// All log lines, at all levels: the mock lifts the module's own limit.
    pub fn logs(&self) -> Vec<Log> {
        self.0.logs()
    }

    /// The texts logged at `level`.
    pub fn logged(&self, level: LogLevel) -> Vec<String> {
        let logs = self.logs().into_iter();
        logs.filter(|log| log.level == level)
            .map(|log| log.text)
            .collect()
    }

    /// The value of a statistic; 0 if it is undefined.
    pub fn statistic(&self, name: &str) -> u64 {
        self.0.statistics.by_name(name).unwrap_or_default()
    }

    /// All statistics that are not 0, in the order of their definition.
    pub fn statistics(&self) -> Vec<(String, u64)> {
        self.0.statistics.changed()
    }

    /// A value of the shared data.
    pub fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.0.shared.get(key.as_bytes()).map(|(value, _)| value)
    }

    /// The keys of the shared data, in order.
    pub fn shared_keys(&self) -> Vec<String> {
        self.0.shared.keys()
    }

    /// Stores a value in the shared data, as another worker would.
    pub fn set_shared(&self, key: &str, value: &[u8]) {
        // A value stored without a number to compare cannot be refused.
        let _ = self.0.shared.set(key.as_bytes(), value, 0);
    }

    /// The calls and bytes across the boundary of all workers so far, by the ABI's function names, callbacks included.
    ///
    /// Log lines below `info` count too, although Envoy would not get them: the mock lifts the module's own limit.
    pub fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.0.counts.read()
    }

    /// Sets all counts to zero.
    pub fn clear_counts(&self) {
        self.0.counts.clear();
    }
}
