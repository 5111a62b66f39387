//! Makes the built module smaller.
//!
//! The SDK exports every callback of the ABI. Envoy calls each exported callback, and the module carries its code. A linker cannot
//! remove exports that the compiler requested, so this crate removes them afterwards. Code that only they reach goes with them.
//!
//! Envoy logs the functions' names if the module traps. The compiler encodes them for linkers, which makes them longer and hard to read.

use anyhow::{anyhow, ensure, Result};
use walrus::{passes, Module};

/// Callbacks that no context of the balancer implements: TCP streams, gRPC calls, shared queues, foreign functions, and the
/// callbacks before a context's last one, `proxy_on_delete`. If a context needs one of these, remove it from this list.
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

/// Returns the module without the unused callbacks, with its functions named as in the source.
///
/// # Errors
/// The bytes are not a module, or the module lacks one of the exports, so the list has to be updated.
pub fn strip(module: &[u8]) -> Result<Vec<u8>> {
    // `{:?}` puts the causes of walrus's error into the text.
    let mut module = Module::from_buffer(module).map_err(|error| anyhow!("{error:?}"))?;
    for name in UNUSED {
        let removed = module.exports.remove(*name);
        ensure!(
            removed.is_ok(),
            "the module does not export {name}; remove it from the list in tools/finish"
        );
    }
    passes::gc::run(&mut module);
    for function in module.funcs.iter_mut() {
        if let Some(name) = &mut function.name {
            // `{:#}` leaves out the hash.
            *name = format!("{:#}", rustc_demangle::demangle(name));
        }
    }
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that exports one function per name. Each function calls an import of its own.
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
    fn unused_callbacks_are_removed_with_their_imports() {
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
    fn functions_have_their_names_of_the_source() {
        let mut module = Module::from_buffer(&module(UNUSED)).unwrap();
        let mut function = walrus::FunctionBuilder::new(&mut module.types, &[], &[]);
        function.name("_ZN4text4find17h0123456789abcdefE".to_owned());
        let function = function.finish(Vec::new(), &mut module.funcs);
        module.exports.add("find", function);
        let stripped = Module::from_buffer(&strip(&module.emit_wasm()).unwrap()).unwrap();
        let names: Vec<_> = stripped
            .funcs
            .iter_local()
            .map(|(id, _)| &stripped.funcs.get(id).name)
            .collect();
        assert_eq!(names, [&Some("text::find".to_owned())]);
    }

    #[test]
    fn an_outdated_list_is_an_error() {
        let error = strip(&module(&UNUSED[1..])).unwrap_err().to_string();
        assert!(error.contains(UNUSED[0]), "{error}");
        assert!(strip(b"\x7fELF").is_err());
    }
}
