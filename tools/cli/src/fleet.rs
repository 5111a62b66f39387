//! From a checked list of backends to the fleet that an Envoy configuration is rendered from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use render::{
    Admin, Authority, Backend, Certificate, Clients, Fleet, Identity, Listener, Status, TlsOptions,
    TokenFile, TokenIssuer,
};
use serde_json::{Map, Value};

use crate::expand::{Expanded, TOKEN_FILE_CLUSTER};
use crate::fields::default;
use crate::limits::shared;
use crate::list::{Endpoint, EntraId, FilePath, Url};
use crate::plugin::{Engine, Plugin, Source};

/// The default path of the clients' keys.
pub(crate) const KEYS_FILE: &str = "/etc/envoy/clients.yaml";

/// The default path of the module.
const MODULE: &str = "/etc/envoy/azure_openai_balancer.wasm";

/// The default path of a pod's token, where the webhook of Azure Workload Identity projects it:
/// <https://azure.github.io/azure-workload-identity/docs/installation/mutating-admission-webhook.html>.
pub(crate) const TOKEN_FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";

/// The default unix socket of the token file. A second file's socket contains the cluster's name.
pub(crate) const TOKEN_SOCKET: &str = "/tmp/azure-openai-token_file.sock";

/// The fleet that an Envoy configuration is rendered from. With `open`, clients need no key or token.
pub(crate) fn fleet(plugin: &Plugin, expanded: &Expanded, open: bool) -> Fleet {
    let own = &expanded.own;
    let address = |given: Option<IpAddr>, otherwise: Ipv4Addr| {
        given.unwrap_or(IpAddr::V4(otherwise)).to_string()
    };
    let file = |path: &FilePath| path.0.clone();
    let mut identities = identities(expanded).into_iter();
    let mut fleet = Fleet {
        backends: backends(plugin, expanded),
        identity: identities.next(),
        further_identities: identities.collect(),
        authorities: authorities(plugin, expanded),
        token_files: token_files(expanded),
        listener: Listener {
            address: address(
                own.listener.address.as_ref().map(|a| a.0),
                Ipv4Addr::UNSPECIFIED,
            ),
            port: own.listener.port(),
            tls: own.listener.tls.as_ref().map(|tls| Certificate {
                chain: file(&tls.certificate),
                key: file(&tls.key),
            }),
        },
        admin: Admin {
            address: address(own.admin.address.as_ref().map(|a| a.0), Ipv4Addr::LOCALHOST),
            port: own.admin.port(),
        },
        status: own.status.as_ref().map(|status| Status {
            address: address(status.address.as_ref().map(|a| a.0), Ipv4Addr::LOCALHOST),
            port: status.port.0,
        }),
        module: own
            .module
            .as_ref()
            .map_or_else(|| PathBuf::from(MODULE), file),
        plugin: serde_json::to_value(plugin).unwrap_or_default(),
        environment: BTreeMap::new(),
        host_environment: variables(plugin),
        engine: match engine(plugin) {
            Engine::Filter => render::Engine::Filter,
            Engine::Router => render::Engine::Router,
        },
        clients: match open {
            true => Clients::Open,
            false => clients(expanded),
        },
        limits: shared(plugin, expanded.limit_service.as_ref()),
    };
    if let (Some(limits), Some(plugin)) = (&fleet.limits, fleet.plugin.as_object_mut()) {
        // The service keeps the limits, so the module does not.
        plugin.remove("limits");
        if limits.have_tokens() {
            count_all_streams(plugin);
        }
    }
    if let Some(file) = &own.tls.trusted_ca {
        trust(&mut fleet, file);
    }
    fleet
}

/// Sets `usage.streams` if the service has limits of tokens. The module does not see those limits, and streams must
/// report their tokens.
fn count_all_streams(plugin: &mut Map<String, Value>) {
    let usage = plugin.entry("usage").or_insert(Value::Bool(true));
    if *usage == Value::Bool(true) {
        *usage = Value::Object(Map::new());
    }
    if let Some(usage) = usage.as_object_mut() {
        usage.entry("streams").or_insert("always".into());
    }
}

/// Sets the `file` of trusted certificate authorities wherever Envoy uses TLS.
fn trust(fleet: &mut Fleet, file: &FilePath) {
    let backends = fleet.backends.iter_mut().map(|backend| &mut backend.tls);
    let authorities = fleet.authorities.iter_mut().map(|entra| &mut entra.tls);
    let issuer = match &mut fleet.clients {
        Clients::Tokens(issuer) => Some(&mut issuer.tls),
        Clients::Keys { .. } | Clients::Open => None,
    };
    let limits = fleet.limits.iter_mut();
    let limits = limits.map(|limits| &mut limits.service.tls);
    let all = backends.chain(authorities).chain(issuer).chain(limits);
    for options in all.flatten() {
        options.ca_file = Some(file.0.clone());
    }
}

/// The retry engine.
pub(crate) fn engine(plugin: &Plugin) -> Engine {
    let retry = plugin.retry.as_ref();
    retry
        .and_then(|retry| retry.engine)
        .unwrap_or(Engine::Filter)
}

