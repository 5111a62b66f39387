//! The service on a port, with its own threads.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;

use crate::service::Service;
use crate::storage::Counters;
use crate::{Clock, Limits, Store};

/// The settings of a service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 stands for a free one.
    pub address: SocketAddr,
    /// The limits.
    pub limits: Limits,
    /// The place of the counters.
    pub store: Store,
    /// The clock of the windows.
    pub clock: Clock,
}

impl Settings {
    /// These limits, counted in memory, on a free port of this machine.
    pub fn new(limits: Limits) -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            limits,
            store: Store::default(),
            clock: Clock::default(),
        }
    }
}

/// A running service. Dropping it closes its port and all connections.
pub struct Server {
    address: SocketAddr,
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl Server {
    /// Opens the port. When this returns, connections are accepted.
    ///
    /// # Errors
    /// When the port is taken, or the URL of Redis is invalid.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("ratelimit")
            .enable_all()
            .build()?;
        let (listener, counters) = runtime.block_on(async {
            let listener = TcpListener::bind(settings.address).await?;
            let counters = Counters::open(&settings.store).map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener, counters))
        })?;
        let address = listener.local_addr()?;
        let service = Service {
            limits: settings.limits,
            counters,
            clock: settings.clock,
        };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(RateLimitServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// The address of the service.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
