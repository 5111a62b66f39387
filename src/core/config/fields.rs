//! Every field of the configuration, described once.
//!
//! A new field is described here and read by the parser. The schemas in `schema/`, the tables of `docs/configuration.md` and the
//! tool's suggestions follow: `UPDATE_GOLDEN=1 cargo test -p cli` writes them.

use core::time::Duration;

use super::affinity::MOST_FORM;
use super::backend::{is_base_path, BASE_FORM, HOST_FORM, VERSION_FORM};
use super::field::{
    integer, object, own, quantity, text, Choice, Description, Field, Flag, Group, Hundredths,
    Integer, Own, Quantity, Text, Variable,
};
use super::forms::{
    is_header_name, is_header_text, is_host, is_name, CLUSTER_FORM, HEADER_FORM, NAME_FORM,
};
use super::identity::{
    is_authority, is_tenant, SourceKind, AUDIENCE_FORM, AUTHORITY_FORM, ID_FORM, TENANT_FORM,
    TOKEN_FILE_FORM,
};
use super::objects::HOME_FORM;
use super::usage::PRICE_FORM;
use super::{Engine, Ids, Policy, Streams, Unlisted, MAX_ATTEMPTS, MAX_LIMIT};
use crate::operation::Api;
use crate::prelude::*;

// The schemas of texts. The parser checks the same forms with functions.
const NAME: &str = r#"{"pattern": "^[A-Za-z0-9_-]{1,64}$"}"#;
const HEADER_TEXT: &str = r#"{"pattern": "^[!-~]+$"}"#;
const HEADER_NAME: &str = r#"{"pattern": "^[a-z0-9_-]+$"}"#;
const HOST: &str = r#"{"pattern": "^[A-Za-z0-9\\-.:_\\[\\]]+$"}"#;
const VARIABLE: &str = r#"{"pattern": "^(?!.*[A-Za-z0-9]{32})[A-Za-z_][A-Za-z0-9_]*$"}"#;
/// `null` disables the feature of the field.
const NULLABLE: &str = r#"{"x-nullable": true}"#;
const NULL: &str = r#"{"x-nullable": true, "default": null}"#;
// The token sources to which a field of an identity applies.
const OF_IMDS: &str = r#"{"x-source": "imds"}"#;
const OF_APP_SERVICE: &str = r#"{"x-source": "app_service"}"#;
const OF_MACHINES: &str = r#"{"x-source": ["imds", "app_service"]}"#;
const OF_WORKLOADS: &str = r#"{"x-source": "workload_identity"}"#;
const OF_SECRETS: &str = r#"{"x-source": "client_secret"}"#;
const OF_ENTRA: &str = r#"{"x-source": ["workload_identity", "client_secret"]}"#;

