//! The cost of a request.

use std::collections::BTreeMap;
use std::fmt;

use mock_host::{Count, Host};

use crate::module::{self, Spent};

/// Everything counted for one request.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// By callback.
    pub callbacks: BTreeMap<&'static str, Spent>,
    /// By host call.
    pub host_calls: BTreeMap<&'static str, Count>,
    /// Instructions by function.
    pub functions: BTreeMap<String, u64>,
    /// Bytes of executed code by function.
    pub code: BTreeMap<String, u64>,
}

impl Cost {
    /// Counts the calls on `host` while `act` runs.
    pub fn of(host: &Host, act: impl FnOnce()) -> Self {
        host.clear_counts();
        let counted = module::count(act);
        let counts = host.counts().into_iter();
        Self {
            callbacks: counted.callbacks,
            functions: counted.functions,
            code: counted.code,
            host_calls: counts
                .filter(|(name, _)| !name.starts_with("proxy_on_"))
                .collect(),
        }
    }

    /// The quantities that have a budget.
    pub fn quantities(&self) -> Quantities {
        let spent = self.callbacks.values();
        let calls = self.host_calls.values();
        Quantities {
            callbacks: spent.clone().map(|spent| spent.calls).sum(),
            host_calls: calls.clone().map(|count| count.calls).sum(),
            bytes_in: calls.clone().map(|count| count.bytes_in).sum(),
            bytes_out: calls.map(|count| count.bytes_out).sum(),
            instructions: spent.map(|spent| spent.instructions).sum(),
            code: self.code.values().sum(),
        }
    }
}

/// The cost of a request, or its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantities {
    /// Envoy's callbacks, including those that begin and end contexts.
    pub callbacks: u64,
    /// The module's host calls.
    pub host_calls: u64,
    /// Bytes that host calls bring into the module, in memory that it allocates.
    pub bytes_in: u64,
    /// Bytes that host calls take out of the module.
    pub bytes_out: u64,
    /// WebAssembly instructions. A copy of memory is one instruction, whatever its size.
    pub instructions: u64,
    /// Bytes of the module's code that are executed at least once. If other programs have used the CPU's caches since the last
    /// request, the CPU loads all of it from memory.
    pub code: u64,
}

impl fmt::Display for Quantities {
    /// The form of the budget file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "callbacks = {}", self.callbacks)?;
        writeln!(f, "host_calls = {}", self.host_calls)?;
        writeln!(f, "bytes_in = {}", self.bytes_in)?;
        writeln!(f, "bytes_out = {}", self.bytes_out)?;
        writeln!(f, "instructions = {}", self.instructions)?;
        writeln!(f, "code = {}", self.code)
    }
}

impl fmt::Display for Cost {
    /// Three tables: callbacks with their instructions, host calls with their bytes, and the functions with the most
    /// instructions and the most code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:34} {:>6} {:>13}",
            "callback", "calls", "instructions"
        )?;
        for (name, spent) in &self.callbacks {
            let Spent {
                calls,
                instructions,
            } = spent;
            writeln!(f, "  {name:34} {calls:>6} {instructions:>13}")?;
        }
        writeln!(
            f,
            "  {:34} {:>6} {:>9} {:>10}",
            "host call", "calls", "bytes in", "bytes out"
        )?;
        for (name, count) in &self.host_calls {
            writeln!(
                f,
                "  {name:34} {:>6} {:>9} {:>10}",
                count.calls, count.bytes_in, count.bytes_out
            )?;
        }
        writeln!(f, "  instructions by function, those it calls left out")?;
        show_largest(&self.functions, f)?;
        writeln!(f, "  bytes of executed code by function")?;
        show_largest(&self.code, f)
    }
}

fn show_largest(functions: &BTreeMap<String, u64>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 12;
    let mut functions: Vec<_> = functions.iter().collect();
    functions.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    for (name, number) in functions.into_iter().take(SHOWN) {
        writeln!(f, "  {number:>9}  {name}")?;
    }
    Ok(())
}
