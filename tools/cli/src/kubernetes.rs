//! The common part of Istio and Envoy Gateway: Kubernetes resources, and clusters that a control plane names.

use std::collections::BTreeSet;
use std::path::Path;

use render::{Clients, Engine, Fleet};
use serde_json::json;

use crate::document::Position;
use crate::expand::Expanded;
use crate::plugin::{AffinityKey, Backend, Ids, Plugin, Source, Unlisted};
use crate::{list, Options, Problem};

/// A control plane's names for clusters.
#[derive(Clone, Copy)]
pub(crate) struct Clusters {
    /// The cluster of the backend with this index and host.
    pub backend: fn(&Names, usize, &str) -> String,
    /// The cluster of the identity with this index, after this many backends.
    pub identity: fn(&Names, usize, usize) -> String,
    /// A folder in which Envoy can make a unix socket.
    pub sockets: &'static str,
}

/// The names of the rendered resources.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub namespace: String,
    pub image: String,
    pub host: String,
    pub gateway: String,
    pub tls_secret: String,
}

/// The input of rendered resources.
#[derive(Clone, Debug)]
pub(crate) struct Kubernetes {
    pub names: Names,
    /// The fleet, with the control plane's names of clusters.
    pub fleet: Fleet,
    /// A name for each backend that Kubernetes allows.
    pub resources: Vec<String>,
    /// Whether to render every feature, by patches of Envoy's configuration.
    pub full: bool,
    plugin: Plugin,
}

/// The default path of a file of keys: the mounted Secret.
const KEYS_FILE: &str = "/etc/azure-openai/clients.yaml";

impl Kubernetes {
    /// # Errors
    /// Settings that cannot be expressed for Kubernetes.
    pub(crate) fn new(
        mut plugin: Plugin,
        expanded: &Expanded,
        options: Options,
        clusters: Clusters,
    ) -> Result<Self, Vec<Problem>> {
        let named = plugin.identities.iter().flatten();
        let named = named.map(|(name, identity)| (format!("identities.{name}.source"), identity));
        let identity = plugin.identity.iter();
        let problems: Vec<_> = identity
            .map(|identity| ("identity.source".to_owned(), identity))
            .chain(named)
            .filter(|(_, identity)| identity.source == Some(Source::AppService))
            .map(|(path, _)| {
                let text = "\"app_service\" is not there in Kubernetes; use \"workload_identity\" or \"imds\"";
                Problem::new(Position::START, &path, text.to_owned())
            })
            .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let own = &expanded.own.kubernetes;
        let name = |given: &Option<list::KubernetesName>, default: &str| {
            let given = given.as_ref().map(|name| name.0.as_str());
            given.unwrap_or(default).to_owned()
        };
        let word = |given: &Option<list::Word>, default: &str| {
            let given = given.as_ref().map(|word| word.0.as_str());
            given.unwrap_or(default).to_owned()
        };
        let names = Names {
            namespace: name(&own.namespace, "azure-openai"),
            image: word(&own.image, "ghcr.io/contoso/azure-openai-balancer:0.1.0"),
            host: word(&own.host, "openai.example.com"),
            gateway: name(&own.gateway, "azure-openai"),
            tls_secret: name(&own.tls_secret, "azure-openai-tls"),
        };
        let count = plugin.backends.len();
        for (i, backend) in plugin.backends.iter_mut().enumerate() {
            backend.cluster = (clusters.backend)(&names, i, &backend.host);
        }
        let mut expanded = expanded.clone();
        for (i, (cluster, _)) in expanded.identities.iter_mut().enumerate() {
            let renamed = (clusters.identity)(&names, i, count);
            // Several identities may use one token service.
            for identity in plugin
                .identities_mut()
                .filter(|identity| identity.cluster == *cluster)
            {
                identity.cluster.clone_from(&renamed);
            }
            *cluster = renamed;
        }
        let mut fleet = crate::fleet::fleet(&plugin, &expanded, options.open);
        if plugin.left_to_envoy.is_none() {
            // The control plane makes routes and clusters, apart from the patches of the router engine. These do not
            // set the hosts.
            let mut left = fleet.left_to_envoy();
            left.retain(|what| fleet.engine == Engine::Router && *what != "host");
            fleet.plugin["left_to_envoy"] = json!(left);
        }
        if let (Clients::Keys { file }, None) =
            (&mut fleet.clients, &expanded.own.clients.keys_file)
        {
            *file = KEYS_FILE.into();
        }
        for (file, given) in fleet.token_files.iter_mut().zip(&expanded.token_files) {
            if given.socket.is_none() {
                let name = file.socket.file_name().unwrap_or_default().to_owned();
                file.socket = Path::new(clusters.sockets).join(name);
            }
        }
        Ok(Self {
            names,
            resources: resource_names(&plugin),
            full: options.full,
            fleet,
            plugin,
        })
    }

