//! Expands a list of backends to the plugin configuration that it stands for.

use serde::Deserialize;
use serde_json::{json, Map, Value};

use crate::limits::{take_service, LimitService};
use crate::list::{Endpoint, FilePath, Own, ENDPOINT, OWN, TOKEN_FILE, TOKEN_SOCKET};
use crate::plugin::Engine;
use crate::problem::Problems;
use crate::strict::refused;
use crate::typed;

/// An expanded list of backends.
#[derive(Clone, Debug)]
pub(crate) struct Expanded {
    /// The plugin configuration.
    pub plugin: Value,
    /// The fields that only a list of backends has.
    pub own: Own,
    /// The address of each backend, if it is not its host.
    pub backends: Vec<Option<Endpoint>>,
    /// The addresses of machines' token services, by cluster; `None` for the usual address.
    pub identities: Vec<(String, Option<Endpoint>)>,
    /// The addresses of Entra ID's authorities, by cluster; `None` for the authority's host.
    pub authorities: Vec<(String, Option<Endpoint>)>,
    /// The token files, each with its own cluster.
    pub token_files: Vec<TokenFile>,
    /// The service that keeps clients' limits.
    pub limit_service: Option<LimitService>,
}

/// The place of a token file; `None` for the usual place.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile {
    pub cluster: String,
    pub file: Option<FilePath>,
    pub socket: Option<FilePath>,
}

/// The cluster of the token service of virtual machines and AKS.
pub(crate) const IMDS: &str = "imds";

/// The cluster of the token service of App Service, Container Apps and Functions.
pub(crate) const APP_SERVICE: &str = "app_service_identity";

/// The cluster of Entra ID.
pub(crate) const ENTRA_ID: &str = "entra_id";

/// The cluster of the token file.
pub(crate) const TOKEN_FILE_CLUSTER: &str = "token_file";

/// Removes the list's own fields, and fills in those left out. A field of a wrong type stays unchanged, so that the
/// module's parser reports it.
pub(crate) fn expand(list: &Value, problems: &mut Problems<'_>) -> Expanded {
    let mut plugin = list.clone();
    let Some(root) = plugin.as_object_mut() else {
        return Expanded {
            plugin,
            own: Own::default(),
            backends: Vec::new(),
            identities: Vec::new(),
            authorities: Vec::new(),
            token_files: Vec::new(),
            limit_service: None,
        };
    };
    let own = take_own(root, problems);
    let limit_service = take_service(root, problems);
    name_client_header(root);
    let mut backends = Vec::new();
    let entries = root.get_mut("backends").and_then(Value::as_array_mut);
    for (i, backend) in entries.into_iter().flatten().enumerate() {
        let path = format!("backends[{i}]");
        backends.push(complete_backend(backend, &path, problems));
    }
    let mut places = Places::default();
    if !root.contains_key("identity") && needs_identity(root) {
        root.insert("identity".to_owned(), json!({}));
    }
    if let Some(identity) = root.get_mut("identity") {
        complete_identity(identity, "identity", &mut places, problems);
    }
    // The named identities, if there are any.
    let named = root.get_mut("identities").and_then(Value::as_object_mut);
    for (name, identity) in named.into_iter().flatten() {
        let path = format!("identities.{name}");
        complete_identity(identity, &path, &mut places, problems);
    }
    Expanded {
        plugin,
        own,
        backends,
        identities: places.machines,
        authorities: places.authorities,
        token_files: places.token_files,
        limit_service,
    }
}

/// The sources of identities' tokens.
#[derive(Default)]
struct Places {
    machines: Vec<(String, Option<Endpoint>)>,
    authorities: Vec<(String, Option<Endpoint>)>,
    token_files: Vec<TokenFile>,
}

impl Expanded {
    /// Sets the engine in the plugin configuration.
    pub(crate) fn set_engine(&mut self, engine: Engine) {
        let Some(root) = self.plugin.as_object_mut() else {
            return;
        };
        let retry = root.entry("retry").or_insert_with(|| json!({}));
        let Some(fields) = retry.as_object_mut() else {
            return;
        };
        match engine {
            Engine::Router => fields.insert("engine".to_owned(), json!("router")),
            Engine::Filter => fields.remove("engine"),
        };
        if fields.is_empty() {
            root.remove("retry");
        }
    }
}

/// Sets `headers.client` if affinity or limits need the client's name. Rendered configurations set that header.
fn name_client_header(root: &mut Map<String, Value>) {
    let by_client = |affinity: &Value| affinity["by"] == "client";
    let keeps_together = root.get("affinity").is_some_and(by_client);
    let limits = root.get("limits").is_some_and(Value::is_object);
    if !keeps_together && !limits {
        return;
    }
    let headers = root.entry("headers").or_insert_with(|| json!({}));
    if let Some(headers) = headers.as_object_mut() {
        headers
            .entry("client")
            .or_insert_with(|| json!(render::CLIENT_HEADER));
    }
}

fn take_own(root: &mut Map<String, Value>, problems: &mut Problems<'_>) -> Own {
    let mut own = Own::default();
    // One at a time, so that a mistake in one of them does not hide mistakes in the others.
    for key in OWN {
        let Some(value) = root.remove(key) else {
            continue;
        };
        let alone = Value::Object(Map::from_iter([(key.to_owned(), value)]));
        match typed::from_value::<Own>(&alone) {
            Ok(read) => match key {
                "engine" => own.engine = read.engine,
                "listener" => own.listener = read.listener,
                "admin" => own.admin = read.admin,
                "status" => own.status = read.status,
                "clients" => own.clients = read.clients,
                "module" => own.module = read.module,
                "tls" => own.tls = read.tls,
                _ => own.kubernetes = read.kubernetes,
            },
            Err((path, fault)) => problems.add(&path, fault),
        }
    }
    if let (Some(_), Some(_)) = (&own.clients.keys_file, &own.clients.entra_id) {
        problems.add(
            "clients.entra_id",
            "not allowed beside keys_file; use one of them",
        );
    }
    own
}

