//! Envoy's own authentication of clients, before the module.

use std::path::Path;

use crate::yaml::{folder_of, indented, item, quoted};
use crate::{limits, Clients, Fleet, TokenIssuer};

/// The cluster that serves the keys of tokens' signatures.
pub(crate) const JWKS_CLUSTER: &str = "client_token_keys";

/// The name of the filter's configuration in the file of keys.
const KEYS: &str = "clients";

/// A client's key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The client's name, for statistics and the access log.
    pub client: String,
    /// The key itself.
    pub key: String,
}

/// The file of keys in Envoy's form: the configuration of its filter `api_key_auth`. The filter in the listener refers
/// to it and contains no key. The request header `client_header` gets the client's name.
pub fn keys_file(client_header: &str, keys: &[Key]) -> String {
    let credentials: String = keys
        .iter()
        .map(|Key { client, key }| {
            let (client, key) = (quoted(client), quoted(key));
            format!("    - client: {client}\n      key: {key}\n")
        })
        .collect();
    let credentials = match credentials.as_str() {
        "" => "    credentials: []\n".to_owned(),
        some => format!("    credentials:\n{some}"),
    };
    format!(
        "\
# The clients of the Azure OpenAI balancer, and their keys. Keep this file from everyone but Envoy.
#
# To add or remove a client, write a new file and rename it to this one: Envoy reads it at once, without a restart.
resources:
- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig
  name: {KEYS}
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth
{credentials}    # Where clients put their key: the openai SDKs in the first two (after `Bearer `), those of API Management in the third,
    # Anthropic's in the fourth.
    key_sources:
    - header: api-key
    - header: authorization
    - header: ocp-apim-subscription-key
    - header: x-api-key
    forwarding:
      header: {header}
      hide_credentials: true
",
        header = quoted(client_header),
    )
}

/// The authentication filter before the module, as one of the listener's filters. In an open configuration it is a
/// comment with a warning.
pub(crate) fn filter(fleet: &Fleet) -> String {
    let comment = match &fleet.clients {
        Clients::Open => {
            "\
# Everyone who reaches this listener is served and spends the resources' quota: no filter here asks who it is.
"
        }
        Clients::Keys { .. } => {
            "\
# Clients need a key from this file, which `azure-openai-balancer keys` makes. Without the file Envoy does not start.
"
        }
        Clients::Tokens(_) => {
            "\
# Who may ask: those who have a token of this issuer for this audience.
"
        }
    };
    let filter = block(fleet).map(|block| item(&block));
    format!("{comment}{}", filter.unwrap_or_default())
}

/// The filter alone.
pub(crate) fn block(fleet: &Fleet) -> Option<String> {
    match &fleet.clients {
        Clients::Open => None,
        Clients::Keys { file } => Some(by_key(file)),
        Clients::Tokens(issuer) => Some(by_token(fleet, issuer)),
    }
}

fn by_key(file: &Path) -> String {
    let folder = folder_of(file);
    format!(
        "\
name: {KEYS}
config_discovery:
  config_source:
    resource_api_version: V3
    path_config_source:
      path: {file}
      watched_directory:
        path: {folder}
  type_urls:
  - type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth
",
        file = quoted(&file.to_string_lossy()),
        folder = quoted(&folder.to_string_lossy()),
    )
}

fn by_token(fleet: &Fleet, issuer: &TokenIssuer) -> String {
    format!(
        "\
name: envoy.filters.http.jwt_authn
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
  providers:
    clients:
      issuer: {name}
      audiences: [{audience}]
      remote_jwks:
        http_uri:
          uri: {jwks}
          cluster: {JWKS_CLUSTER}
          timeout: 5s
        cache_duration: 600s
        # The keys are fetched before the first request, and before the old ones are too old.
        async_fetch: {{}}
        retry_policy:
          num_retries: 3
      claim_to_headers:
      - header_name: {header}
        claim_name: {claim}
  rules:
  - match:
      prefix: /
    requires:
      provider_name: clients
",
        name = quoted(&issuer.issuer),
        audience = quoted(&issuer.audience),
        jwks = quoted(&issuer.jwks),
        header = quoted(fleet.client_header()),
        claim = quoted(&issuer.client_claim),
    )
}

/// Refusals in the shapes that clients parse; empty in an open configuration.
pub(crate) fn refusals(fleet: &Fleet) -> String {
    let mut mappers = mapper(fleet);
    if let Some(limits) = &fleet.limits {
        mappers.push_str(&limits::mappers(limits));
    }
    if mappers.is_empty() {
        return mappers;
    }
    format!(
        "\
# Refusals have the shape that OpenAI's clients parse.
local_reply_config:
  mappers:
{}",
        indented(&mappers, 2)
    )
}

fn mapper(fleet: &Fleet) -> String {
    let (condition, code, message) = match &fleet.clients {
        Clients::Open => return String::new(),
        // Envoy before 1.40 misspells one of the details.
        Clients::Keys { .. } => (
            "response.code_details in ['missing_api_key', 'unknown_api_key', 'unkonwn_api_key']",
            "invalid_api_key",
            "Access denied: the request has no API key, or one that this gateway does not know.",
        ),
        Clients::Tokens(_) => (
            "response.code_details.startsWith('jwt_authn_access_denied')",
            "invalid_token",
            "Access denied: the request has no access token, or one that this gateway does not accept.",
        ),
    };
    let filter = indented(
        &format!(
            "\
extension_filter:
  name: by_details
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter
    expression: {}
",
            quoted(condition)
        ),
        4,
    );
    format!(
        "\
- filter:
{filter}  body_format_override:
    json_format:
      error:
        code: {code}
        message: {message}
        type: invalid_request_error
        param: null
",
        code = quoted(code),
        message = quoted(message),
    )
}
