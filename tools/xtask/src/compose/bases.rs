//! The images that the project's own are built on.
//!
//! Where a registry can be reached they are pulled. Where none can, each is stood in for by a local image of the same name:
//! made from packages of Debian, the compiler in use and the pinned Envoy, and as poor as the original in what matters
//! here (beside Envoy there is a C library, and no shell). What a test made is labelled, and is gone when it ends.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::docker::Docker;
use crate::archive::{self, Archive};
use crate::library::{Choice, Library};
use crate::{envoy, files, paths, pins, process};

/// The label of the images made here.
pub const LABEL: &str = "azure-openai-balancer.stand-in=true";

/// Long enough for a slow line; where no registry is reached the answer comes at once.
const PULL_LIMIT: Duration = Duration::from_secs(300);

/// Where Debian and its relatives keep the certificate authorities.
const CA_FILE: &str = "etc/ssl/certs/ca-certificates.crt";

/// A shell and what scripts take for granted.
const SHELL: &[&str] = &["bash", "coreutils", "dash", "findutils", "grep", "sed"];

/// What stands in for an image.
struct StandIn {
    packages: &'static [&'static str],
    /// Whether there is a shell, and whatever the packages depend on; otherwise there are these packages and no more.
    has_shell: bool,
    /// Adds to the files what does not come from packages.
    add: fn(&Path) -> Result<()>,
    /// Instructions of a Dockerfile.
    changes: &'static [&'static str],
}

const RUST: StandIn = StandIn {
    packages: &["gcc", "libc6-dev"],
    has_shell: true,
    add: add_rust,
    changes: &["ENV PATH=/usr/local/rust/bin:/usr/local/bin:/usr/bin CARGO_HOME=/usr/local/cargo"],
};

const PYTHON: StandIn = StandIn {
    packages: &["python3", "python3-pip"],
    has_shell: true,
    add: add_python,
    changes: &["ENV PATH=/usr/local/bin:/usr/bin"],
};

const ENVOY: StandIn = StandIn {
    packages: &["libc6"],
    has_shell: false,
    add: add_envoy,
    changes: &[
        "ENV PATH=/usr/local/bin:/usr/bin",
        "ENTRYPOINT [\"/usr/local/bin/envoy\"]",
    ],
};

const PROMETHEUS: StandIn = StandIn {
    packages: &["libc6", "prometheus", "promtool"],
    has_shell: false,
    add: |_| Ok(()),
    changes: &[
        "USER 65534",
        "ENTRYPOINT [\"/bin/prometheus\"]",
        "EXPOSE 9090",
    ],
};

/// The base images, there for as long as this lives; those it brought are gone afterwards.
pub struct Bases {
    docker: Docker,
    brought: Vec<String>,
    has_grafana: bool,
}

impl Bases {
    /// Brings what is missing, in the versions that `.env` names.
    ///
    /// # Errors
    /// When an image can neither be pulled nor be stood in for.
    pub fn bring(docker: &Docker, versions: &BTreeMap<String, String>) -> Result<Self> {
        let version = |name: &str| {
            let version = versions.get(name).map(String::as_str);
            version.with_context(|| format!(".env: {name} is missing"))
        };
        let images = [
            (
                format!("rust:{}-slim-trixie", version("RUST_VERSION")?),
                RUST,
            ),
            (
                format!("envoyproxy/envoy:distroless-v{}", version("ENVOY_VERSION")?),
                ENVOY,
            ),
            (
                format!("python:{}-slim-trixie", version("PYTHON_VERSION")?),
                PYTHON,
            ),
            (
                format!("prom/prometheus:{}", version("PROMETHEUS_VERSION")?),
                PROMETHEUS,
            ),
        ];
        let mut bases = Self {
            docker: docker.clone(),
            brought: Vec::new(),
            has_grafana: false,
        };
        let mut missing = Vec::new();
        for (image, stand_in) in images {
            if !bases.has_or_pulls(&image) {
                missing.push((image, stand_in));
            }
        }
        if !missing.is_empty() {
            bases.stand_in(&missing)?;
        }
        // Debian has none to make one from.
        bases.has_grafana =
            bases.has_or_pulls(&format!("grafana/grafana:{}", version("GRAFANA_VERSION")?));
        Ok(bases)
    }

    /// Whether Grafana's image could be had.
    pub fn has_grafana(&self) -> bool {
        self.has_grafana
    }

    fn has_or_pulls(&mut self, image: &str) -> bool {
        if self.docker.output(&["image", "inspect", image]).is_ok() {
            return true;
        }
        let mut pull = self.docker.command();
        pull.args(["pull", "--quiet", image]);
        let pulled = process::output_within(&mut pull, PULL_LIMIT).is_ok();
        if pulled {
            self.brought.push(image.to_owned());
        }
        pulled
    }

    fn stand_in(&mut self, missing: &[(String, StandIn)]) -> Result<()> {
        let scratch = paths::tools().join("compose-bases");
        files::remove(&scratch)?;
        let made = self.make_all(missing, &scratch);
        files::remove(&scratch)?;
        made
    }

