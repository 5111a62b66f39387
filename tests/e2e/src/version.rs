//! The binaries under test.

use std::env;
use std::path::PathBuf;

/// A release of Envoy that the module is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyVersion {
    /// The newest supported release.
    V1_40_0,
    /// The first release whose router can choose a cluster for each attempt.
    V1_39_0,
    /// A release whose router cannot choose a cluster for each attempt.
    V1_38_2,
    /// The oldest supported release.
    V1_36_4,
}

impl EnvoyVersion {
    /// All releases, newest first.
    pub const ALL: [Self; 4] = [Self::V1_40_0, Self::V1_39_0, Self::V1_38_2, Self::V1_36_4];

    /// The version number, such as `1.40.0`.
    pub fn number(self) -> &'static str {
        match self {
            Self::V1_40_0 => "1.40.0",
            Self::V1_39_0 => "1.39.0",
            Self::V1_38_2 => "1.38.2",
            Self::V1_36_4 => "1.36.4",
        }
    }

    /// The path of the binary, from a variable such as `AOAI_ENVOY_1_40_0`.
    ///
    /// # Panics
    ///
    /// When the variable is not set: a test without Envoy would prove nothing.
    pub fn binary(self) -> PathBuf {
        let variable = format!("AOAI_ENVOY_{}", self.number().replace('.', "_"));
        from_environment(&variable, &format!("the binary of Envoy {}", self.number()))
    }
}

/// The variable that names the default version of the tests.
const VERSION: &str = "AOAI_ENVOY_VERSION";

impl Default for EnvoyVersion {
    /// The version that `AOAI_ENVOY_VERSION` names, or else the newest.
    ///
    /// # Panics
    ///
    /// When the variable names a version that the module is not tested with.
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

/// The path of the built module, from `AOAI_WASM`.
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
    // Envoy may run in another folder, so the path must be absolute.
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
    fn an_error_about_an_unknown_version_names_the_known_ones() {
        EnvoyVersion::named("1.2.3");
    }
}