object! {
    /// Configuration of the Azure OpenAI balancer, an Envoy HTTP filter.
    plugin "Plugin" {
        /// The Azure OpenAI resources, 1 to 100.
        BACKENDS: Own = own("backends", "a list of backends").required(), => backend,
            with r#"{"type": "array", "minItems": 1, "maxItems": 100}"#;
        /// How the filter chooses among backends of the same priority. `"round_robin"`: in turn, by weight.
        /// `"least_throttled"`: in proportion to the tokens left of each quota. The answers of the last minute report
        /// them in `x-ratelimit-remaining-tokens`. An unknown quota counts as the average.
        POLICY: Choice<Policy> = Choice {
            name: "policy",
            values: &[("round_robin", Policy::RoundRobin), ("least_throttled", Policy::LeastThrottled)],
        };
        /// Keeps related requests together on one backend, so that its [prompt cache](behaviour.md#prompt-caches) serves them. `null`
        /// disables it.
        AFFINITY: Own = own("affinity", ""), => affinity, with NULL;
        /// The time in which a failing or throttled backend gets no requests, by cause. `null` disables cooldowns.
        COOLDOWN: Own = own("cooldown", ""), => cooldown, with NULLABLE;
        /// The source of access tokens. Required unless every backend has an `api_key_env` or names one of `identities`.
        IDENTITY: Own = own("identity", ""), => identity;
        /// Further identities by name, 1 to 20, each an object like `identity`.
        IDENTITIES: Own = own("identities", ""), => identity, with r#"{
            "type": "object", "minProperties": 1, "maxProperties": 20, "propertyNames": {"pattern": "^[A-Za-z0-9_-]{1,64}$"}
        }"#;
        /// When and how requests are retried.
        RETRY: Own = own("retry", ""), => retry;
        /// The backend for new objects, and the ids of objects that clients see.
        STATE: Own = own("state", ""), => state;
        /// Requests for paths outside `/openai/`. `"refuse"`: answered 404. `"pass"`: sent to a backend and not
        /// retried. A list of paths, such as `["/mai/v1/", "/providers/"]`, passes the requests below these paths and
        /// refuses all others. It also refuses paths with `..`, `%` or a backslash.
        OTHER_PATHS: Own = own("other_paths", r#""refuse", "pass" or a list of paths such as ["/providers/"]"#), with r#"{
            "default": "refuse", "anyOf": [
                {"type": "string", "enum": ["refuse", "pass"]},
                {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)+$"}}
            ]
        }"#;
        /// The limits of each client, in each Envoy. `null` disables limits.
        LIMITS: Own = own("limits", ""), => limits, with NULL;
        /// The names of the headers that the filter reads and writes.
        HEADERS: Own = own("headers", ""), => headers;
        /// Whether the filter counts the [tokens](usage.md) that answers report, per backend, deployment and client,
        /// and keeps them for the access log. `false` disables it. An object such as `{"prices": ...}` sets how tokens
        /// are counted.
        USAGE: Own = own(
            "usage",
            r#"true, false or an object such as {"prices": {"gpt-4o": {"prompt": 2.5, "completion": 10}}}"#,
        ), => usage, with r#"{"default": true, "anyOf": [{"type": "boolean"}]}"#;
        /// Settings that Envoy's own configuration makes in place of the filter. Each saves one host call per request. `"timeout"`: the
        /// route sets `retry_policy.per_try_timeout` to the value of `retry.per_try_timeout`. `"host"`: the route sets
        /// `auto_host_rewrite`, the cluster's hosts are named like `backends[].host`, and the router has `suppress_envoy_headers`.
        /// Rendered Envoy configurations use both, or `"host"` alone if a backend has a `first_byte_timeout`.
        LEFT_TO_ENVOY: Own = own("left_to_envoy", r#"a list of "timeout" and "host""#), with r#"{
            "default": [], "type": "array", "items": {"type": "string", "enum": ["timeout", "host"]}
        }"#;
    }
}

