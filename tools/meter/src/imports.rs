//! The host calls that the module makes: the mock host's own, in the module's memory.

use mock_host::Memory;
use wasmi::{Caller, Extern, Linker, Module, Val};

type Result<T> = std::result::Result<T, wasmi::Error>;

/// The module that runs, as seen from a host call.
pub(crate) struct Guest<'a>(pub(crate) Caller<'a, ()>);

impl Guest<'_> {
    fn memory(&self) -> wasmi::Memory {
        let memory = self.0.get_export("memory").and_then(Extern::into_memory);
        memory.expect("the module exports its memory")
    }
}

/// Addresses and sizes have 32 bits.
impl Memory for Guest<'_> {
    fn read(&self, at: u64, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        let read = self.memory().read(&self.0, at as usize, &mut bytes);
        read.expect("the module points into its memory");
        bytes
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let written = self.memory().write(&mut self.0, at as usize, bytes);
        written.expect("the module points into its memory");
    }

    fn write_word(&mut self, at: u64, word: u64) {
        self.write(at, &(word as u32).to_le_bytes());
    }

    fn allocate(&mut self, size: usize) -> u64 {
        let allocate = self.0.get_export("proxy_on_memory_allocate");
        let allocate = allocate.and_then(Extern::into_func);
        let allocate = allocate.expect("the module can be asked for memory");
        let allocate = allocate.typed::<u32, u32>(&self.0).expect("its type");
        let address = allocate.call(&mut self.0, size as u32);
        address.expect("the module has memory left").into()
    }
}

/// Defines the host calls that the module imports.
pub(crate) fn link(linker: &mut Linker<()>, module: &Module) -> Result<()> {
    for import in module.imports() {
        let (Some(kind), Some(call)) = (import.ty().func(), mock_host::host_call(import.name()))
        else {
            continue;
        };
        let run = move |caller: Caller<'_, ()>, arguments: &[Val], results: &mut [Val]| {
            let numbers: Vec<_> = arguments.iter().map(number).collect();
            let status = call(&mut Guest(caller), &numbers);
            results[0] = Val::I32(status as i32);
            Ok(())
        };
        linker.func_new(import.module(), import.name(), kind.clone(), run)?;
    }
    Ok(())
}

fn number(value: &Val) -> u64 {
    match value {
        Val::I32(value) => *value as u32 as u64,
        Val::I64(value) => *value as u64,
        other => panic!("no host call has an argument like {other:?}"),
    }
}
