//! The built module in an interpreter, with counters for its instructions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use wasmi::errors::LinkerError;
use wasmi::{Caller, Engine, Global, Instance, Linker, Module, Store, Val};

use crate::instrument::{self, Instrumented, Piece};
use crate::{imports, wasi};

/// The environment variable that names the module's file; `cargo xtask test` sets it.
pub const VARIABLE: &str = "AOAI_WASM";

thread_local! {
    /// The module of this thread. Each test has its own thread.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    /// The counts since [`count`] was called.
    static COUNTED: RefCell<Counted> = const { RefCell::new(Counted::new()) };
    /// Whether to count: reading all counters takes longer than most callbacks.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// The executed instructions, by place, and the executed code.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// By callback.
    pub callbacks: BTreeMap<&'static str, Spent>,
    /// By function, without the functions that it calls.
    pub functions: BTreeMap<String, u64>,
    /// The bytes of code that were executed at least once, by function.
    pub code: BTreeMap<String, u64>,
}

impl Counted {
    const fn new() -> Self {
        Self {
            callbacks: BTreeMap::new(),
            functions: BTreeMap::new(),
            code: BTreeMap::new(),
        }
    }
}

/// The use of one callback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The number of calls.
    pub calls: u64,
    /// The instructions of all calls together.
    pub instructions: u64,
}

/// A function of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The size of its body.
    pub bytes: u64,
}

struct Running {
    store: Store<()>,
    instance: Instance,
    /// A counter for each function, with the function's name.
    counters: Vec<(String, Global)>,
    /// A mark for each piece.
    pieces: Vec<(Piece, Global)>,
}

impl Running {
    /// Starts the module that [`VARIABLE`] names, with counters.
    fn counting() -> Self {
        let path = path();
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let Instrumented {
            bytes,
            functions,
            pieces,
        } = instrument::instrument(&bytes);
        let mut running = Self::start(&bytes);
        let counters = functions.into_iter().enumerate();
        let counters = counters.map(|(at, name)| (name, running.global(&instrument::counter(at))));
        let pieces = pieces.into_iter().enumerate();
        let pieces = pieces.map(|(at, piece)| (piece, running.global(&instrument::mark(at))));
        (running.counters, running.pieces) = (counters.collect(), pieces.collect());
        running
    }

    /// Starts the module in these bytes as it is. It has no counters of its own.
    fn start(bytes: &[u8]) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, bytes).expect("the module is WebAssembly");
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker, &module).expect("host calls have a name each");
        wasi::link(&mut linker).expect("WASI's functions have a name each");
        // The standard library imports functions that the balancer never calls.
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
        let instance = linker.instantiate_and_start(&mut store, &module);
        let instance = instance.expect("every import has a definition");
        Self {
            store,
            instance,
            counters: Vec::new(),
            pieces: Vec::new(),
        }
    }

    fn global(&self, name: &str) -> Global {
        let global = self.instance.get_global(&self.store, name);
        global.unwrap_or_else(|| panic!("the module does not export {name}"))
    }

    /// Runs an export if the module has it. Envoy skips missing ones.
    fn call(&mut self, name: &'static str, arguments: &[i32]) -> Option<i32> {
        let function = self.instance.get_func(&self.store, name)?;
        let arguments: Vec<_> = arguments.iter().copied().map(Val::I32).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let called = function.call(&mut self.store, &arguments, &mut results);
        called.unwrap_or_else(|error| panic!("the module trapped in {name}: {error}"));
        if COUNTS.get() {
            self.count(name);
        }
        Some(results.first().and_then(Val::i32).unwrap_or(0))
    }
}

impl Running {
    fn clear_counters(&mut self) {
        for (_, counter) in &self.counters {
            let reset = counter.set(&mut self.store, Val::I64(0));
            reset.expect("counters can be set");
        }
        for (_, mark) in &self.pieces {
            let reset = mark.set(&mut self.store, Val::I32(0));
            reset.expect("marks can be set");
        }
    }

    /// The executed code, by function.
    fn code(&self) -> BTreeMap<String, u64> {
        let mut code = BTreeMap::new();
        for (piece, mark) in &self.pieces {
            if mark.get(&self.store).i32() == Some(1) {
                let (function, _) = &self.counters[piece.function];
                *code.entry(function.clone()).or_default() += piece.bytes;
            }
        }
        code
    }

    /// Adds the counters' values to the callback that has just run.
    fn count(&mut self, callback: &'static str) {
        COUNTED.with_borrow_mut(|counted| {
            let spent = counted.callbacks.entry(callback).or_default();
            spent.calls += 1;
            for (function, counter) in &self.counters {
                let instructions = counter.get(&self.store).i64().unwrap_or(0) as u64;
                if instructions > 0 {
                    spent.instructions += instructions;
                    *counted.functions.entry(function.clone()).or_default() += instructions;
                    let reset = counter.set(&mut self.store, Val::I64(0));
                    reset.expect("counters can be set");
                }
            }
        });
    }
}

/// The module's file.
///
/// # Panics
/// When the environment does not name it: without the module there is nothing to measure.
pub fn path() -> PathBuf {
    let path = env::var_os(VARIABLE);
    let path = path.unwrap_or_else(|| panic!("{VARIABLE} is not set; run `cargo xtask test`"));
    PathBuf::from(path)
}

/// The module's function with the largest body.
///
/// # Panics
/// When there is no module, or it has no function.
pub fn largest_function() -> Function {
    let path = path();
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    instrument::largest(&bytes).expect("the module has functions")
}

/// Runs a callback, if the module exports it.
pub(crate) fn call(name: &'static str, arguments: &[i32]) -> Option<i32> {
    RUNNING.with_borrow_mut(|running| {
        running
            .get_or_insert_with(Running::counting)
            .call(name, arguments)
    })
}

/// The counts while `act` runs. A callback's counts include the allocations that the host requests in it.
pub(crate) fn count(act: impl FnOnce()) -> Counted {
    RUNNING.with_borrow_mut(|running| {
        running
            .get_or_insert_with(Running::counting)
            .clear_counters();
    });
    COUNTS.set(true);
    act();
    COUNTS.set(false);
    let code = RUNNING.with_borrow(|running| running.as_ref().map(Running::code));
    Counted {
        code: code.unwrap_or_default(),
        ..COUNTED.with_borrow_mut(std::mem::take)
    }
}

/// Lets this thread run this module, without counters, and returns the exported variables with these names.
pub(crate) fn load(bytes: &[u8], names: impl Iterator<Item = String>) -> Vec<Global> {
    let running = Running::start(bytes);
    let globals = names.map(|name| running.global(&name)).collect();
    RUNNING.set(Some(running));
    globals
}

/// The values of variables that [`load`] returned. They are 0 afterwards.
pub(crate) fn take(globals: &[Global]) -> Vec<i32> {
    RUNNING.with_borrow_mut(|running| {
        let Running { store, .. } = running.as_mut().expect("a module was loaded");
        let take = |global: &Global| {
            let value = global.get(&*store).i32().expect("its type");
            let reset = global.set(&mut *store, Val::I32(0));
            reset.expect("marks can be set");
            value
        };
        globals.iter().map(take).collect()
    })
}

/// The module's memory in bytes.
pub(crate) fn memory() -> u64 {
    RUNNING.with_borrow_mut(|running| {
        let running = running.get_or_insert_with(Running::counting);
        let memory = running.instance.get_memory(&running.store, "memory");
        let memory = memory.expect("the module exports its memory");
        memory.data_size(&running.store) as u64
    })
}