object! {
    /// An Azure OpenAI resource.
    backend "Backend" {
        /// The backend's name in headers, statistics and logs. Unique.
        NAME: Text = text("name", NAME_FORM, is_name).required(), with super::NAME;
        /// The Envoy cluster of this backend. Unique.
        CLUSTER: Text = text("cluster", CLUSTER_FORM, is_header_text).required(), with HEADER_TEXT;
        /// The host name of the resource, sent as `:authority`. Several backends may share a host. For example, a
        /// provisioned and a pay-as-you-go deployment of one resource are two backends, each with its own `priority`
        /// and `deployments`.
        HOST: Text = text("host", HOST_FORM, is_host).required(), with super::HOST;
        /// The backend's rank; lower is first. A backend serves only while every backend with a lower number is unavailable.
        PRIORITY: Integer = integer("priority", 0..=255, 0);
        /// The backend's share of the requests within its priority.
        WEIGHT: Integer = integer("weight", 1..=100, 1);
        /// How long the backend's answer may take to begin. Only a value below `retry.per_try_timeout` has an
        /// effect. An event stream begins with its first content, unless `retry.stream_start` is `0s`. With the filter
        /// engine this limits a request's first attempt. With the router engine Envoy applies one limit to all
        /// attempts, the largest of all backends' limits. Not allowed together with `left_to_envoy: ["timeout"]`.
        FIRST_BYTE_TIMEOUT: Quantity<Duration> = quantity("first_byte_timeout", "100ms"..="1h", "");
        /// How long the backend's event streams may be silent. The default is `retry.stream_idle_timeout`.
        STREAM_IDLE_TIMEOUT: Quantity<Duration> = quantity("stream_idle_timeout", "1s"..="15m", "");
        /// The backend's own deployment names, by the names that clients use, in any case: `{"gpt-4o": "gpt4o-eu"}`. At
        /// most 200 names, each of 1 to 128 letters, digits, `-`, `_` and `.`.
        DEPLOYMENTS: Own = own("deployments", r#"an object such as {"gpt-4o": "gpt-4o-eu"}"#), with r#"{
            "type": "object", "maxProperties": 200,
            "propertyNames": {"pattern": "^[A-Za-z0-9._-]{1,128}$"},
            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
        }"#;
        /// `"pass"`: an unlisted deployment has the same name on this backend. `"refuse"`: the backend does not have
        /// it, and requests for it go to other backends.
        UNLISTED_DEPLOYMENTS: Choice<Unlisted> = Choice {
            name: "unlisted_deployments",
            values: &[("pass", Unlisted::Pass), ("refuse", Unlisted::Refuse)],
        };
        /// The `api-version` that replaces the client's in requests to this backend. Requests of the v1 API are not
        /// changed.
        API_VERSION: Text = text("api_version", VERSION_FORM, is_name), with super::NAME;
        /// A prefix before `/openai` in the backend's paths, such as `"/api/projects/contoso"`.
        BASE_PATH: Text = text("base_path", BASE_FORM, is_base_path), with r#"{"pattern": "^/[!-\"$->@-~]*[!-\"$-.0->@-~]$"}"#;
        /// The APIs that the backend has. By default it has all of them, but `messages` only if its host ends in
        /// `.services.ai.azure.com`. The names are `chat` (and completions), `responses` (and conversations),
        /// `embeddings`, `images`, `audio`, `videos`; `files` (and uploads, vector stores, containers), `batches`,
        /// `realtime`, `assistants` (and threads), `fine_tuning`, `messages` (Claude).
        APIS: Own = own("apis", ""), with r#"{"type": "array", "minItems": 1}"#, with apis();
        /// The name of one of `identities`, whose token this backend gets. The default is `identity`.
        IDENTITY: Text = text("identity", "the name of one of `identities`", |_| true), with super::NAME;
        /// The environment variable with the backend's API key, sent as `api-key` instead of a token. Pass the variable
        /// in `vm_config.environment_variables`.
        API_KEY_ENV: Variable = Variable { name: "api_key_env", default: "" }, with VARIABLE;
    }
}

