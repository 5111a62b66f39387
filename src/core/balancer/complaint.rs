//! Mistakes in Envoy's configuration around the filter, with their fixes.

use crate::config::{Config, Engine};
use crate::prelude::*;
use crate::replay::HELD_UNTIL_COMPLETE;

/// A mistake in Envoy's configuration. Each is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Envoy has no cluster with this backend's cluster name.
    Cluster(usize),
    /// Envoy hides bodies while their headers are held.
    HiddenBodies,
    /// The router engine's upstream filter is missing on a cluster.
    UpstreamFilter,
    /// Envoy's buffer is smaller than the request bodies that should be retried.
    BufferLimit,
    /// A retry went to another cluster than planned.
    Route,
    /// An answer was marked for a retry, and the router made none.
    RouterDeclined,
}

impl Complaint {
    /// The place, the mistake and the fix.
    pub fn text(self, config: &Config) -> String {
        match self {
            Self::Cluster(index) => {
                let backend = config.backends.get(index);
                let (name, cluster) = backend.map_or(("", ""), |b| (&b.name, &b.cluster));
                let otherwise = match config.retry.engine {
                    Engine::Filter => "",
                    Engine::Router => {
                        "; or add the matcher cluster specifier on filter state wasm.aoai_next to the route, which retry.engine \
                         \"router\" needs"
                    }
                };
                format!(
                    "backends[{index}].cluster: Envoy has no cluster {cluster:?}, so {name} gets no requests; use the name of \
                     an existing cluster{otherwise}"
                )
            }
            Self::HiddenBodies => {
                "set `allow_on_headers_stop_iteration: true` in this filter's wasm plugin config: without it Envoy hides the \
                 bodies of held requests and answers, so a missing deployment or role looks like any other error, and some \
                 failures cannot be retried"
                    .to_owned()
            }
            Self::UpstreamFilter => {
                "retry.engine is \"router\", but an answer came through a cluster without the upstream filter, so answers are \
                 not retried; add the filter to the cluster's HttpProtocolOptions.http_filters with {\"role\": \"upstream\"} and \
                 the same vm_config"
                    .to_owned()
            }
            Self::BufferLimit => format!(
                "retry.replay_limit is {} bytes, but Envoy answered 413 to a smaller request that was held until it was complete; \
                 set the listener's per_connection_buffer_limit_bytes to retry.replay_limit or more; until then this worker \
                 holds no more than {HELD_UNTIL_COMPLETE} bytes",
                config.retry.replay_limit
            ),
            Self::Route => {
                "retry.engine is \"router\", but a retry went to another cluster than planned; the route needs the matcher \
                 cluster specifier on filter state wasm.aoai_next, and retry_policy.refresh_cluster_on_retry"
                    .to_owned()
            }
            Self::RouterDeclined => {
                "Envoy's router did not retry an answer that was marked for a retry; check that the route's retry_policy has retry_on \
                 retriable-headers with the header x-aoai-retry. Other causes: the request body outgrew Envoy's buffer \
                 (per_connection_buffer_limit_bytes), the cluster's circuit breaker allows too few retries (max_retries), the next \
                 cluster has no healthy host, or the backend sent 100 Continue before its answer, which ends Envoy's retries"
                    .to_owned()
            }
        }
    }
}
