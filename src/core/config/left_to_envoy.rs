//! Settings that Envoy's own configuration makes instead of the filter.

use super::fields::plugin;
use super::reader::{refused, Object, Problems};
use super::Backend;
use crate::prelude::*;

/// Settings that Envoy's own configuration makes instead of the filter. Each saves one host call per request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftToEnvoy {
    /// The route limits the time until the headers of an attempt's answer. Its `retry_policy.per_try_timeout` is
    /// [`Config::router_timeout`](super::Config::router_timeout).
    pub timeout: bool,
    /// The route sets `:authority` to the host name of the cluster, by `auto_host_rewrite`.
    pub host: bool,
}

/// Reads the list. The default is an empty list.
#[inline(never)]
pub(super) fn read_left_to_envoy(root: &mut Object<'_>, problems: &Problems) -> LeftToEnvoy {
    let mut left = LeftToEnvoy::default();
    let field = plugin::LEFT_TO_ENVOY;
    let given = root.value(field.name);
    let Some(list) = given.filter(|list| list.as_array().is_none_or(|list| !list.is_empty()))
    else {
        return left;
    };
    for (path, value) in root.list(field.name, list, field.form) {
        match value.as_str() {
            Some("timeout") => left.timeout = true,
            Some("host") => left.host = true,
            _ => problems.add(&path, refused(value, r#""timeout" or "host""#)),
        }
    }
    left
}

/// Adds a problem for each backend with its own limit, because the route has one limit for all backends.
#[inline(never)]
pub(super) fn check_timeouts(backends: &[Backend], problems: &Problems) {
    for (index, backend) in backends.iter().enumerate() {
        if backend.first_byte_timeout.is_some() {
            let path = format!("backends[{index}].first_byte_timeout");
            let problem = "not allowed together with \"timeout\" in left_to_envoy: a route has one limit for all backends; \
                           leave \"timeout\" out";
            problems.add(&path, problem);
        }
    }
}