/// The schema of a list of APIs.
fn apis() -> String {
    let names = Api::ALL.map(Api::name).join("\", \"");
    format!(r#"{{"items": {{"type": "string", "enum": ["{names}"]}}}}"#)
}

object! {
    /// The source of the access tokens that backends accept.
    identity "Identity" {
        /// `"imds"` (virtual machines), `"app_service"` (App Service, Container Apps, Functions), `"workload_identity"` (AKS) or
        /// `"client_secret"`; see [identity](identity.md).
        SOURCE: Choice<SourceKind> = Choice {
            name: "source",
            values: &[
                ("imds", SourceKind::Imds),
                ("app_service", SourceKind::AppService),
                ("workload_identity", SourceKind::WorkloadIdentity),
                ("client_secret", SourceKind::ClientSecret),
            ],
        };
        /// The Envoy cluster of the token service, or of Entra ID's authority.
        CLUSTER: Text = text("cluster", CLUSTER_FORM, is_header_text).required(), with HEADER_TEXT;
        /// The audience of the token. The default follows from the hosts of the identity's backends.
        /// `*.services.ai.azure.com`: `https://ai.azure.com`. `*.azure.us`: `https://cognitiveservices.azure.us`.
        /// `*.azure.cn`: `https://cognitiveservices.azure.cn`. Foundry hosts together with other hosts of the public
        /// cloud: the default. Hosts in different clouds need one identity each, in `identities`. Backends answer a
        /// wrong audience with 401 (`bad_token`); the log then names the audience that was used and the alternative.
        RESOURCE: Text = text("resource", AUDIENCE_FORM, is_header_text), with HEADER_TEXT,
            with r#"{"default": "https://cognitiveservices.azure.com"}"#;
        /// The client id of a user-assigned identity. Set at most one of the four ids. With `workload_identity` and
        /// `client_secret`: the client id of the application or the managed identity. Its default is the variable
        /// `AZURE_CLIENT_ID`.
        CLIENT_ID: Text = text("client_id", ID_FORM, is_header_text), with HEADER_TEXT;
        /// The object id of a user-assigned identity, with `imds` and `app_service`.
        OBJECT_ID: Text = text("object_id", ID_FORM, is_header_text), with HEADER_TEXT, with OF_MACHINES;
        /// The resource id of a user-assigned identity, with `imds`.
        MSI_RES_ID: Text = text("msi_res_id", ID_FORM, is_header_text), with HEADER_TEXT, with OF_IMDS;
        /// The resource id of a user-assigned identity, with `app_service`.
        MI_RES_ID: Text = text("mi_res_id", ID_FORM, is_header_text), with HEADER_TEXT, with OF_APP_SERVICE;
        /// With `app_service`: the environment variable with the endpoint's URL. Pass it in `vm_config.environment_variables`.
        ENDPOINT_ENV: Variable = Variable { name: "endpoint_env", default: "IDENTITY_ENDPOINT" }, with VARIABLE, with OF_APP_SERVICE;
        /// With `app_service`: the environment variable with the endpoint's secret. Pass it in `vm_config.environment_variables`.
        HEADER_ENV: Variable = Variable { name: "header_env", default: "IDENTITY_HEADER" }, with VARIABLE, with OF_APP_SERVICE;
        /// With `workload_identity` and `client_secret`: the tenant's id or domain. The default is the variable
        /// `AZURE_TENANT_ID`.
        TENANT_ID: Text = text("tenant_id", TENANT_FORM, is_tenant), with r#"{"pattern": "^[A-Za-z0-9.-]+$"}"#, with OF_ENTRA;
        /// With `workload_identity` and `client_secret`: the host of Entra ID. The default is the variable
        /// `AZURE_AUTHORITY_HOST`, or the host of the backends' cloud: `login.microsoftonline.com`,
        /// `login.microsoftonline.us`, `login.partner.microsoftonline.cn`.
        AUTHORITY_HOST: Text = text("authority_host", AUTHORITY_FORM, is_authority),
            with r#"{"pattern": "^(https://)?[A-Za-z0-9\\-.:_\\[\\]]+/?$"}"#, with OF_ENTRA;
        /// Required with `workload_identity`: the Envoy cluster that answers with the content of the token file.
        TOKEN_FILE_CLUSTER: Text = text("token_file_cluster", TOKEN_FILE_FORM, is_header_text).required(),
            with HEADER_TEXT, with OF_WORKLOADS;
        /// With `client_secret`: the environment variable with the secret. Pass it in `vm_config.environment_variables`.
        CLIENT_SECRET_ENV: Variable = Variable { name: "client_secret_env", default: "AZURE_CLIENT_SECRET" },
            with VARIABLE, with OF_SECRETS;
        /// How long a request may wait for the first token.
        WAIT_TIMEOUT: Quantity<Duration> = quantity("wait_timeout", "0s"..="60s", "5s");
        /// The time limit for fetching a token, for all of its calls together.
        FETCH_TIMEOUT: Quantity<Duration> = quantity("fetch_timeout", "100ms"..="60s", "5s");
    }
}

object! {
    /// The backend for new objects, and the ids of objects that clients see.
    state "State" {
        /// The name of the home backend. It has the objects whose ids carry no tag, and it answers lists. Files,
        /// stores, assistants and threads are made on it. The default is the first backend that has the API.
        HOME: Text = text("home", HOME_FORM, |_| true), with NAME;
        /// `"tagged"`: the ids that clients see name the object's backend. `"plain"`: clients see the backends' own
        /// ids, and every object is made at home.
        IDS: Choice<Ids> = Choice { name: "ids", values: &[("tagged", Ids::Tagged), ("plain", Ids::Plain)] };
    }
}

object! {
    /// The rule by which requests with the same key stay on one backend.
    affinity "Affinity" {
        /// The key that related requests share. `"prompt_cache_key"`: that field of a JSON body (chat, responses).
        /// `{"header": "session_id"}`: that request header. `"client"`: the client's name, which needs
        /// `headers.client`.
        BY: Own = own("by", r#""prompt_cache_key", "client" or an object such as {"header": "session_id"}"#).required(),
            with r#"{"anyOf": [
                {"type": "string", "enum": ["prompt_cache_key", "client"]},
                {
                    "type": "object", "required": ["header"], "additionalProperties": false,
                    "properties": {"header": {"type": "string", "pattern": "^[a-z0-9_-]+$"}}
                }
            ]}"#;
        /// The most attempts that a backend gets, as a multiple of its fair share over about a minute.
        MOST: Hundredths = Hundredths { name: "most", range: 100..=1000, default: 125, form: MOST_FORM };
    }
}