    fn make_all(&mut self, missing: &[(String, StandIn)], scratch: &Path) -> Result<()> {
        let archive = process::step("read Debian's package lists", || {
            Archive::open(&scratch.join("apt"))
        })?;
        for (image, stand_in) in missing {
            process::step(&format!("stand in for {image}"), || {
                let root = scratch.join("root");
                files::remove(&root)?;
                stand_in.fill(&archive, &root, &scratch.join("packages"))?;
                import(&self.docker, &root, image, stand_in.changes)?;
                self.brought.push(image.clone());
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Drop for Bases {
    fn drop(&mut self) {
        for image in &self.brought {
            if let Err(error) = self.docker.output(&["image", "rm", image]) {
                eprintln!("warning: {image} could not be removed: {error:#}");
            }
        }
    }
}

/// Removes the stand-ins that an ended run left.
///
/// # Errors
/// When the engine does not let them go.
pub fn remove_left_over(docker: &Docker) -> Result<()> {
    let filter = format!("label={LABEL}");
    let images = docker.output(&["image", "ls", "--quiet", "--filter", &filter])?;
    for image in images.lines() {
        docker.output(&["image", "rm", "--force", image])?;
    }
    Ok(())
}

impl StandIn {
    /// Fills a directory with the image's files.
    fn fill(&self, archive: &Archive, root: &Path, packages: &Path) -> Result<()> {
        // Its links (`/bin` to `/usr/bin` and so on) have to be there before anything else.
        let base = archive.download(&["base-files"], packages)?;
        archive::unpack(&base, root)?;
        let rest = if self.has_shell {
            let wanted = [self.packages, SHELL].concat();
            archive.download_with_dependencies(&wanted, packages)?
        } else {
            archive.download(self.packages, packages)?
        };
        archive::unpack(&rest, root)?;
        files::write(
            &root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
             nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin\n",
        )?;
        files::write(
            &root.join("etc/group"),
            "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n",
        )?;
        let authorities = Path::new("/").join(CA_FILE);
        if authorities.exists() {
            files::copy(&authorities, &root.join(CA_FILE))?;
        }
        (self.add)(root)
    }
}

/// The compiler in use, with the module's target, whether that is its own or Debian's.
fn add_rust(root: &Path) -> Result<()> {
    let sysroot = process::output(process::rustc().args(["--print", "sysroot"]))?;
    let place = root.join("usr/local/rust");
    for part in ["bin", "lib"] {
        copy_tree(&Path::new(sysroot.trim()).join(part), &place.join(part))?;
    }
    link("gcc", &root.join("usr/bin/cc"))?;
    // What `rustup target add wasm32-wasip1` has to do where the compiler has the target, and where it has not.
    let add = match Library::find(Choice::Auto)? {
        Library::Installed => String::new(),
        Library::Debian(_) => {
            copy_tree(&paths::debian_rust(), &root.join("usr/local/debian-rust"))?;
            let triple = process::output(process::rustc().args(["--print", "host-tuple"]))?;
            format!(
                "mkdir -p \"$CARGO_HOME\"\n\
                 cat > \"$CARGO_HOME/config.toml\" <<'END'\n\
                 [build]\n\
                 rustc = \"/usr/local/debian-rust/bin/rustc\"\n\
                 [target.wasm32-wasip1]\n\
                 linker = \"/usr/local/rust/lib/rustlib/{}/bin/rust-lld\"\n\
                 END\n",
                triple.trim()
            )
        }
    };
    let script = format!("#!/bin/sh -e\ntest \"$*\" = 'target add wasm32-wasip1'\n{add}");
    let rustup = place.join("bin/rustup");
    // Where the toolchain has one it is a link to a program that would look for its own directories.
    let _ = fs::remove_file(&rustup);
    files::write(&rustup, &script)?;
    fs::set_permissions(&rustup, Permissions::from_mode(0o755))?;
    Ok(())
}

/// Python's image has pip under that name, and lets it install.
fn add_python(root: &Path) -> Result<()> {
    link("/usr/bin/pip3", &root.join("usr/local/bin/pip"))?;
    for entry in fs::read_dir(root.join("usr/lib"))? {
        // Debian's way to keep pip away from its own packages.
        let marker = entry?.path().join("EXTERNALLY-MANAGED");
        if marker.exists() {
            fs::remove_file(marker)?;
        }
    }
    Ok(())
}

fn add_envoy(root: &Path) -> Result<()> {
    let pinned = pins::envoy(pins::DEFAULT_ENVOY).context("the default Envoy is not pinned")?;
    files::copy(&envoy::pinned(pinned)?, &root.join("usr/local/bin/envoy"))
}

fn link(target: &str, place: &Path) -> Result<()> {
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if place.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(target, place)
        .with_context(|| format!("{}: cannot be made", place.display()))
}

/// With links and permissions as they are.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    process::output(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}

/// Makes an image of a directory, with one layer.
fn import(docker: &Docker, root: &Path, image: &str, changes: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-C",
    ])
    .arg(root)
    .arg(".")
    .stdout(Stdio::piped());
    let mut tar = tar
        .spawn()
        .map_err(|error| process::not_started(&Command::new("tar"), &error))?;
    let files = tar.stdout.take().context("tar's output")?;
    let mut import = docker.command();
    import.arg("import");
    let label = format!("LABEL {LABEL}");
    for change in changes.iter().copied().chain([label.as_str()]) {
        import.args(["--change", change]);
    }
    let imported = import.args(["-", image]).stdin(files).output()?;
    let packed = tar.wait()?;
    if !packed.success() || !imported.status.success() {
        bail!(
            "{image} could not be made: tar ended with {packed}, docker import with {}: {}",
            imported.status,
            String::from_utf8_lossy(&imported.stderr).trim()
        );
    }
    Ok(())
}
