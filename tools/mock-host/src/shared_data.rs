//! Envoy's shared data: a map that all workers see.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::abi::status;

#[derive(Default)]
struct Inner {
    values: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    last_cas: u32,
}

#[derive(Default)]
pub(crate) struct SharedData(Mutex<Inner>);

impl SharedData {
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        self.0.lock().unwrap().values.get(key).cloned()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        let keys = inner.values.keys();
        let mut keys: Vec<_> = keys
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Stores `value` if `cas` is the stored value's number. 0 stores in any case. Without a stored value any number
    /// stores: a race to create a value has no loser.
    pub(crate) fn set(&self, key: &[u8], value: &[u8], cas: u32) -> Result<(), u32> {
        let mut inner = self.0.lock().unwrap();
        let current = inner.values.get(key).map(|(_, cas)| *cas);
        if cas != 0 && current.is_some_and(|current| current != cas) {
            return Err(status::CAS_MISMATCH);
        }
        // 0 stands for "in any case", so no value may have it.
        inner.last_cas = inner.last_cas.checked_add(1).unwrap_or(1);
        let stored = (value.to_vec(), inner.last_cas);
        inner.values.insert(key.to_vec(), stored);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_read_the_same_value_one_stores() {
        let shared = SharedData::default();
        assert_eq!(shared.get(b"key"), None);
        assert_eq!(shared.set(b"key", b"one", 0), Ok(()));
        let (value, cas) = shared.get(b"key").unwrap();
        assert_eq!(value, b"one");
        assert_eq!(shared.set(b"key", b"two", cas), Ok(()));
        assert_eq!(shared.set(b"key", b"three", cas), Err(status::CAS_MISMATCH));
        assert_eq!(shared.set(b"key", b"four", 0), Ok(()));
        assert_eq!(shared.get(b"key").unwrap().0, b"four");
    }
}
