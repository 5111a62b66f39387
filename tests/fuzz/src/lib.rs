//! Properties of the core that hold for any bytes: of its readers, its changes to requests, and its state machine.
//!
//! A [`Target`] is a function of bytes that panics where its property does not hold. Many compare the core with a
//! plain, slow implementation. The targets run in three ways: a second each in `cargo xtask test`, longer with random
//! mutations of the corpus ([`run`]), and under libFuzzer, which coverage guides (`main.rs`).

pub mod mutation;
pub mod run;
mod targets;

use std::fs;
use std::path::PathBuf;

/// A property that must hold for any bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// The target's name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// Panics where the property does not hold.
    pub check: fn(&[u8]),
}

/// All targets, in the order of their names.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "configuration",
        check: targets::configuration::check,
    },
    Target {
        name: "events",
        check: targets::events::check,
    },
    Target {
        name: "inflate",
        check: targets::inflate::check,
    },
    Target {
        name: "machine",
        check: targets::machine::check,
    },
    Target {
        name: "multipart",
        check: targets::multipart::check,
    },
    Target {
        name: "path",
        check: targets::path::check,
    },
    Target {
        name: "records",
        check: targets::records::check,
    },
    Target {
        name: "retry_after",
        check: targets::retry_after::check,
    },
    Target {
        name: "scan",
        check: targets::scan::check,
    },
    Target {
        name: "stream_start",
        check: targets::stream_start::check,
    },
    Target {
        name: "stripper",
        check: targets::stripper::check,
    },
    Target {
        name: "tagger",
        check: targets::tagger::check,
    },
    Target {
        name: "usage",
        check: targets::usage::check,
    },
];

/// The target with this name.
///
/// # Errors
/// No target has this name. The text lists the names.
pub fn target(name: &str) -> Result<Target, String> {
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.ok_or_else(|| {
        let names = TARGETS.map(|target| target.name).join(", ");
        format!("{name:?} is not a target; use one of {names}")
    })
}

impl Target {
    /// The folder of the target's checked-in inputs.
    pub fn corpus_folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// The target's checked-in inputs, in the order of their names.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let folder = self.corpus_folder();
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        let read =
            |path: &PathBuf| fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        paths.iter().map(read).collect()
    }
}
