//! The names of quotas, for statistics and logs.
//!
//! Workers share a quota by a number that is derived from its deployment's name. The name itself is in the
//! configuration, or in a refused request. Workers share the names too, so that each can report a quota that another
//! worker saw refused.

use core::cell::RefCell;

use crate::clients::client_name;
use crate::codec::{Fields, Writer};
use crate::config::Config;
use crate::demand::{DeploymentId, QuotaKey};
use crate::keys;
use crate::operation::Api;
use crate::prelude::*;
use crate::swap::{create, read, swap, SharedMap, SwapError};

/// The most names of refused requests. Clients choose these names, so their number must be limited.
const MOST: usize = 256;

const VERSION: u8 = 1;

/// The label of the quota and the tokens of requests with an unread deployment.
pub const UNREAD: &str = "_unread";
/// The label of the quota of requests without a deployment or an API.
const OTHER: &str = "_other";

/// The label of a quota in statistics: at most 64 letters, digits, `-` and `_`.
type Label = String;

type Known = Vec<(QuotaKey, Label)>;

/// The names of quotas on one worker. All workers share the map `M`.
pub struct Names<M> {
    map: M,
    key: &'static str,
    /// Sorted by key.
    known: RefCell<Known>,
}

impl<M: SharedMap> Names<M> {
    /// Creates the names of `config`, and the shared value if no other worker has created it.
    ///
    /// # Errors
    /// The host refused access to its shared data.
    #[inline(never)]
    pub fn new(map: M, config: &Config) -> Result<Self, SwapError<M::Error>> {
        let mut known = vec![
            (QuotaKey::UNREAD, UNREAD.to_owned()),
            (QuotaKey::of_api(None), OTHER.to_owned()),
        ];
        for api in Api::ALL {
            add(&mut known, QuotaKey::of_api(Some(api)), || {
                format!("_{}", api.name())
            });
        }
        for backend in &config.backends {
            for name in backend.deployments.names() {
                if let Some((key, label)) = of_deployment(name) {
                    add(&mut known, key, || label);
                }
            }
        }
        let key = keys::QUOTA_NAMES_KEY;
        create(&map, key, &encode(&[]))?;
        Ok(Self {
            map,
            key,
            known: RefCell::new(known),
        })
    }

    /// Learns the name of a deployment whose request was refused.
    #[inline(never)]
    pub fn learn(&self, name: &str) {
        let Some((key, label)) = of_deployment(name) else {
            return;
        };
        if self.of(key).is_some() {
            return;
        }
        let learnt = swap(&self.map, self.key, |bytes| {
            let mut known = decode(bytes);
            let is_new = known.len() < MOST && add(&mut known, key, || label.clone());
            let store = is_new.then(|| encode(&known));
            (known, store)
        });
        self.adopt(learnt);
    }

    /// Reads the names that other workers learned.
    #[inline(never)]
    pub fn sync(&self) {
        self.adopt(read(&self.map, self.key, decode));
    }

    fn adopt(&self, learnt: Result<Known, SwapError<M::Error>>) {
        let learnt = match learnt {
            Ok(learnt) => learnt,
            Err(error) => {
                log::error!("names of quotas: {error}");
                return;
            }
        };
        if let Ok(mut known) = self.known.try_borrow_mut() {
            for (key, label) in learnt {
                add(&mut known, key, || label);
            }
        }
    }

    /// The name of a quota, if it is known.
    pub fn of(&self, key: QuotaKey) -> Option<Label> {
        let known = self.known.try_borrow().ok()?;
        let place = find(&known, key).ok()?;
        known.get(place).map(|(_, label)| label.clone())
    }
}

/// The label of a deployment in statistics: at most 64 lower-case letters, digits, `-` and `_`.
pub fn deployment_label(name: &str) -> Option<String> {
    client_name(name).map(|label| label.to_ascii_lowercase())
}

/// The key and the name of a deployment's quota.
fn of_deployment(name: &str) -> Option<(QuotaKey, Label)> {
    let label = deployment_label(name)?;
    Some((QuotaKey::of_deployment(DeploymentId::of(name)), label))
}

fn find(known: &Known, key: QuotaKey) -> Result<usize, usize> {
    known.binary_search_by(|(other, _)| other.cmp(&key))
}

