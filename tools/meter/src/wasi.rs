//! The little of WASI that the module's standard library asks for.

use wasmi::{Caller, Linker};

type Result<T> = std::result::Result<T, wasmi::Error>;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: i32 = 0;

/// Defines the functions: an empty environment, random numbers that are always the same, and no files.
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

fn write(caller: &mut Caller<'_, ()>, at: i32, bytes: &[u8]) -> Result<()> {
    let memory = crate::imports::memory(caller)?;
    memory.write(caller, at as u32 as usize, bytes)?;
    Ok(())
}

fn environ_sizes_get(mut caller: Caller<'_, ()>, count: i32, size: i32) -> Result<i32> {
    write(&mut caller, count, &[0; 4])?;
    write(&mut caller, size, &[0; 4])?;
    Ok(SUCCESS)
}

/// The module's hash maps take their seed from here: with another one they would look elsewhere, and need more or fewer steps.
fn random_get(mut caller: Caller<'_, ()>, at: i32, size: i32) -> Result<i32> {
    let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
    write(&mut caller, at, &bytes)?;
    Ok(SUCCESS)
}

fn proc_exit(_: Caller<'_, ()>, status: i32) -> Result<()> {
    Err(wasmi::Error::new(format!("the module exits with {status}")))
}
