//! The service's one method.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    rate_limit, Code, DescriptorStatus, RateLimit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::Duration;
use tonic::{Request, Response, Status};

use crate::storage::{Charge, Counters};
use crate::{Clock, Limit, Limits, Unit};

/// Answers Envoy's requests.
pub(crate) struct Service {
    pub limits: Limits,
    pub counters: Counters,
    pub clock: Clock,
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let now = self.clock.now();
        let limits: Vec<_> = request
            .descriptors
            .iter()
            .map(|descriptor| self.limit(&request.domain, descriptor))
            .collect();
        let charges: Vec<Charge> = request
            .descriptors
            .iter()
            .zip(&limits)
            .filter_map(|(descriptor, limit)| charge(&request, descriptor, (*limit)?, now))
            .collect();
        // A charge beyond the limit counts as well: otherwise a large charge after the answer would never count.
        let counts = self.counters.add(&charges, now).await;
        let mut counts = counts.map_err(Status::unavailable)?.into_iter();
        let statuses: Vec<_> = limits
            .into_iter()
            .map(|limit| match limit {
                Some(limit) => status(limit, counts.next().unwrap_or(0), now),
                None => DescriptorStatus {
                    code: Code::Ok.into(),
                    ..DescriptorStatus::default()
                },
            })
            .collect();
        let is_over = |status: &DescriptorStatus| status.code() == Code::OverLimit;
        let overall = match statuses.iter().any(is_over) {
            true => Code::OverLimit,
            false => Code::Ok,
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: overall.into(),
            statuses,
            ..RateLimitResponse::default()
        }))
    }
}

impl Service {
    fn limit(&self, domain: &str, descriptor: &RateLimitDescriptor) -> Option<Limit> {
        let [entry] = &descriptor.entries[..] else {
            return None;
        };
        self.limits.of(domain, &entry.key, &entry.value)
    }
}

/// The charge to the counter of this descriptor.
fn charge(
    request: &RateLimitRequest,
    descriptor: &RateLimitDescriptor,
    limit: Limit,
    now: u64,
) -> Option<Charge> {
    let entry = descriptor.entries.first()?;
    let start = limit.unit.start(now);
    // A descriptor without a number has the request's number, in which 0 stands for none.
    let of_request = u64::from(request.hits_addend.max(1));
    Some(Charge {
        key: format!("{}_{}_{}_{start}", request.domain, entry.key, entry.value),
        hits: descriptor
            .hits_addend
            .as_ref()
            .map_or(of_request, |hits| hits.value),
        end: start + limit.unit.seconds(),
        lives: limit.unit.seconds(),
    })
}

fn status(limit: Limit, count: u64, now: u64) -> DescriptorStatus {
    let left = u64::from(limit.hits).saturating_sub(count);
    let code = match count > u64::from(limit.hits) {
        true => Code::OverLimit,
        false => Code::Ok,
    };
    let unit = match limit.unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
    };
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit {
            requests_per_unit: limit.hits,
            unit: unit.into(),
            ..RateLimit::default()
        }),
        limit_remaining: u32::try_from(left).unwrap_or(u32::MAX),
        duration_until_reset: Some(Duration {
            seconds: limit.unit.left(now).try_into().unwrap_or(0),
            nanos: 0,
        }),
        ..DescriptorStatus::default()
    }
}
