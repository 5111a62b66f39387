//! Where the binaries under test are.

use std::env;
use std::path::PathBuf;

/// A release of Envoy that the module is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyVersion {
    /// The newest.
    V1_40_0,
    /// The first whose router can choose a cluster per attempt.
    V1_39_0,
    /// One before that.
    V1_38_2,
    /// The oldest that is supported.
    V1_36_4,
}

impl EnvoyVersion {
    /// All of them, newest first.
    pub const ALL: [Self; 4] = [Self::V1_40_0, Self::V1_39_0, Self::V1_38_2, Self::V1_36_4];

    /// The version as people write it.
    pub fn number(self) -> &'static str {
        match self {
            Self::V1_40_0 => "1.40.0",
            Self::V1_39_0 => "1.39.0",
            Self::V1_38_2 => "1.38.2",
            Self::V1_36_4 => "1.36.4",
        }
    }

    /// The binary, as the environment names it: `AOAI_ENVOY_1_40_0` and so on.
    ///
    /// # Panics
    ///
    /// When the variable is not set, since a test without Envoy would prove nothing.
    pub fn binary(self) -> PathBuf {
        let variable = format!("AOAI_ENVOY_{}", self.number().replace('.', "_"));
        from_environment(&variable, &format!("the binary of Envoy {}", self.number()))
    }
}

/// Names the version that tests use unless they say otherwise.
const VERSION: &str = "AOAI_ENVOY_VERSION";

impl Default for EnvoyVersion {
    /// The one that the environment names as `AOAI_ENVOY_VERSION`, else the newest.
    ///
    /// # Panics
    ///
    /// When it names one that the module is not tested with.
    fn default() -> Self {
        match env::var_os(VERSION) {
            Some(number) => Self::named(&number.to_string_lossy()),
            None => Self::V1_40_0,
        }
    }
}

impl EnvoyVersion {
    fn named(number: &str) -> Self {
        let named = Self::ALL
            .into_iter()
            .find(|version| version.number() == number);
        named.unwrap_or_else(|| {
            let known = Self::ALL.map(Self::number).join(", ");
            panic!("{VERSION}={number}: no such version; use one of {known}")
        })
    }
}

/// The built module, as `AOAI_WASM` names it.
///
/// # Panics
///
/// When the variable is not set.
pub fn module() -> PathBuf {
    from_environment("AOAI_WASM", "the built module")
}

fn from_environment(variable: &str, what: &str) -> PathBuf {
    let Some(value) = env::var_os(variable) else {
        panic!("run `cargo xtask test`: {variable} names {what}");
    };
    let path = PathBuf::from(value);
    assert!(
        path.is_file(),
        "{variable} names {}, which is no file",
        path.display()
    );
    // Envoy may run in another folder.
    std::path::absolute(&path).expect("a path can be made absolute")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_goes_by_its_number() {
        for version in EnvoyVersion::ALL {
            assert_eq!(EnvoyVersion::named(version.number()), version);
        }
    }

    #[test]
    #[should_panic(
        expected = "AOAI_ENVOY_VERSION=1.2.3: no such version; use one of 1.40.0, 1.39.0, 1.38.2, 1.36.4"
    )]
    fn an_unknown_version_is_answered_with_the_known_ones() {
        EnvoyVersion::named("1.2.3");
    }
}
