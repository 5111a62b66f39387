//! `cargo xtask wasm`: builds the module.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exports;
use crate::library::{Choice, Library, TARGET};
use crate::{files, paths, process, revision};

/// Builds the module and reports on it.
pub fn command(choice: Choice) -> Result<()> {
    let library = Library::find(choice)?;
    let module = build(&library)?;
    let size = fs::metadata(&module)
        .with_context(|| format!("{}: cannot be read", module.display()))?
        .len();
    println!("path      {}", module.display());
    println!("copy      {}", paths::configured_module().display());
    println!("size      {size} bytes");
    println!("sha256    {}", files::sha256(&module)?);
    println!("compiler  {}", library.compiler()?);
    Ok(())
}

/// Builds the module with the library and returns its path, [`paths::module`]; a copy is at [`paths::configured_module`].
pub fn build(library: &Library) -> Result<PathBuf> {
    process::step("build the module", || {
        let mut cargo = library.cargo("build")?;
        cargo.args(["--release", "-p", "azure-openai-balancer", "--lib"]);
        process::run(cargo.env(revision::VARIABLE, revision::of_workspace()))?;
        let built = paths::wasm_target()
            .join(TARGET)
            .join("release/azure_openai_balancer.wasm");
        let finished = finished(&built)?;
        let module = paths::module();
        files::replace(&module, &finished)?;
        files::replace(&paths::configured_module(), &finished)?;
        Ok(module)
    })
}

/// Does with a module that cargo has built what [`build`] does, for builds that are made elsewhere.
pub fn finish(built: &Path, to: &Path) -> Result<()> {
    files::replace(to, &finished(built)?)
}

/// A module that cargo has built, without the exports that nobody needs.
fn finished(built: &Path) -> Result<Vec<u8>> {
    let module = fs::read(built).with_context(|| format!("{}: cannot be read", built.display()))?;
    exports::strip(&module).with_context(|| built.display().to_string())
}
