//! The token file of workload identity. Envoy passes it to the module, which reads no files.
//!
//! A listener on a unix socket answers every request with the file's content, and a cluster leads there. Envoy reads
//! the file again when a file is renamed in its folder, as the kubelet does.

use crate::yaml::{folder_of, indented, quoted};
use crate::TokenFile;

/// The listener, as a block of YAML that starts at the left margin.
pub(crate) fn listener(file: &TokenFile) -> String {
    let quoted_path = |path: &std::path::Path| quoted(&path.to_string_lossy());
    format!(
        "\
name: {name}
address:
  # 384 is 0600: only Envoy's user can connect.
  pipe: {{path: {socket}, mode: 384}}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {name}
      route_config:
        name: {name}
        # Envoy's default of 4096 bytes is too little for some tokens.
        max_direct_response_body_size_bytes: 65536
        virtual_hosts:
        - name: {name}
          domains: [\"*\"]
          routes:
          - match: {{path: \"/\"}}
            direct_response:
              status: 200
              body:
                filename: {path}
                # The kubelet renews the file by renaming the link `..data` in this folder.
                watched_directory: {{path: {folder}}}
      http_filters:
      - name: envoy.filters.http.router
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
",
        name = quoted(&file.cluster),
        socket = quoted_path(&file.socket),
        path = quoted_path(&file.file),
        folder = quoted_path(folder_of(&file.file)),
    )
}

/// The cluster, as a block of YAML that starts at the left margin.
pub(crate) fn cluster(file: &TokenFile) -> String {
    format!(
        "\
name: {name}
type: STATIC
connect_timeout: 2s
load_assignment:
  cluster_name: {name}
  endpoints:
  - lb_endpoints:
{endpoint}",
        name = quoted(&file.cluster),
        endpoint = indented(
            &format!(
                "- endpoint:\n    address:\n      pipe: {{path: {}}}\n",
                quoted(&file.socket.to_string_lossy())
            ),
            4
        ),
    )
}
