//! The service, called as Envoy calls it.

use std::sync::atomic::Ordering;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use ratelimit::{Clock, Limits, Server, Settings, Store};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::Status;

const LIMITS: &str = "
domain: azure_openai
descriptors:
- {key: tokens, value: small, rate_limit: {unit: minute, requests_per_unit: 10}}
- {key: tokens, value: free, rate_limit: {unlimited: true}}
- {key: tokens, rate_limit: {unit: minute, requests_per_unit: 1000}}
- {key: tokens_day, rate_limit: {unit: day, requests_per_unit: 5000}}
";

/// The beginning of a minute.
const MINUTE: u64 = 1_900_000_020;

/// A client with its own thread, so that tests read from top to bottom.
struct Asked {
    client: RateLimitServiceClient<Channel>,
    runtime: Runtime,
}

impl Asked {
    fn of(server: &Server) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("http://{}", server.address());
        let client = runtime
            .block_on(RateLimitServiceClient::connect(url))
            .unwrap();
        Self { client, runtime }
    }

    /// Charges each key and value with a number of hits.
    fn try_charge(
        &mut self,
        charges: &[(&str, &str, Option<u64>)],
    ) -> Result<RateLimitResponse, Status> {
        let descriptors = charges
            .iter()
            .map(|(key, value, hits)| RateLimitDescriptor {
                entries: vec![Entry {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                }],
                hits_addend: hits.map(|value| UInt64Value { value }),
                ..RateLimitDescriptor::default()
            });
        let request = RateLimitRequest {
            domain: "azure_openai".to_owned(),
            descriptors: descriptors.collect(),
            hits_addend: 0,
        };
        let answer = self.client.should_rate_limit(request);
        let answer = self.runtime.block_on(answer)?;
        Ok(answer.into_inner())
    }

    /// The overall verdict, and the rest of each limit.
    fn charge(&mut self, charges: &[(&str, &str, Option<u64>)]) -> (Code, Vec<u32>) {
        let answer = self.try_charge(charges).unwrap();
        let left = answer.statuses.iter().map(|status| status.limit_remaining);
        (answer.overall_code(), left.collect())
    }
}

fn settings() -> Settings {
    Settings::new(Limits::parse(LIMITS).unwrap())
}

#[test]
fn a_charge_over_the_limit_is_counted() {
    let server = Server::start(settings()).unwrap();
    let mut asked = Asked::of(&server);
    let check = [("tokens", "a", Some(0))];
    assert_eq!(asked.charge(&check), (Code::Ok, vec![1000]));
    assert_eq!(
        asked.charge(&[("tokens", "a", Some(999))]),
        (Code::Ok, vec![1])
    );
    assert_eq!(
        asked.charge(&[("tokens", "a", Some(500))]),
        (Code::OverLimit, vec![0])
    );
    assert_eq!(asked.charge(&check), (Code::OverLimit, vec![0]));
    // Nothing was charged to another client.
    let other = [("tokens", "b", Some(0))];
    assert_eq!(asked.charge(&other), (Code::Ok, vec![1000]));
}

#[test]
fn a_descriptor_without_a_number_counts_one() {
    let server = Server::start(settings()).unwrap();
    let mut asked = Asked::of(&server);
    for left in (0..10).rev() {
        let charged = asked.charge(&[("tokens", "small", None)]);
        assert_eq!(charged, (Code::Ok, vec![left]));
    }
    let charged = asked.charge(&[("tokens", "small", None)]);
    assert_eq!(charged, (Code::OverLimit, vec![0]));
}

#[test]
fn each_descriptor_has_its_own_limit_or_none() {
    let server = Server::start(settings()).unwrap();
    let mut asked = Asked::of(&server);
    let charges = [
        ("tokens", "free", Some(1_000_000)),
        ("unknown", "a", Some(1)),
        ("tokens", "a", Some(100)),
        ("tokens", "a", Some(100)),
        ("tokens_day", "a", Some(200)),
    ];
    assert_eq!(
        asked.charge(&charges),
        (Code::Ok, vec![0, 0, 900, 800, 4800])
    );
}

#[test]
fn a_window_ends_and_states_its_end() {
    let (clock, time) = Clock::manual(MINUTE + 15);
    let server = Server::start(Settings {
        clock,
        ..settings()
    })
    .unwrap();
    let mut asked = Asked::of(&server);
    let answer = asked.try_charge(&[("tokens", "a", Some(2000))]).unwrap();
    let status = &answer.statuses[0];
    assert_eq!(status.code(), Code::OverLimit);
    assert_eq!(status.duration_until_reset.as_ref().unwrap().seconds, 45);
    assert_eq!(
        status.current_limit.as_ref().unwrap().requests_per_unit,
        1000
    );
    time.store(MINUTE + 59, Ordering::Relaxed);
    let check = [("tokens", "a", Some(0))];
    assert_eq!(asked.charge(&check).0, Code::OverLimit);
    time.store(MINUTE + 60, Ordering::Relaxed);
    assert_eq!(asked.charge(&check), (Code::Ok, vec![1000]));
}

#[test]
fn without_redis_it_fails_instead_of_deciding() {
    let folder = std::env::temp_dir();
    let nowhere = folder.join(format!("no-redis-{}.sock", std::process::id()));
    let store = Store::Redis(format!("redis+unix://{}", nowhere.display()));
    let server = Server::start(Settings {
        store,
        ..settings()
    })
    .unwrap();
    let mut asked = Asked::of(&server);
    let error = asked.try_charge(&[("tokens", "a", Some(1))]);
    assert_eq!(error.unwrap_err().code(), tonic::Code::Unavailable);
}

#[test]
fn an_invalid_url_is_refused() {
    let store = Store::Redis("http://redis".to_owned());
    let error = Server::start(Settings {
        store,
        ..settings()
    });
    let error = error.err().unwrap().to_string();
    assert!(error.starts_with("the URL of Redis: "), "{error}");
}
