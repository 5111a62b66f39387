//! The status page: its own listener, which answers with one page and with the page's statistics.
//!
//! Envoy's admin interface has no login, and can stop Envoy. So the listener sends it one request only, with a constant
//! path. Nothing of a client's path, query or method reaches it.

use std::net::IpAddr;

use base64::prelude::{Engine as _, BASE64_STANDARD};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use crate::yaml::{indented, item, quoted};
use crate::{Admin, Fleet, Status};

/// The name of the listener, and of the cluster of the admin interface.
pub const STATUS_NAME: &str = "azure_openai_status";

/// Envoy's default of 4096 bytes is too little. A page with the names of 100 backends has some 60 KB.
const LARGEST_PAGE: u32 = 131_072;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The listener, as a block of YAML that starts at the left margin.
pub(crate) fn listener(fleet: &Fleet, status: &Status) -> String {
    format!(
        "\
name: {STATUS_NAME}
address:
  socket_address:
    address: {address}
    port_value: {port}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {STATUS_NAME}
      codec_type: HTTP1
      use_remote_address: true
      skip_xff_append: true
      strip_any_host_port: true
      path_with_escaped_slashes_action: REJECT_REQUEST
      request_timeout: 10s
      stream_idle_timeout: 30s
      common_http_protocol_options: {{idle_timeout: 60s}}
      route_config:
        name: {STATUS_NAME}
        max_direct_response_body_size_bytes: {LARGEST_PAGE}
        response_headers_to_add:
{headers}        virtual_hosts:
        - name: {STATUS_NAME}
{domains}          routes:
{routes}      http_filters:
      - name: envoy.filters.http.router
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          suppress_envoy_headers: true
",
        address = quoted(&status.address),
        port = status.port,
        headers = indented(&headers(), 8),
        domains = indented(&domains(&status.address), 10),
        routes = indented(&routes(fleet), 10),
    )
}

/// The cluster of the admin interface, as a block of YAML that starts at the left margin.
pub(crate) fn cluster(admin: &Admin) -> String {
    let endpoint = format!(
        "\
- endpoint:
    address:
      socket_address:
        address: {address}
        port_value: {port}
",
        address = quoted(&reachable(&admin.address)),
        port = admin.port,
    );
    format!(
        "\
name: {STATUS_NAME}
type: STATIC
connect_timeout: 2s
load_assignment:
  cluster_name: {STATUS_NAME}
  endpoints:
  - lb_endpoints:
{}",
        indented(&endpoint, 4)
    )
}

/// The address at which this machine reaches a listener on `address`.
fn reachable(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1".to_owned(),
        _ => address.to_owned(),
    }
}

/// The accepted host names. On the loopback interface, a foreign name belongs to a web page that makes a browser on
/// this machine send requests under that name (DNS rebinding).
fn domains(address: &str) -> String {
    if !address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) {
        return "domains: [\"*\"]\n".to_owned();
    }
    let bracketed = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "[::1]".to_owned(),
    ];
    if !names.contains(&bracketed) {
        names.push(bracketed);
    }
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!(
        "\
# With any other name a web page could read this through a browser on this machine.
domains: [{}]
",
        names.join(", ")
    )
}

/// The headers of every answer.
fn headers() -> String {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE),
    );
    let headers = [
        ("content-security-policy", policy.as_str()),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    headers.map(|(name, value)| header(name, value)).concat()
}

fn header(name: &str, value: &str) -> String {
    format!(
        "- header: {{key: {name}, value: {}}}\n  append_action: OVERWRITE_IF_EXISTS_OR_ADD\n",
        quoted(value)
    )
}

