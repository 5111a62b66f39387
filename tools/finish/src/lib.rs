//! The functions the module offers to its host: only those it does something in.
//!
//! The SDK exports every callback of the ABI, and what is exported Envoy calls and the module carries. A linker cannot take back
//! what the compiler told it to export, so this is done afterwards, and with it goes what is reached from nowhere else.

use anyhow::{anyhow, ensure, Result};
use walrus::{passes, Module};

/// Callbacks in which no context of the balancer does anything: those of TCP streams, gRPC calls, shared queues and foreign
/// functions, and those before a context's last one, with which it ends. A context that is to have one of them takes it off this
/// list.
const UNUSED: &[&str] = &[
    "proxy_on_done",
    "proxy_on_downstream_connection_close",
    "proxy_on_downstream_data",
    "proxy_on_foreign_function",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_log",
    "proxy_on_new_connection",
    "proxy_on_queue_ready",
    "proxy_on_upstream_connection_close",
    "proxy_on_upstream_data",
];

/// The module without the unused callbacks.
///
/// # Errors
/// It is not a module, or the SDK no longer exports one of them, so that the list has to be looked at.
pub fn strip(module: &[u8]) -> Result<Vec<u8>> {
    // By `{:?}`: the causes of walrus's errors are its own.
    let mut module = Module::from_buffer(module).map_err(|error| anyhow!("{error:?}"))?;
    for name in UNUSED {
        let removed = module.exports.remove(*name);
        ensure!(
            removed.is_ok(),
            "the module does not export {name}; take it off the list in tools/finish"
        );
    }
    passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that exports one function, which calls an import, by each of these names.
    fn module(names: &[&str]) -> Vec<u8> {
        use walrus::{FunctionBuilder, ModuleConfig};
        let mut module = Module::with_config(ModuleConfig::new());
        for name in names {
            let kind = module.types.add(&[], &[]);
            let (import, _) = module.add_import_func("env", &format!("for_{name}"), kind);
            let mut function = FunctionBuilder::new(&mut module.types, &[], &[]);
            function.func_body().call(import);
            let function = function.finish(Vec::new(), &mut module.funcs);
            module.exports.add(name, function);
        }
        module.emit_wasm()
    }

    #[test]
    fn what_is_unused_goes_with_what_only_it_needs() {
        let mut names = UNUSED.to_vec();
        names.push("proxy_on_tick");
        let stripped = strip(&module(&names)).unwrap();
        let module = Module::from_buffer(&stripped).unwrap();
        let exports: Vec<_> = module.exports.iter().map(|export| &export.name).collect();
        assert_eq!(exports, ["proxy_on_tick"]);
        let imports: Vec<_> = module.imports.iter().map(|import| &import.name).collect();
        assert_eq!(imports, ["for_proxy_on_tick"]);
    }

    #[test]
    fn a_list_that_no_longer_fits_is_said() {
        let error = strip(&module(&UNUSED[1..])).unwrap_err().to_string();
        assert!(error.contains(UNUSED[0]), "{error}");
        assert!(strip(b"\x7fELF").is_err());
    }
}
