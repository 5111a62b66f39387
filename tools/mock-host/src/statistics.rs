//! Counters and gauges, with one value for all workers.

use std::sync::Mutex;

use crate::abi::status;

const COUNTER: u32 = 0;
const GAUGE: u32 = 1;

struct Statistic {
    name: String,
    kind: u32,
    value: u64,
}

#[derive(Default)]
pub(crate) struct Statistics(Mutex<Vec<Statistic>>);

impl Statistics {
    pub(crate) fn define(&self, kind: u32, name: &str) -> Result<u32, u32> {
        if kind > 2 {
            return Err(status::BAD_ARGUMENT);
        }
        let mut all = self.0.lock().unwrap();
        let known = all.iter().position(|s| s.kind == kind && s.name == name);
        let index = known.unwrap_or_else(|| {
            all.push(Statistic {
                name: name.to_owned(),
                kind,
                value: 0,
            });
            all.len() - 1
        });
        Ok(index as u32)
    }

    pub(crate) fn increment(&self, id: u32, by: i64) -> Result<(), u32> {
        self.change(id, |kind, value| match kind {
            COUNTER if by > 0 => Ok(value + by as u64),
            GAUGE => Ok(value.saturating_add_signed(by)),
            _ => Err(status::BAD_ARGUMENT),
        })
    }

    pub(crate) fn record(&self, id: u32, value: u64) -> Result<(), u32> {
        self.change(id, |kind, old| match kind {
            COUNTER => Ok(old + value),
            _ => Ok(value),
        })
    }

    fn change(&self, id: u32, new: impl FnOnce(u32, u64) -> Result<u64, u32>) -> Result<(), u32> {
        let mut all = self.0.lock().unwrap();
        let statistic = all.get_mut(id as usize).ok_or(status::NOT_FOUND)?;
        statistic.value = new(statistic.kind, statistic.value)?;
        Ok(())
    }

    pub(crate) fn read(&self, id: u32) -> Result<u64, u32> {
        let all = self.0.lock().unwrap();
        all.get(id as usize)
            .map(|s| s.value)
            .ok_or(status::NOT_FOUND)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<u64> {
        let all = self.0.lock().unwrap();
        all.iter().find(|s| s.name == name).map(|s| s.value)
    }

    pub(crate) fn changed(&self) -> Vec<(String, u64)> {
        let all = self.0.lock().unwrap();
        let changed = all.iter().filter(|s| s.value > 0);
        changed.map(|s| (s.name.clone(), s.value)).collect()
    }
}
