//! Files and directories that appear whole or not at all, and are made by one process at a time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};
use fs4::{FileExt, TryLockError};
use sha2::{Digest, Sha256};

use crate::paths;

/// Held while something shared is being made; other processes wait for it. Let go when dropped.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock for `path`, waiting while another process has it.
    pub fn on(path: &Path) -> Result<Self> {
        let lock = beside(path, "lock");
        create_parent(&lock)?;
        let file = File::create(&lock)
            .with_context(|| format!("{}: cannot be created", lock.display()))?;
        let taken = match FileExt::try_lock(&file) {
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another run that makes {}", paths::shown(path));
                FileExt::lock(&file)
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        taken.with_context(|| format!("{}: cannot be locked", lock.display()))?;
        Ok(Self { _file: file })
    }
}

/// A fresh directory beside `place`, which becomes `place` when everything in it is done.
pub struct Draft {
    path: PathBuf,
    place: PathBuf,
}

impl Draft {
    /// An empty draft of the directory `place`, whose lock the caller holds: what an ended run left is removed.
    pub fn of(place: &Path) -> Result<Self> {
        let path = beside(place, "draft");
        remove(&path)?;
        fs::create_dir_all(&path)
            .with_context(|| format!("{}: cannot be created", path.display()))?;
        Ok(Self {
            path,
            place: place.to_path_buf(),
        })
    }

    /// The directory to fill.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the draft in its place, instead of what was there before.
    pub fn publish(self) -> Result<()> {
        let (path, place) = (self.path.display(), self.place.display());
        remove(&self.place)?;
        fs::rename(&self.path, &self.place)
            .with_context(|| format!("{path}: cannot be renamed to {place}"))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `publish` there is nothing left; after a failure what stays is only untidy.
        let _ = remove(&self.path);
    }
}

/// Writes a file so that its readers see the old content or the new, never half of it.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    let draft = beside(path, &format!("draft-{}", process::id()));
    fs::write(&draft, content)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Copies a file so that readers of `to` see the old content or the new, never half of it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    let draft = beside(to, &format!("draft-{}", process::id()));
    fs::copy(from, &draft)
        .and_then(|_| fs::rename(&draft, to))
        .with_context(|| format!("{}: cannot be copied to {}", from.display(), to.display()))
}

/// Writes a file, and the directory for it if need be.
pub fn write(path: &Path, content: &str) -> Result<()> {
    create_parent(path)?;
    fs::write(path, content).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Whether a file has exactly this content.
pub fn says(path: &Path, content: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found == content)
}

/// Removes a directory and everything in it; it need not be there.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// `dir/name` becomes `dir/.name.suffix`: a version number in the name stays whole.
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
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("xtask-files-{name}-{}", process::id()));
        remove(&directory).unwrap();
        directory
    }

    #[test]
    fn a_published_draft_replaces_what_was_there() {
        let place = scratch("publish").join("thing");
        write(&place.join("old"), "old").unwrap();
        let draft = Draft::of(&place).unwrap();
        write(&draft.path().join("new"), "new").unwrap();
        draft.publish().unwrap();
        assert!(place.join("new").exists() && !place.join("old").exists());
        remove(place.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_dropped_draft_leaves_everything_as_it_was() {
        let place = scratch("drop").join("thing");
        write(&place.join("old"), "old").unwrap();
        let draft = Draft::of(&place).unwrap();
        let path = draft.path().to_path_buf();
        drop(draft);
        assert!(place.join("old").exists() && !path.exists());
        remove(place.parent().unwrap()).unwrap();
    }

    #[test]
    fn sha256_is_the_usual_one() {
        let file = scratch("sha").join("file");
        write(&file, "abc").unwrap();
        assert_eq!(
            sha256(&file).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        remove(file.parent().unwrap()).unwrap();
    }
}
