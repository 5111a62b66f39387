//! Host calls that the test lets fail.

use std::sync::Mutex;

use crate::abi::status;

/// A failure of a host call: the function, the number of failures, and the status.
///
/// ```
/// use mock_host::{status, Fault};
/// let contention = Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH).times(3);
/// let no_cluster = Fault::of("proxy_http_call").on("aoai_west");
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    function: &'static str,
    key: Option<String>,
    status: u32,
    left: usize,
    spared: usize,
}

impl Fault {
    /// Fails `function` with [`status::BAD_ARGUMENT`], always.
    pub fn of(function: &'static str) -> Self {
        Self {
            function,
            key: None,
            status: status::BAD_ARGUMENT,
            left: usize::MAX,
            spared: 0,
        }
    }

    /// Only for this header, shared key, property, statistic or cluster.
    #[must_use]
    pub fn on(self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self
        }
    }

    /// Sets the status.
    #[must_use]
    pub fn status(self, status: u32) -> Self {
        Self { status, ..self }
    }

    /// Limits the number of failures.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self {
            left: times,
            ..self
        }
    }

    /// Lets the first `spared` calls succeed.
    #[must_use]
    pub fn after(self, spared: usize) -> Self {
        Self { spared, ..self }
    }

    fn meets(&mut self, function: &str, key: &[u8]) -> bool {
        let meant = self.function == function
            && self.key.as_ref().is_none_or(|k| k.as_bytes() == key)
            && self.left > 0;
        if !meant {
            return false;
        }
        if self.spared > 0 {
            self.spared -= 1;
            return false;
        }
        self.left -= 1;
        true
    }
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.0.lock().unwrap().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(crate) fn check(&self, function: &str, key: &[u8]) -> Result<(), u32> {
        let mut faults = self.0.lock().unwrap();
        match faults
            .iter_mut()
            .find_map(|fault| fault.meets(function, key).then_some(fault))
        {
            // A status of 0 is a success.
            Some(Fault { status: 0, .. }) | None => Ok(()),
            Some(fault) => Err(fault.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_what_it_names_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(Fault::of("f").on("key").status(7).after(1).times(2));
        let check = |function, key: &str| faults.check(function, key.as_bytes());
        assert_eq!(check("f", "other"), Ok(()));
        assert_eq!(check("g", "key"), Ok(()));
        let seen: Vec<_> = (0..4).map(|_| check("f", "key")).collect();
        assert_eq!(seen, [Ok(()), Err(7), Err(7), Ok(())]);
    }
}
