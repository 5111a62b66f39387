//! The simulator's own certificate authority, and the TLS side of a backend's port.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use crate::server::Wire;

/// The time limit of a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// The authority that signs the backends' certificates. Its own certificate is in a temporary file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
    path: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "Simulated Azure authority");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        let pem = issuer.pem();
        let name = format!(
            "simulator-ca-{}-{}.pem",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, &pem)?;
        Ok(Self { issuer, pem, path })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file. The authority itself may live on in connections that are about to end.
    pub(crate) fn remove_file(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    fn server_config(&self, host: &str) -> io::Result<Arc<ServerConfig>> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.remove_file();
    }
}

/// The treatment of new connections at a TLS port.
pub(crate) struct TlsPort {
    authority: Arc<Authority>,
    /// `None`: they are closed during the handshake.
    config: RwLock<Option<Arc<ServerConfig>>>,
}

impl TlsPort {
    pub(crate) fn new(authority: Arc<Authority>, host: &str) -> io::Result<Self> {
        let config = RwLock::new(Some(authority.server_config(host)?));
        Ok(Self { authority, config })
    }

    /// Serves new connections with a certificate for `host`.
    pub(crate) fn present(&self, host: &str) -> io::Result<()> {
        let config = self.authority.server_config(host)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
        Ok(())
    }

    /// Closes new connections after the client's hello.
    pub(crate) fn fail(&self) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The secured stream and the requested server name; `None` after a failed handshake.
    pub(crate) async fn accept(
        &self,
        mut stream: Wire,
    ) -> Option<(TlsStream<Wire>, Option<String>)> {
        let config = self
            .config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(config) = config else {
            let _ = stream.read(&mut [0; 4096]).await;
            return None;
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::time::timeout(HANDSHAKE_LIMIT, handshake)
            .await
            .ok()?
            .ok()?;
        let sni = stream.get_ref().1.server_name().map(str::to_owned);
        Some((stream, sni))
    }
}
