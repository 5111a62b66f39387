//! `limits.service`: a rate limit service keeps the limits of clients for all Envoys, in the module's place.

use std::collections::BTreeMap;

use render::{SharedLimits, TlsOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::list::Endpoint;
use crate::plugin::{ClientLimits, Plugin};
use crate::problem::Problems;
use crate::strict::{object, refused};
use crate::typed;

/// The field of `limits` with the service.
pub const SERVICE: &str = "service";

/// The largest limit of a rate limit service: the protocol has 32 bits for it.
const LARGEST: u64 = 4_294_967_295;

/// A rate limit service, which keeps the limits for all Envoys together.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitService {
    /// The service's address. The service speaks gRPC, with TLS if this is `https`.
    pub endpoint: Endpoint,
    /// The treatment of requests while it does not answer: they pass without limits, or they are answered 503.
    #[serde(default, deserialize_with = "on_failure")]
    #[schemars(extend("default" = "pass"))]
    pub on_failure: Option<OnFailure>,
}

/// The treatment of requests while the service does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnFailure {
    /// They pass, and nothing is limited.
    Pass,
    /// They are answered 503.
    Refuse,
}

fn on_failure<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OnFailure>, D::Error> {
    let value = Value::deserialize(from)?;
    match value.as_str() {
        Some("pass") => Ok(Some(OnFailure::Pass)),
        Some("refuse") => Ok(Some(OnFailure::Refuse)),
        _ => Err(serde::de::Error::custom(refused(
            &value,
            r#""pass" or "refuse""#,
        ))),
    }
}

/// An object with the service alone, so that errors name its place.
#[derive(Deserialize)]
struct Alone {
    #[serde(deserialize_with = "object")]
    service: LimitService,
}

/// Removes the service from the list of backends. The module's configuration has no such field.
pub(crate) fn take_service(
    root: &mut Map<String, Value>,
    problems: &mut Problems<'_>,
) -> Option<LimitService> {
    let limits = root.get_mut("limits").and_then(Value::as_object_mut)?;
    let service = limits.remove(SERVICE)?;
    let alone = Value::Object(Map::from_iter([(SERVICE.to_owned(), service)]));
    match typed::from_value::<Alone>(&alone) {
        Ok(alone) => {
            if alone.service.endpoint.0.path.len() > 1 {
                problems.add(
                    "limits.service.endpoint",
                    "has a path, which gRPC does not use; use a URL without one",
                );
            }
            Some(alone.service)
        }
        Err((path, fault)) => {
            problems.add(&format!("limits.{path}"), fault);
            None
        }
    }
}

/// Warns of a service without limits.
pub(crate) fn warn(plugin: &Plugin, service: Option<&LimitService>, warnings: &mut Problems<'_>) {
    if service.is_some() && shared(plugin, service).is_none() {
        warnings.add(
            "limits.service",
            "warning: the service has no limits to count; set `limits.default` or `limits.clients`",
        );
    }
}

/// Refuses limits that a service cannot keep.
pub(crate) fn check_limits(plugin: &Plugin, problems: &mut Problems<'_>) {
    let limits = plugin.limits.iter().flatten().next();
    let clients = limits.and_then(|limits| limits.clients.as_ref());
    let own = clients.into_iter().flatten();
    let own = own.filter_map(|(name, limits)| Some((format!("clients.{name}"), limits.as_ref()?)));
    let default = limits.and_then(|limits| limits.default.as_ref());
    let all = default.map(|default| ("default".to_owned(), default));
    let all: Vec<_> = all.into_iter().chain(own).collect();
    for (place, limits) in all {
        for (field, limit) in [
            ("tokens_per_minute", limits.tokens_per_minute),
            ("tokens_per_day", limits.tokens_per_day),
            ("requests_per_minute", limits.requests_per_minute),
        ] {
            if let Some(limit) = limit.flatten().filter(|limit| *limit > LARGEST) {
                problems.add(
                    &format!("limits.{place}.{field}"),
                    format!("{limit} is not allowed with a rate limit service; use 1 to {LARGEST}, or null for no limit"),
                );
            }
        }
    }
}

/// The limits that the service keeps, if there are any.
pub(crate) fn shared(plugin: &Plugin, service: Option<&LimitService>) -> Option<SharedLimits> {
    let (service, limits) = (service?, plugin.limits.as_ref()?.as_ref()?);
    let nothing = render::ClientLimits::default();
    let default = limits.default.as_ref();
    let default = default.map_or(nothing, |limits| of_client(limits, nothing));
    let clients = limits.clients.iter().flatten();
    let clients = clients.map(|(name, own)| {
        let own = own.as_ref().map_or(nothing, |own| of_client(own, default));
        (name.clone(), own)
    });
    let clients: BTreeMap<_, _> = clients.collect();
    if clients
        .values()
        .chain([&default])
        .all(|limits| *limits == nothing)
    {
        return None;
    }
    let url = &service.endpoint.0;
    Some(SharedLimits {
        service: render::LimitService {
            address: url.host.clone(),
            port: url.port,
            tls: url.tls.then(TlsOptions::default),
        },
        timeout: render::LIMIT_SERVICE_TIMEOUT,
        on_failure: match service.on_failure {
            None | Some(OnFailure::Pass) => render::OnFailure::Pass,
            Some(OnFailure::Refuse) => render::OnFailure::Refuse,
        },
        default,
        clients,
    })
}

/// A client's limits, with `otherwise` for limits that it does not set.
fn of_client(limits: &ClientLimits, otherwise: render::ClientLimits) -> render::ClientLimits {
    let limit = |own: Option<Option<u64>>, otherwise| match own {
        None => otherwise,
        Some(own) => own.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
    };
    render::ClientLimits {
        tokens_per_minute: limit(limits.tokens_per_minute, otherwise.tokens_per_minute),
        tokens_per_day: limit(limits.tokens_per_day, otherwise.tokens_per_day),
        requests_per_minute: limit(limits.requests_per_minute, otherwise.requests_per_minute),
    }
}
