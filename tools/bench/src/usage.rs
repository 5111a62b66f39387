//! The CPU and memory of processes, from the kernel's accounting.

use std::fs;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The processor time of all threads of these processes.
///
/// # Errors
/// One of the processes has ended.
pub fn cpu(processes: &[u32]) -> io::Result<Duration> {
    let mut nanos = 0;
    for process in processes {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let path = task?.path().join("schedstat");
            // A thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(path) else {
                continue;
            };
            let first = text.split_whitespace().next();
            nanos += first
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// The memory of some processes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The resident memory now.
    pub now: u64,
    /// The peak of the resident memory.
    pub peak: u64,
}

/// The sum of the memory of these processes.
///
/// # Errors
/// One of the processes has ended.
pub fn memory(processes: &[u32]) -> io::Result<Memory> {
    let mut sum = Memory::default();
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        sum.now += kilobytes(&status, "VmRSS:") * 1024;
        sum.peak += kilobytes(&status, "VmHWM:") * 1024;
    }
    Ok(sum)
}

fn kilobytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// A description of the machine in one line: processor, cores, kernel.
pub fn machine(cores: usize) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| Some(line.split_once(':')?.1.trim()));
    let system = rustix::system::uname();
    format!(
        "{}, {cores} cores, Linux {}",
        model.unwrap_or(std::env::consts::ARCH),
        system.release().to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let me = [std::process::id()];
        assert!(cpu(&me).unwrap() > Duration::ZERO);
        let memory = memory(&me).unwrap();
        assert!(memory.now > 0 && memory.peak >= memory.now);
        assert!(machine(2).contains("2 cores, Linux "));
    }
}
