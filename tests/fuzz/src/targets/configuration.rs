//! The configuration: any bytes are read or refused. An accepted configuration keeps its bounds and can be used. No
//! secret is shown.

use std::collections::BTreeSet;

use azure_openai_balancer::core::balancer::Balancer;
use azure_openai_balancer::core::config::{Config, Plugin, MAX_ATTEMPTS, MAX_BACKENDS};

use super::machine::host::MapAndClock;

/// The value of the variables, which may be keys.
const SECRET: &str = "hidden-in-a-variable";

pub(crate) fn check(input: &[u8]) {
    // Variables with this prefix are Entra ID's and hold no secret.
    let variable = |name: &str| (!name.starts_with("AZURE_")).then(|| SECRET.to_owned());
    let read = Plugin::from_bytes(input, &variable);
    let shown = match &read {
        Ok(plugin) => format!("{plugin:?}"),
        Err(error) => error.to_string(),
    };
    assert!(!shown.is_empty());
    let has_secret = String::from_utf8_lossy(input).contains(SECRET);
    assert!(has_secret || !shown.contains(SECRET), "{shown}");
    if let Ok(Plugin::Balancer(config)) = read {
        check_bounds(&config);
        let balancer = Balancer::new(MapAndClock::default(), *config, 7);
        assert!(balancer.is_ok());
    }
}

fn check_bounds(config: &Config) {
    let backends = &config.backends;
    assert!((1..=MAX_BACKENDS).contains(&backends.len()));
    let names: BTreeSet<_> = backends.iter().map(|backend| &backend.name).collect();
    assert_eq!(names.len(), backends.len());
    for backend in backends {
        assert!((1..=100).contains(&backend.weight), "{}", backend.weight);
        assert!(!backend.cluster.is_empty() && !backend.host.is_empty());
        let is_text = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(
            is_text(&backend.cluster) && is_text(&backend.host),
            "{backend:?}"
        );
        let base_path = backend.base_path.as_deref().unwrap_or("/");
        assert!(
            base_path.starts_with('/') && is_text(base_path),
            "{base_path}"
        );
    }
    assert!((1..=MAX_ATTEMPTS).contains(&usize::from(config.retry.max_attempts)));
    assert!(config
        .retry
        .statuses
        .iter()
        .all(|status| (400..600).contains(status)));
    assert!(config.cooldown.failure_percent <= 100);
    assert!(config.home(None) < backends.len());
    let tags = config.tags();
    assert!((0..backends.len()).all(|backend| tags.of_backend(backend).is_some()));
}
