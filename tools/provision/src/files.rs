//! Files that are replaced atomically, and folders that are made once.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{paths, process};

/// A lock between processes, held while something shared is being made. Dropping it releases it.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock for `path`, and waits while another process holds it.
    ///
    /// # Errors
    /// The lock file cannot be created or locked.
    pub fn on(path: &Path) -> Result<Self> {
        let lock = beside(path, "lock");
        create_parent(&lock)?;
        let file = File::create(&lock)
            .with_context(|| format!("{}: cannot be created", lock.display()))?;
        let taken = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another run to make {}", paths::shown(path));
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        taken.with_context(|| format!("{}: cannot be locked", lock.display()))?;
        Ok(Self { _file: file })
    }
}

/// Makes the folder `place` and fills it with `make`, unless it was made with the same `recipe` before. Other processes wait
/// meanwhile. `what` describes the step for the output.
///
/// # Errors
/// The folder cannot be made.
pub fn once(
    place: &Path,
    recipe: &str,
    what: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if is_made(place, recipe) {
        return Ok(());
    }
    let _lock = Lock::on(place)?;
    // Another run may have made the folder while this one waited for the lock.
    if is_made(place, recipe) {
        return Ok(());
    }
    process::step(what, || {
        remove(place)?;
        fs::create_dir_all(place)
            .with_context(|| format!("{}: cannot be created", place.display()))?;
        make(place)?;
        // The stamp is written last, so a folder without one is incomplete.
        write(&stamp(place), recipe)
    })
}

/// Whether [`once`] made this folder with this recipe before.
pub fn is_made(place: &Path, recipe: &str) -> bool {
    fs::read_to_string(stamp(place)).is_ok_and(|stamp| stamp == recipe)
}

fn stamp(place: &Path) -> PathBuf {
    place.join("stamp")
}

/// Copies a file atomically: readers of `to` see the old content or the new, never a part of it.
///
/// # Errors
/// The file cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    let draft = beside(to, &format!("draft-{}", std::process::id()));
    fs::copy(from, &draft)
        .and_then(|_| fs::rename(&draft, to))
        .with_context(|| format!("{}: cannot be copied to {}", from.display(), to.display()))
}

/// Writes a file, and creates its folder if needed.
///
/// # Errors
/// The folder cannot be created, or the file cannot be written.
pub fn write(path: &Path, content: &str) -> Result<()> {
    create_parent(path)?;
    fs::write(path, content).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Writes an executable script.
///
/// # Errors
/// The script cannot be written or made executable.
pub fn write_script(path: &Path, content: &str) -> Result<()> {
    write(path, content)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("{}: cannot be made executable", path.display()))
}

/// Removes a folder and everything in it. A folder that does not exist is no error.
///
/// # Errors
/// Something in the folder cannot be removed.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Turns `dir/name` into `dir/.name.suffix`. `Path::with_extension` would cut a version number in the name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("{}: cannot be created", parent.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_folder_is_made_once_for_each_recipe() {
        let top = std::env::temp_dir().join(format!("provision-once-{}", std::process::id()));
        let place = top.join("thing");
        let made = |recipe: &str, content: &'static str| {
            once(&place, recipe, "make a thing", |place| {
                write(&place.join(content), content)
            })
        };
        made("one", "a").unwrap();
        made("one", "b").unwrap();
        assert!(place.join("a").exists() && !place.join("b").exists());
        once(&place, "two", "break a thing", |_| bail!("broken")).unwrap_err();
        assert!(!is_made(&place, "one") && !is_made(&place, "two"));
        made("one", "b").unwrap();
        assert!(!place.join("a").exists() && place.join("b").exists());
        remove(&top).unwrap();
    }
}
