//! The built module in an interpreter that counts instructions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use wasmi::errors::LinkerError;
use wasmi::{Caller, Config, Engine, Instance, Linker, Module, Store, Val};

use crate::{imports, wasi};

/// The environment variable that names the module's file; `cargo xtask test` sets it.
pub const VARIABLE: &str = "AOAI_WASM";

/// More than any callback uses.
const FUEL: u64 = 1 << 40;

thread_local! {
    /// The module of this thread; a test has a thread of its own.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    /// Instructions of each callback since [`take_instructions`].
    static INSTRUCTIONS: RefCell<BTreeMap<&'static str, Spent>> = const { RefCell::new(BTreeMap::new()) };
}

/// What the calls of one callback used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How often it was called.
    pub calls: u64,
    /// Instructions of all calls together.
    pub instructions: u64,
}

struct Running {
    store: Store<()>,
    instance: Instance,
}

impl Running {
    fn start() -> Self {
        let mut config = Config::default();
        config.consume_fuel(true);
        let engine = Engine::new(&config);
        let path = path();
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let module = Module::new(&engine, &bytes).expect("the module is WebAssembly");
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).expect("host calls have a name each");
        wasi::link(&mut linker).expect("WASI's functions have a name each");
        // Functions that the SDK names and the balancer does not call.
        for import in module.imports() {
            let Some(kind) = import.ty().func() else {
                continue;
            };
            let name = import.name().to_owned();
            let refuse = move |_: Caller<'_, ()>, _: &[Val], _: &mut [Val]| {
                Err(wasmi::Error::new(format!("{name} was called")))
            };
            match linker.func_new(import.module(), import.name(), kind.clone(), refuse) {
                Ok(_) | Err(LinkerError::DuplicateDefinition { .. }) => {}
                Err(error) => panic!("{}: {error}", import.name()),
            }
        }
        store.set_fuel(FUEL).expect("fuel is counted");
        let instance = linker.instantiate_and_start(&mut store, &module);
        let instance = instance.expect("every import has a definition");
        Self { store, instance }
    }

    /// Runs an export, if the module has it: Envoy leaves out what it has not.
    fn call(&mut self, name: &'static str, arguments: &[i32]) -> Option<i32> {
        let function = self.instance.get_func(&self.store, name)?;
        let arguments: Vec<_> = arguments.iter().copied().map(Val::I32).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        self.store.set_fuel(FUEL).expect("fuel is counted");
        let called = function.call(&mut self.store, &arguments, &mut results);
        called.unwrap_or_else(|error| panic!("the module trapped in {name}: {error}"));
        let left = self.store.get_fuel().expect("fuel is counted");
        INSTRUCTIONS.with_borrow_mut(|instructions| {
            let spent = instructions.entry(name).or_default();
            spent.calls += 1;
            spent.instructions += FUEL - left;
        });
        Some(results.first().and_then(Val::i32).unwrap_or(0))
    }
}

/// The module's file.
///
/// # Panics
/// When the environment does not name it: without the module there is nothing to count.
pub fn path() -> PathBuf {
    let path = env::var_os(VARIABLE);
    let path = path.unwrap_or_else(|| panic!("{VARIABLE} is not set; run `cargo xtask test`"));
    PathBuf::from(path)
}

/// Runs a callback, if the module exports it.
pub(crate) fn call(name: &'static str, arguments: &[i32]) -> Option<i32> {
    RUNNING.with_borrow_mut(|running| {
        running
            .get_or_insert_with(Running::start)
            .call(name, arguments)
    })
}

/// What the callbacks used since this was asked before. Memory that the host has the module allocate is part of the callback
/// in which that happens.
pub fn take_instructions() -> BTreeMap<&'static str, Spent> {
    INSTRUCTIONS.with_borrow_mut(std::mem::take)
}
