//! The few functions of WASI that the module's standard library imports.

use mock_host::Memory;
use wasmi::{Caller, Linker};

use crate::imports::Guest;

type Result<T> = std::result::Result<T, wasmi::Error>;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: i32 = 0;

/// Defines the functions: an empty environment, constant random numbers, and no files.
pub(crate) fn link(linker: &mut Linker<()>) -> Result<()> {
    linker.func_wrap(MODULE, "environ_sizes_get", environ_sizes_get)?;
    linker.func_wrap(
        MODULE,
        "environ_get",
        |_: Caller<'_, ()>, _: i32, _: i32| SUCCESS,
    )?;
    linker.func_wrap(MODULE, "random_get", random_get)?;
    linker.func_wrap(MODULE, "proc_exit", proc_exit)?;
    Ok(())
}

fn environ_sizes_get(caller: Caller<'_, ()>, count: u32, size: u32) -> i32 {
    let mut module = Guest(caller);
    module.write(count.into(), &[0; 4]);
    module.write(size.into(), &[0; 4]);
    SUCCESS
}

/// The module's hash maps take their seed from here. With another seed they would need more or fewer steps.
fn random_get(caller: Caller<'_, ()>, at: u32, size: u32) -> i32 {
    let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
    Guest(caller).write(at.into(), &bytes);
    SUCCESS
}

fn proc_exit(_: Caller<'_, ()>, status: i32) -> Result<()> {
    Err(wasmi::Error::new(format!("the module exits with {status}")))
}