object! {
    /// The time in which a failing or throttled backend gets no requests, by cause.
    cooldown "Cooldown" {
        /// The wait after a 429 that states none. It applies to the throttled deployment.
        THROTTLED: Quantity<Duration> = quantity("throttled", "100ms"..="1h", "10s");
        /// The shortest wait after a 429.
        SHORTEST: Quantity<Duration> = quantity("shortest", "0s"..="1h", "250ms");
        /// The longest wait after a 429, and the longest cooldown after failures.
        LONGEST: Quantity<Duration> = quantity("longest", "1s"..="24h", "5m");
        /// The number of failures in a row that starts a cooldown. Only the first failure of each request counts. A
        /// failure is a status of `retry.statuses` other than 429, no connection, or a timeout.
        CONSECUTIVE_FAILURES: Integer = integer("consecutive_failures", 1..=1000, 5);
        /// The share of failed attempts that starts a cooldown, in percent, among at least 20 attempts within 10 s.
        FAILURE_PERCENT: Integer = integer("failure_percent", 1..=100, 50);
        /// The first cooldown after failures. It doubles each time the backend fails again right after it. Random
        /// jitter adds up to a quarter. At `cooldown.longest` it subtracts up to a fifth instead.
        FAILING: Quantity<Duration> = quantity("failing", "100ms"..="1h", "5s");
        /// The cooldown of a backend that refuses the identity or the key, and how long a deployment counts as missing after a 404.
        MISCONFIGURED: Quantity<Duration> = quantity("misconfigured", "1s"..="24h", "5m");
        /// How long a request may wait for a backend when all are throttled or misconfigured, before it is answered 429 or 503.
        WAIT_TIMEOUT: Quantity<Duration> = quantity("wait_timeout", "0s"..="60s", "0s");
    }
}