fn complete_backend(
    backend: &mut Value,
    path: &str,
    problems: &mut Problems<'_>,
) -> Option<Endpoint> {
    let fields = backend.as_object_mut()?;
    if let Some(host) = fields.get("host").and_then(Value::as_str) {
        let name = name_of(host);
        if !fields.contains_key("name") && !name.is_empty() {
            fields.insert("name".to_owned(), json!(name));
        }
    }
    if let Some(name) = fields.get("name").and_then(Value::as_str) {
        let cluster = format!("aoai_{name}");
        fields.entry("cluster").or_insert_with(|| json!(cluster));
    }
    let endpoint = take_endpoint(fields, path, problems);
    if let Some(Endpoint(url)) = endpoint.as_ref().filter(|e| e.0.path.len() > 1) {
        // The path would be lost: requests have the paths that clients send.
        let form = "a URL without a path; `base_path` is the beginning of paths";
        problems.add(
            &format!("{path}.{ENDPOINT}"),
            refused(&json!(url.to_string()), form),
        );
    }
    endpoint
}

/// The name of a backend with this host: the host's first label.
fn name_of(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    first.chars().filter(allowed).take(64).collect()
}

fn needs_identity(root: &Map<String, Value>) -> bool {
    let backends = root.get("backends").and_then(Value::as_array);
    let has_own = |backend: &Value| {
        ["api_key_env", "identity"]
            .iter()
            .any(|key| backend.get(key).is_some())
    };
    !backends.is_some_and(|backends| !backends.is_empty() && backends.iter().all(has_own))
}

fn complete_identity(
    identity: &mut Value,
    path: &str,
    places: &mut Places,
    problems: &mut Problems<'_>,
) {
    let Some(fields) = identity.as_object_mut() else {
        return;
    };
    let source = fields.get("source").and_then(Value::as_str);
    let source = source.unwrap_or_default().to_owned();
    let (cluster, known) = match source.as_str() {
        "workload_identity" => {
            complete_token_file(fields, path, &mut places.token_files, problems);
            (ENTRA_ID, &mut places.authorities)
        }
        "client_secret" => (ENTRA_ID, &mut places.authorities),
        "app_service" => (APP_SERVICE, &mut places.machines),
        _ => (IMDS, &mut places.machines),
    };
    let cluster = fields.entry("cluster").or_insert_with(|| json!(cluster));
    let cluster = cluster.as_str().unwrap_or_default().to_owned();
    let before = problems.count();
    let endpoint = take_endpoint(fields, path, problems);
    let at = format!("{path}.{ENDPOINT}");
    let index = known.iter().position(|(known, _)| *known == cluster);
    let index = index.unwrap_or_else(|| {
        known.push((cluster.clone(), None));
        known.len() - 1
    });
    let known = &mut known[index].1;
    match (&known, &endpoint) {
        // Several identities of one token service state its address once.
        (None, Some(_)) => *known = endpoint,
        (Some(known), Some(other)) if known != other => problems.add(
            &at,
            format!("differs from that of another identity with cluster {cluster:?}; use a cluster of its own"),
        ),
        (None, None) if source == "app_service" && problems.count() == before => problems.add(
            &at,
            r#"is missing; use the address in IDENTITY_ENDPOINT, such as "http://127.0.0.1:42356""#,
        ),
        _ => {}
    }
}

fn complete_token_file(
    fields: &mut Map<String, Value>,
    path: &str,
    files: &mut Vec<TokenFile>,
    problems: &mut Problems<'_>,
) {
    let cluster = fields
        .entry("token_file_cluster")
        .or_insert_with(|| json!(TOKEN_FILE_CLUSTER));
    let cluster = cluster.as_str().unwrap_or_default().to_owned();
    let index = files.iter().position(|known| known.cluster == cluster);
    let index = index.unwrap_or_else(|| {
        files.push(TokenFile {
            cluster: cluster.clone(),
            file: None,
            socket: None,
        });
        files.len() - 1
    });
    let known = &mut files[index];
    for (key, slot) in [
        (TOKEN_FILE, &mut known.file),
        (TOKEN_SOCKET, &mut known.socket),
    ] {
        let Some(value) = fields.remove(key) else {
            continue;
        };
        let at = format!("{path}.{key}");
        match FilePath::deserialize(value) {
            Ok(file) if slot.as_ref().is_some_and(|known| *known != file) => problems.add(
                &at,
                format!(
                    "differs from that of another identity with token_file_cluster {cluster:?}; use a token_file_cluster of its own"
                ),
            ),
            Ok(file) => *slot = Some(file),
            Err(error) => problems.add(&at, error.to_string()),
        }
    }
}

fn take_endpoint(
    fields: &mut Map<String, Value>,
    path: &str,
    problems: &mut Problems<'_>,
) -> Option<Endpoint> {
    let value = fields.remove(ENDPOINT)?;
    match Endpoint::deserialize(value) {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            problems.add(&format!("{path}.{ENDPOINT}"), error.to_string());
            None
        }
    }
}