/// Adds a label. `false` if the key already has one.
fn add(known: &mut Known, key: QuotaKey, label: impl FnOnce() -> Label) -> bool {
    let place = find(known, key);
    if let Err(place) = place {
        known.insert(place, (key, label()));
    }
    place.is_err()
}

fn encode(known: &[(QuotaKey, Label)]) -> Vec<u8> {
    let mut writer = Writer::new(VERSION);
    for (key, label) in known {
        writer.u64(key.number());
        writer.short_text(label);
    }
    writer.finish()
}

fn decode(bytes: Option<&[u8]>) -> Known {
    let mut known = Known::new();
    let Some(mut fields) = bytes.and_then(|bytes| Fields::new(bytes, VERSION)) else {
        return known;
    };
    while let (Some(number), Some(label)) = (fields.u64(), fields.short_text()) {
        add(&mut known, QuotaKey::from_number(number), || {
            label.to_owned()
        });
    }
    known
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::rc::Rc;

    use super::*;
    use crate::config::Plugin;

    #[derive(Clone, Default)]
    struct Map(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

    impl SharedMap for Map {
        type Error = Infallible;

        fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
            Ok((self.0.borrow().get(key).cloned(), 1))
        }

        fn set(&self, key: &str, value: &[u8], _: u32) -> Result<bool, Infallible> {
            self.0.borrow_mut().insert(key.to_owned(), value.to_owned());
            Ok(true)
        }
    }

    fn names(map: &Map, deployments: &str) -> Names<Map> {
        let json = format!(
            r#"{{"backends": [{{"name": "a", "cluster": "a", "host": "a", "deployments": {deployments}}}],
                "identity": {{"cluster": "imds"}}}}"#
        );
        match Plugin::from_bytes(json.as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => Names::new(map.clone(), &config).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn of(names: &Names<Map>, name: &str) -> Option<String> {
        names.of(QuotaKey::of_deployment(DeploymentId::of(name)))
    }

    #[test]
    fn configured_and_built_in_names_are_known() {
        let names = names(&Map::default(), r#"{"gpt-4o": "own", "text.embed": "own"}"#);
        assert_eq!(of(&names, "gpt-4o").as_deref(), Some("gpt-4o"));
        assert_eq!(of(&names, "text.embed").as_deref(), Some("text_embed"));
        assert_eq!(of(&names, "other"), None);
        let label = |key| names.of(key);
        assert_eq!(label(QuotaKey::UNREAD).as_deref(), Some("_unread"));
        assert_eq!(label(QuotaKey::of_api(None)).as_deref(), Some("_other"));
        let files = QuotaKey::of_api(Some(Api::Files));
        assert_eq!(label(files).as_deref(), Some("_files"));
    }

    #[test]
    fn workers_share_learned_names() {
        let map = Map::default();
        let (one, other) = (names(&map, "{}"), names(&map, "{}"));
        one.learn("gpt-4o");
        one.learn("gpt-4o");
        one.learn("");
        one.learn(&"ü".repeat(99));
        assert_eq!(of(&one, "gpt-4o").as_deref(), Some("gpt-4o"));
        assert_eq!(of(&other, "gpt-4o"), None);
        other.sync();
        assert_eq!(of(&other, "gpt-4o").as_deref(), Some("gpt-4o"));
        assert_eq!(of(&other, &"ü".repeat(99)), Some("_".repeat(64)));
        let later = names(&map, "{}");
        later.sync();
        assert_eq!(of(&later, "gpt-4o").as_deref(), Some("gpt-4o"));
    }

    #[test]
    fn clients_cannot_fill_the_memory_with_names() {
        let names = names(&Map::default(), "{}");
        for name in 0..2 * MOST {
            names.learn(&format!("name-{name}"));
        }
        assert!(of(&names, "name-0").is_some());
        assert!(of(&names, &format!("name-{}", 2 * MOST - 1)).is_none());
    }

    #[test]
    fn an_unreadable_value_counts_as_absent() {
        for bytes in [&[][..], &[9, 1], &[VERSION], &[VERSION, 1, 2]] {
            assert!(decode(Some(bytes)).is_empty(), "{bytes:?}");
        }
    }
}