object! {
    /// When and how requests are retried.
    retry "Retry" {
        /// The engine that carries out retries, see [engines](engines.md). `azure-openai-balancer render envoy` sets `"router"` by
        /// default.
        ENGINE: Choice<Engine> = Choice { name: "engine", values: &[("filter", Engine::Filter), ("router", Engine::Router)] };
        /// The number of attempts, including the first. Each attempt goes to another backend, with one exception: after
        /// a refused token the same backend is tried once more with a new token.
        MAX_ATTEMPTS: Integer = integer("max_attempts", 1..=super::MAX_ATTEMPTS as u64, 3);
        /// The statuses that send a request to the next backend and count as failures of this one, or as throttling
        /// (429). Other statuses are passed on and count as answers. Do not list statuses of client errors (400, 422):
        /// any client could then put backends into cooldown. 400, 403, 404 and 410 are judged by their error codes
        /// unless they are listed. 400 to 599, except 401, which has its own rules.
        STATUSES: Own = own("statuses", "a list of statuses such as [429, 503]"), with r#"{
            "type": "array", "minItems": 1, "default": [408, 429, 500, 502, 503, 504, 529],
            "items": {"type": "integer", "minimum": 400, "maximum": 599, "not": {"const": 401}}
        }"#;
        /// How long an attempt may take until its response headers arrive. An attempt that the filter engine re-issues
        /// must end within this time.
        PER_TRY_TIMEOUT: Quantity<Duration> = quantity("per_try_timeout", "100ms"..="1h", "300s");
        /// How long an event stream is held for its first content, so that an earlier error is retried. `"0s"` disables
        /// it. See [behaviour](behaviour.md#a-stream-begins-with-an-error).
        STREAM_START: Quantity<Duration> = quantity("stream_start", "0s"..="1m", "1s");
        /// How long an event stream may be silent before the filter resets it and counts a failure of its backend. The
        /// default is Envoy's own limit. See [behaviour](behaviour.md#a-stream-falls-silent).
        STREAM_IDLE_TIMEOUT: Quantity<Duration> = quantity("stream_idle_timeout", "1s"..="15m", "");
        /// The largest request body that is kept for a retry. With the router engine, set the listener's
        /// `per_connection_buffer_limit_bytes` to at least this size.
        REPLAY_LIMIT: Quantity<usize> = quantity("replay_limit", "0B"..="64MiB", "4MiB");
        /// The memory that one worker may use for kept request bodies. A request that does not fit is not retried.
        /// Filter engine only.
        REPLAY_MEMORY: Quantity<usize> = quantity("replay_memory", "64MiB"..="2GiB", "512MiB");
        /// Whether a creation (a file, a batch, a thread, a response in the background, ...) is retried although the first attempt may
        /// have succeeded. See [behaviour](behaviour.md#a-creation-gets-no-answer).
        REPEAT_CREATIONS: Flag = Flag { name: "repeat_creations", default: false };
        /// The limit of retries after failures, over all requests. `null` disables it.
        BUDGET: Own = own("budget", ""), => budget, with NULLABLE;
    }
}

object! {
    /// The limit of retries after failures, over all requests.
    budget "Budget" {
        /// Retries after failures, as a share of all requests, in percent. Retries after a 429 or another refusal are
        /// not limited: they cost a backend nothing.
        PERCENT: Integer = integer("percent", 0..=100, 20);
        /// Retries after failures per second in addition to that share. Unused ones accumulate for ten seconds.
        MIN_PER_SECOND: Integer = integer("min_per_second", 0..=10_000, 10);
    }
}

object! {
    /// The limits of clients, for each client and in each Envoy.
    limits "Limits" {
        /// The limits of every client without its own.
        DEFAULT: Own = own("default", ""), => client_limits;
        /// The limits of single clients by name, as in statistics: `{"team-a": {"tokens_per_minute": 50000}, "batch":
        /// null}`. An omitted field has the default's limit. `null` removes one limit, or all limits of a client. Up to
        /// 1000 clients. Needs `headers.client`.
        CLIENTS: Own = own("clients", ""), with r##"{
            "type": "object", "maxProperties": 1000, "propertyNames": {"pattern": "^[A-Za-z0-9_-]{1,64}$"},
            "additionalProperties": {"x-nullable": true, "anyOf": [{"$ref": "#/$defs/ClientLimits"}, {"type": "null"}]}
        }"##;
    }
}

