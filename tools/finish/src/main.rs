//! `finish BUILT TO`: turns the module that cargo has built into the module that is shipped.

use std::env;
use std::fs;

use anyhow::{bail, Context, Result};

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [built, to] = arguments.as_slice() else {
        bail!("usage: finish BUILT TO");
    };
    let module = fs::read(built).with_context(|| format!("{built}: cannot be read"))?;
    let stripped = finish::strip(&module).with_context(|| built.clone())?;
    fs::write(to, meter::layout::improve(&stripped))
        .with_context(|| format!("{to}: cannot be written"))
}
