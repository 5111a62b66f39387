//! The statistics of the module.

use std::collections::BTreeSet;

use azure_openai_balancer::core::config::Backend;
use azure_openai_balancer::core::ledger::Kind;
use azure_openai_balancer::core::pace::Measure;
use azure_openai_balancer::core::{clients, metrics};

/// The name of every statistic, with `NAME` for a backend, deployment, client or identity.
pub(crate) fn statistics() -> BTreeSet<String> {
    let backend = Backend {
        name: "NAME".into(),
        ..Backend::default()
    };
    let mut names = metrics::counter_names(std::slice::from_ref(&backend));
    names.extend(metrics::gauge_names(&backend));
    names.extend(metrics::quota_gauge_names(&backend, "NAME"));
    names.push(metrics::TOKEN_SECONDS_LEFT.to_owned());
    names.push(metrics::token_gauge_name(Some("NAME")));
    names.extend(Kind::ALL.map(|kind| clients::counter_name("NAME", kind)));
    let of_deployment = |kind| metrics::deployment_counter_name(&backend, "NAME", kind);
    names.extend(Kind::OF_DEPLOYMENT.map(of_deployment));
    names.extend(Measure::ALL.map(|measure| measure.histogram_name(&backend)));
    names.into_iter().collect()
}