object! {
    /// The limits of one client.
    client_limits "ClientLimits" {
        /// Tokens a minute, prompts and completions together. Limits of tokens need `usage`.
        TOKENS_PER_MINUTE: Integer = integer("tokens_per_minute", 1..=MAX_LIMIT, 0), with NULL;
        /// Tokens a day, from midnight to midnight UTC.
        TOKENS_PER_DAY: Integer = integer("tokens_per_day", 1..=MAX_LIMIT, 0), with NULL;
        /// Requests a minute. A retry does not count.
        REQUESTS_PER_MINUTE: Integer = integer("requests_per_minute", 1..=MAX_LIMIT, 0), with NULL;
    }
}

object! {
    /// The names of the headers that the filter reads and writes.
    headers "Headers" {
        /// The request header that names the cluster for the route.
        CLUSTER: Text = text("cluster", HEADER_FORM, is_header_name).or("x-aoai-cluster"), with HEADER_NAME;
        /// The response header that names the backend. `null` disables it.
        BACKEND: Text = text("backend", HEADER_FORM, is_header_name).or("x-aoai-backend"), with HEADER_NAME, with NULLABLE;
        /// The response header that counts the attempts. `null` disables it.
        ATTEMPTS: Text = text("attempts", HEADER_FORM, is_header_name).or("x-aoai-attempts"), with HEADER_NAME, with NULLABLE;
        /// The response header that explains the answer, such as `x-aoai-why`. `null` disables it. See
        /// [behaviour](behaviour.md#an-answer-needs-an-explanation).
        WHY: Text = text("why", HEADER_FORM, is_header_name), with HEADER_NAME, with NULL;
        /// The request header in which an earlier filter put the client's name, for statistics, the access log and
        /// limits. With it, 429s of one client do not stop another. See [clients](clients.md).
        CLIENT: Text = text("client", HEADER_FORM, is_header_name), with HEADER_NAME, with NULL;
    }
}

object! {
    /// How tokens are counted.
    usage "Usage" {
        /// The chat streams whose tokens are counted. `"asked"`: streams whose client sends
        /// `stream_options.include_usage`. `"always"`: all streams. The filter then requests the tokens itself, and
        /// removes them [from the stream](usage.md#can-all-streams-be-counted). With `prices` or limits of tokens the
        /// default is `"always"`.
        STREAMS: Choice<Streams> = Choice { name: "streams", values: &[("asked", Streams::Asked), ("always", Streams::Always)] };
        /// The price of a million tokens, by the deployment names that clients use: `{"gpt-4o": {"prompt": 2.5,
        /// "cached": 1.25, "completion": 10}}`. A price is a number, or a text such as `"2.50"`, up to 10,000,000 with
        /// at most six decimal places. See [cost](usage.md#what-does-it-cost).
        PRICES: Own = own("prices", r#"an object such as {"gpt-4o": {"prompt": 2.5, "completion": 10}}"#), => price,
            with r#"{"type": "object", "maxProperties": 200, "default": {}}"#;
    }
}

/// The schema of a price.
const PRICE: &str = r#"{"anyOf": [
    {"type": "number", "minimum": 0, "maximum": 10000000},
    {"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,6})?$"}
]}"#;

object! {
    /// The price of a million tokens of a deployment, in any currency.
    price "Price" {
        /// The price of prompt tokens.
        PROMPT: Own = own("prompt", PRICE_FORM).required(), with PRICE;
        /// The price of prompt tokens from a cache. The default is the price of other prompt tokens.
        CACHED: Own = own("cached", PRICE_FORM), with PRICE;
        /// The price of completion tokens. Without it, answers with a completion have no price.
        COMPLETION: Own = own("completion", PRICE_FORM), with PRICE;
    }
}
