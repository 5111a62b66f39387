//! The functions the module needs from its host: all of them must be ones Envoy offers.
//!
//! A single unknown import keeps Envoy from loading the module, with an error only at run time. What is listed here are
//! the exports of proxy-wasm-cpp-host, which Envoy embeds, for ABI version 0.2.1.

use std::fmt;

use anyhow::{bail, Context, Result};
use wasmparser::{Parser, Payload};

/// `env.proxy_*`
const PROXY: &[&str] = &[
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// `wasi_snapshot_preview1.*`
const WASI: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "path_open",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

/// One import of a module.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    module: String,
    name: String,
}

impl Import {
    fn is_offered(&self) -> bool {
        let names = match self.module.as_str() {
            "env" => PROXY,
            "wasi_snapshot_preview1" => WASI,
            _ => return false,
        };
        names.contains(&self.name.as_str())
    }
}

impl fmt::Display for Import {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.module, self.name)
    }
}

/// Everything a module imports, in order of name.
pub fn of(module: &[u8]) -> Result<Vec<Import>> {
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload.context("not a WebAssembly module")? {
            for import in section {
                let import = import.context("a broken import section")?;
                imports.push(Import {
                    module: import.module.to_owned(),
                    name: import.name.to_owned(),
                });
            }
        }
    }
    imports.sort();
    Ok(imports)
}

/// Fails on imports Envoy does not offer, naming all of them.
pub fn check(imports: &[Import]) -> Result<()> {
    let unknown: Vec<_> = imports
        .iter()
        .filter(|import| !import.is_offered())
        .map(ToString::to_string)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "the module imports what Envoy does not offer: {}; Envoy would refuse to load it. \
             Find the dependency that needs it (files, threads, sockets, wasm-bindgen) and do without",
            unknown.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one function type and these imports of it.
    fn module(imports: &[(&str, &str)]) -> Vec<u8> {
        let mut section = vec![imports.len() as u8];
        for (module, name) in imports {
            for text in [module, name] {
                section.push(text.len() as u8);
                section.extend(text.bytes());
            }
            section.extend([0, 0]);
        }
        let mut bytes = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
        bytes.push(section.len() as u8);
        bytes.extend(section);
        bytes
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        of(bytes).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn imports_are_listed_by_name() {
        let bytes = module(&[("wasi_snapshot_preview1", "fd_write"), ("env", "proxy_log")]);
        assert_eq!(
            names(&bytes),
            ["env.proxy_log", "wasi_snapshot_preview1.fd_write"]
        );
        check(&of(&bytes).unwrap()).unwrap();
        assert!(names(b"\0asm\x01\0\0\0").is_empty());
    }

    #[test]
    fn an_unknown_import_is_named() {
        let bytes = module(&[
            ("env", "proxy_log"),
            ("env", "read_file"),
            ("wasi_snapshot_preview1", "sock_accept"),
        ]);
        let error = check(&of(&bytes).unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("env.read_file, wasi_snapshot_preview1.sock_accept;"),
            "{error}"
        );
    }

    #[test]
    fn a_known_name_in_another_module_is_unknown() {
        assert!(check(&of(&module(&[("host", "proxy_log")])).unwrap()).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(of(b"\x7fELF").is_err());
    }
}