/// The environment variables that the module reads, in the order of their names in the configuration, each once.
pub(crate) fn variables(plugin: &Plugin) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let keys = plugin
        .backends
        .iter()
        .filter_map(|backend| backend.api_key_env.clone());
    let of_identity = plugin.identities().flat_map(variables_of);
    for name in keys.chain(of_identity) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn variables_of(identity: &crate::plugin::Identity) -> Vec<String> {
    let or = |name: &Option<String>, field: &str| {
        let default = || default(&format!("identity.{field}"));
        name.clone()
            .unwrap_or_else(|| default().as_str().unwrap_or_default().to_owned())
    };
    let mut names = Vec::new();
    if identity.source == Some(Source::AppService) {
        names.push(or(&identity.endpoint_env, "endpoint_env"));
        names.push(or(&identity.header_env, "header_env"));
    }
    if identity.is_of_entra() {
        let ids = [
            (&identity.tenant_id, "AZURE_TENANT_ID"),
            (&identity.client_id, "AZURE_CLIENT_ID"),
        ];
        let missing = ids.iter().filter(|(given, _)| given.is_none());
        names.extend(missing.map(|(_, name)| (*name).to_owned()));
    }
    if identity.source == Some(Source::ClientSecret) {
        names.push(or(&identity.client_secret_env, "client_secret_env"));
    }
    names
}

fn backends(plugin: &Plugin, expanded: &Expanded) -> Vec<Backend> {
    let endpoints = expanded.backends.iter().map(Option::as_ref);
    plugin
        .backends
        .iter()
        .zip(endpoints.chain(std::iter::repeat(None)))
        .map(|(backend, endpoint)| {
            // A host may have a port, and its certificate has none.
            let (host, port) = match backend.host.split_once(':') {
                Some((host, port)) => (host, port.parse().unwrap_or(443)),
                None => (backend.host.as_str(), 443),
            };
            let mut rendered = Backend::new(&backend.name, host).at(host, port);
            rendered.cluster.clone_from(&backend.cluster);
            match endpoint {
                Some(endpoint) => {
                    let Url {
                        tls, host, port, ..
                    } = &endpoint.0;
                    rendered.at(host, *port).tls(tls.then(TlsOptions::default))
                }
                None => rendered,
            }
        })
        .collect()
}

fn identities(expanded: &Expanded) -> Vec<Identity> {
    let identities = expanded.identities.iter();
    identities
        .map(|(cluster, endpoint)| {
            let mut identity = Identity::imds();
            identity.cluster.clone_from(cluster);
            match endpoint {
                Some(endpoint) => identity.at(&endpoint.0.host, endpoint.0.port),
                None => identity,
            }
        })
        .collect()
}

fn authorities(plugin: &Plugin, expanded: &Expanded) -> Vec<Authority> {
    let authorities = expanded.authorities.iter();
    authorities
        .map(|(cluster, endpoint)| {
            let mut identities = plugin.identities();
            let identity = identities.find(|identity| identity.cluster == *cluster);
            let host = identity.and_then(|identity| identity.authority_host.as_deref());
            let host = host.unwrap_or_default();
            let host = host.strip_prefix("https://").unwrap_or(host);
            let (host, port) = match host.split_once(':') {
                Some((host, port)) => (host, port.parse().unwrap_or(443)),
                None => (host, 443),
            };
            let (address, port, tls) = match endpoint {
                Some(Endpoint(url)) => (url.host.as_str(), url.port, url.tls),
                None => (host, port, true),
            };
            Authority {
                cluster: cluster.clone(),
                host: host.to_owned(),
                address: address.to_owned(),
                port,
                tls: tls.then(TlsOptions::default),
            }
        })
        .collect()
}

fn token_files(expanded: &Expanded) -> Vec<TokenFile> {
    let files = expanded.token_files.iter();
    files
        .map(|file| {
            let or = |given: &Option<FilePath>, default: &str| {
                given
                    .as_ref()
                    .map_or_else(|| PathBuf::from(default), |path| path.0.clone())
            };
            let socket = TOKEN_SOCKET.replace(TOKEN_FILE_CLUSTER, &file.cluster);
            TokenFile {
                cluster: file.cluster.clone(),
                file: or(&file.file, TOKEN_FILE),
                socket: or(&file.socket, &socket),
            }
        })
        .collect()
}

fn clients(expanded: &Expanded) -> Clients {
    let clients = &expanded.own.clients;
    match &clients.entra_id {
        Some(entra_id) => Clients::Tokens(token_issuer(entra_id)),
        None => Clients::Keys {
            file: match &clients.keys_file {
                Some(file) => file.0.clone(),
                None => PathBuf::from(KEYS_FILE),
            },
        },
    }
}

/// The issuer of clients' tokens.
pub(crate) fn token_issuer(entra_id: &EntraId) -> TokenIssuer {
    let tenant = &entra_id.tenant.0;
    let at = |path: &str| Url {
        tls: true,
        host: "login.microsoftonline.com".to_owned(),
        port: 443,
        path: format!("/{tenant}/{path}"),
    };
    let jwks = match &entra_id.jwks {
        Some(jwks) => jwks.0.clone(),
        None => at("discovery/v2.0/keys"),
    };
    let issuer = match &entra_id.issuer {
        Some(issuer) => issuer.0.clone(),
        None => at("v2.0"),
    };
    let claim = entra_id.client_claim.as_ref();
    TokenIssuer {
        issuer: issuer.to_string(),
        audience: entra_id.audience.0.clone(),
        client_claim: claim.map_or_else(|| "azp".to_owned(), |claim| claim.0.clone()),
        jwks: jwks.to_string(),
        host: jwks.host,
        port: jwks.port,
        tls: jwks.tls.then(TlsOptions::default),
    }
}