/// The source of a script or a style sheet, as a content security policy names it.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// The routes, as a YAML list that starts at the left margin. The first match counts. The header `:path` includes the
/// query, so a request with a query matches neither the page nor the statistics.
fn routes(fleet: &Fleet) -> String {
    format!(
        "\
- match:
    prefix: /
    headers: [{{name: \":method\", string_match: {{exact: GET}}, invert_match: true}}]
  direct_response: {{status: 405}}
  response_headers_to_add:
{allow}- match: {{path: /, headers: [{{name: \":path\", string_match: {{exact: /}}}}]}}
  direct_response:
    status: 200
    body:
      inline_string: |
{page}  response_headers_to_add:
{html}# The only request that reaches the admin interface. Its path is fixed: a client's query is refused.
- match: {{path: /stats, headers: [{{name: \":path\", string_match: {{exact: /stats}}}}]}}
  route:
    cluster: {STATUS_NAME}
    prefix_rewrite: {statistics}
    timeout: 5s
- match: {{prefix: /}}
  direct_response: {{status: 404}}
",
        allow = indented(&header("allow", "GET"), 2),
        html = indented(&header("content-type", "text/html; charset=utf-8"), 2),
        page = indented(&page(fleet), 8),
        statistics = quoted(&statistics(fleet)),
    )
}

/// The path of the page's statistics: the module's, Envoy's uptime, and the requests in progress by backend.
fn statistics(fleet: &Fleet) -> String {
    let clusters: Vec<String> = fleet
        .backends
        .iter()
        .map(|backend| literal(&backend.cluster))
        .collect();
    let filter = format!(
        r"^(wasmcustom\.aoai\.|server\.uptime$|cluster\.({})\.upstream_rq_active$)",
        clusters.join("|")
    );
    format!("/stats?format=json&usedonly&filter={}", encoded(&filter))
}

/// A regular expression that matches the cluster's name as statistics have it.
fn literal(cluster: &str) -> String {
    let mut out = String::with_capacity(cluster.len());
    for c in statistics_name(cluster).chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The cluster's name as statistics have it.
fn statistics_name(cluster: &str) -> String {
    cluster.replace(':', "_")
}

/// A value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(3 * text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The page, complete in itself.
fn page(fleet: &Fleet) -> String {
    PAGE.replace("{STYLE}", STYLE)
        .replace("{SCRIPT}", SCRIPT)
        .replace("{FLEET}", &data(fleet))
}

/// The backends' facts that statistics lack, as JSON without the end of a tag.
fn data(fleet: &Fleet) -> String {
    let backends: Vec<Value> = fleet
        .backends
        .iter()
        .map(|backend| {
            let none = Value::Null;
            let configured = fleet.plugin["backends"].as_array().into_iter().flatten();
            let mut configured = configured.filter(|other| other["name"] == backend.name.as_str());
            let configured = configured.next().unwrap_or(&none);
            let mut entry = json!({
                "name": backend.name,
                "host": fleet.authority(backend),
                "cluster": statistics_name(&backend.cluster),
            });
            for field in ["priority", "weight", "identity"] {
                if !configured[field].is_null() {
                    entry[field] = configured[field].clone();
                }
            }
            if !configured["api_key_env"].is_null() {
                entry["key"] = json!(true);
            }
            entry
        })
        .collect();
    let data = json!({ "backends": backends }).to_string();
    let escaped = data.chars().map(|c| match c {
        '<' | '>' | '&' => format!("\\u{:04x}", u32::from(c)),
        // The page is a block of lines in a YAML file.
        c if !c.is_ascii() || c.is_ascii_control() => {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            units.map(|unit| format!("\\u{unit:04x}")).collect()
        }
        c => c.to_string(),
    });
    escaped.collect()
}

/// The listener as an item of the list of listeners; empty without a status page.
pub(crate) fn listeners(fleet: &Fleet) -> String {
    let Some(status) = &fleet.status else {
        return String::new();
    };
    let comment = "\
# The status page, for operators. It shows statistics of the balancer, names of clients among them, and can change nothing.
";
    indented(&format!("{comment}{}", item(&listener(fleet, status))), 2)
}
