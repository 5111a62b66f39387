//! Files that Envoy reads in addition to its configuration.

use std::path::{Path, PathBuf};

use render::{Clients, Fleet};

/// A file that a rendered configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedFile {
    /// The path, as Envoy sees it.
    pub path: PathBuf,
    /// The field of a list of backends that sets the path.
    pub field: &'static str,
    /// The origin of such a file.
    pub origin: &'static str,
}

impl ExpectedFile {
    /// Whether the file exists on this machine, which may not be Envoy's.
    pub fn is_here(&self) -> bool {
        self.path.exists()
    }
}

/// The files that Envoy reads in addition to this fleet's configuration, each once.
pub(crate) fn expected_files(fleet: &Fleet) -> Vec<ExpectedFile> {
    let mut files = Vec::new();
    let mut add = |path: &Path, field, origin| {
        let file = ExpectedFile {
            path: path.to_owned(),
            field,
            origin,
        };
        if !files.contains(&file) {
            files.push(file);
        }
    };
    add(
        &fleet.module,
        "module",
        "a release has it, and `cargo xtask wasm` builds it",
    );
    if let Some(tls) = &fleet.listener.tls {
        let origin = "the certificate that clients see, in PEM form";
        add(&tls.chain, "listener.tls.certificate", origin);
        let origin = "the certificate's private key, in PEM form";
        add(&tls.key, "listener.tls.key", origin);
    }
    if let Clients::Keys { file } = &fleet.clients {
        add(
            file,
            "clients.keys_file",
            "`azure-openai-balancer keys NAME` prints it",
        );
    }
    let backends = fleet.backends.iter().filter_map(|b| b.tls.as_ref());
    let authorities = fleet.authorities.iter().filter_map(|a| a.tls.as_ref());
    let issuer = match &fleet.clients {
        Clients::Tokens(issuer) => issuer.tls.as_ref(),
        Clients::Keys { .. } | Clients::Open => None,
    };
    let limits = fleet.limits.as_ref();
    let limits = limits.and_then(|limits| limits.service.tls.as_ref());
    for options in backends.chain(authorities).chain(issuer).chain(limits) {
        add(
            options.authorities(),
            "tls.trusted_ca",
            "the system's certificate authorities: package ca-certificates; /etc/pki/tls/certs/ca-bundle.crt on Red Hat, \
             /etc/ssl/cert.pem on Alpine",
        );
    }
    for file in &fleet.token_files {
        let origin = "the webhook of workload identity projects it into the pod";
        add(&file.file, "identity.token_file", origin);
    }
    files
}

/// The files, one on each line, and whether they exist here.
pub fn file_table(files: &[ExpectedFile]) -> String {
    let width = files.iter().map(|file| file.path.as_os_str().len()).max();
    let width = width.unwrap_or(0);
    let line = |file: &ExpectedFile| {
        let ExpectedFile {
            path,
            field,
            origin,
        } = file;
        let path = path.display().to_string();
        match file.is_here() {
            true => format!("  {path:width$}  there    `{field}`\n"),
            false => format!("  {path:width$}  missing  `{field}`: {origin}\n"),
        }
    };
    files.iter().map(line).collect()
}