    /// The features of this list of backends that need bodies.
    pub(crate) fn read_in_bodies(&self) -> Vec<&'static str> {
        let Plugin {
            backends,
            state,
            affinity,
            ..
        } = &self.plugin;
        let renames = |backend: &Backend| {
            let deployments = backend.deployments.iter().flatten();
            let mut renamed = deployments.filter(|(ours, theirs)| ours != theirs);
            renamed.next().is_some() || backend.unlisted_deployments == Some(Unlisted::Refuse)
        };
        let affinity = affinity.iter().flatten().next();
        let by_body = affinity.is_some_and(|affinity| affinity.by == AffinityKey::PromptCacheKey);
        let ids = state.as_ref().and_then(|state| state.ids);
        let several = backends.len() > 1;
        let needed = [
            (backends.iter().any(renames), "`deployments` in the v1 API"),
            (
                several && ids != Some(Ids::Plain),
                "ids in bodies (`previous_response_id`)",
            ),
            (several && by_body, "`affinity` by `prompt_cache_key`"),
            (several, "the codes of errors (401, 403, 404, in streams)"),
        ];
        let needed = needed.into_iter().filter(|(is_needed, _)| *is_needed);
        needed.map(|(_, what)| what).collect()
    }
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// Unique names in the form that Kubernetes allows (RFC 1123).
fn resource_names(plugin: &Plugin) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let names = plugin.backends.iter().enumerate();
    names
        .map(|(i, backend)| {
            let name = backend.name.to_ascii_lowercase().replace('_', "-");
            let name = format!("azure-openai-{}", name.trim_matches('-'));
            match taken.insert(name.clone()) {
                true => name,
                false => format!("{name}-{i}"),
            }
        })
        .collect()
}

/// Comments about the needs of the rate limit service.
pub(crate) fn limit_notes(fleet: &Fleet) -> &'static str {
    match fleet.limits {
        Some(_) => {
            "\
#
# The limits are kept by a rate limit service, which runs beside: Envoy's reference service (envoyproxy/ratelimit) with Redis.
# `azure-openai-balancer render ratelimit` writes the file of limits that it reads.
"
        }
        None => "",
    }
}

/// Comments about the pods' needs for an identity of Entra ID.
pub(crate) fn identity_notes(fleet: &Fleet) -> String {
    let files = fleet.token_files.iter();
    files
        .map(|file| {
            format!(
                "\
#
# The pods need the label `azure.workload.identity/use: \"true\"` and a service account of workload identity. The webhook then sets
# AZURE_CLIENT_ID and AZURE_TENANT_ID, and projects the token file. AZURE_FEDERATED_TOKEN_FILE has to be
# {}; set `token_file` if it is another one.
",
                file.file.display()
            )
        })
        .collect()
}

/// The variables that come from a Secret. A webhook sets those of workload identity.
pub(crate) fn secret_variables(fleet: &Fleet) -> Vec<&str> {
    let names = fleet.host_environment.iter().map(String::as_str);
    let is_webhooks = |name: &str| matches!(name, "AZURE_CLIENT_ID" | "AZURE_TENANT_ID");
    names
        .filter(|name| fleet.token_files.is_empty() || !is_webhooks(name))
        .collect()
}

/// One resource: its head, then its `spec` as a block of YAML.
pub(crate) fn resource(
    comment: &str,
    version: &str,
    kind: &str,
    name: &str,
    names: &Names,
    spec: &str,
) -> String {
    format!(
        "\
---
{comment}apiVersion: {version}
kind: {kind}
metadata:
  name: {name}
  namespace: {namespace}
spec:
{spec}",
        name = render::yaml::quoted(name),
        namespace = render::yaml::quoted(&names.namespace),
        spec = render::yaml::indented(spec, 2),
    )
}
