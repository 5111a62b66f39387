//! The limits as a file of the reference service: <https://github.com/envoyproxy/ratelimit#configuration>.

use super::{Kind, SharedLimits, DOMAIN};
use crate::yaml::quoted;

/// The file of limits, which the rate limit service reads.
pub fn limits_file(limits: &SharedLimits) -> String {
    let mut descriptors = String::new();
    for kind in Kind::ALL.into_iter().filter(|kind| limits.has(*kind)) {
        let key = kind.key();
        let default = kind.of(&limits.default);
        for (name, own) in &limits.clients {
            let own = kind.of(own);
            if own != default {
                let (name, limit) = (quoted(name), limit(kind, own));
                descriptors.push_str(&format!(
                    "- key: {key}\n  value: {name}\n  rate_limit: {limit}\n"
                ));
            }
        }
        if default.is_some() {
            let limit = limit(kind, default);
            descriptors.push_str(&format!("- key: {key}\n  rate_limit: {limit}\n"));
        }
    }
    format!(
        "\
# The limits of clients of the Azure OpenAI balancer, for Envoy's rate limit service (envoyproxy/ratelimit).
#
# Made by `azure-openai-balancer render ratelimit`: change the list of backends it was made from, and render it again.
# A descriptor without a value is for each client that is not named.
domain: {DOMAIN}
descriptors:
{descriptors}"
    )
}

fn limit(kind: Kind, limit: Option<u32>) -> String {
    match limit {
        Some(limit) => format!("{{unit: {}, requests_per_unit: {limit}}}", kind.unit()),
        None => "{unlimited: true}".to_owned(),
    }
}
