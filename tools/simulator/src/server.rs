//! Listeners: TCP, TLS, HTTP/1.1 and HTTP/2, and faults of connections.

use std::convert::Infallible;
use std::future::{pending, Future};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{watch, Notify};
use tokio::task::{JoinHandle, JoinSet};

use crate::body::Body;
use crate::certificates::TlsPort;

/// Numbers connections over all services.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// The way in which a connection breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Break {
    /// A TCP reset of the whole connection.
    #[default]
    Reset,
    /// An orderly TCP close. In the middle of an HTTP/2 answer, a reset of that stream only.
    Close,
    /// Silence: nothing more is sent, and the connection stays open.
    Silence,
}

/// A service that answers the requests of one listener.
pub(crate) trait Service: Send + Sync + 'static {
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// A request's view of its connection.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) tls: bool,
    pub(crate) sni: Option<String>,
    fate: Arc<Fate>,
    /// Closed when the listener stops.
    running: watch::Receiver<()>,
    /// Request bodies that stay unread until the connection ends.
    unread: Mutex<Vec<Incoming>>,
}

impl Connection {
    /// Breaks the connection. The caller never continues.
    pub(crate) async fn cut(&self, how: Break) -> Infallible {
        if how != Break::Silence {
            self.fate.reset.store(how == Break::Reset, Ordering::SeqCst);
            self.fate.ended.notify_one();
        }
        pending().await
    }

    /// Sends at most this many more bytes, and discards the rest.
    pub(crate) fn mute_after(&self, bytes: usize) {
        self.fate.left.store(bytes, Ordering::SeqCst);
    }

    /// Sends these bytes in place of everything that is written from now on.
    pub(crate) fn replace(&self, bytes: Bytes) {
        *self.fate.instead() = bytes;
        self.mute_after(0);
    }

    /// Makes the connection end with a reset.
    pub(crate) fn reset_at_end(&self) {
        self.fate.reset.store(true, Ordering::SeqCst);
    }

    /// Keeps a request's body unread while the connection lives.
    pub(crate) fn leave_unread(&self, body: Incoming) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.push(body);
    }

    /// Resolves when the listener stops.
    pub(crate) async fn stopped(&self) {
        while self.running.clone().changed().await.is_ok() {}
    }
}

struct Fate {
    reset: AtomicBool,
    ended: Notify,
    /// The number of bytes that may still be sent; `usize::MAX` for all.
    left: AtomicUsize,
    /// Bytes to send first, in place of written ones.
    instead: Mutex<Bytes>,
}

impl Fate {
    fn instead(&self) -> MutexGuard<'_, Bytes> {
        self.instead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Fate {
    fn default() -> Self {
        Self {
            reset: AtomicBool::new(false),
            ended: Notify::new(),
            left: AtomicUsize::new(usize::MAX),
            instead: Mutex::default(),
        }
    }
}

/// One service's port, which can be closed and opened again.
pub(crate) struct Listener<S> {
    runtime: Handle,
    addr: SocketAddr,
    shared: Arc<Shared<S>>,
    running: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<S> {
    service: Arc<S>,
    tls: Option<Arc<TlsPort>>,
    accepted: AtomicU64,
    open: AtomicUsize,
}

impl<S: Service> Listener<S> {
    pub(crate) fn start(
        runtime: &Handle,
        addr: SocketAddr,
        tls: Option<Arc<TlsPort>>,
        service: Arc<S>,
    ) -> io::Result<Self> {
        let listener = StdListener::bind(addr)?;
        let shared = Arc::new(Shared {
            service,
            tls,
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let this = Self {
            runtime: runtime.clone(),
            addr: listener.local_addr()?,
            shared,
            running: Mutex::new(None),
        };
        this.run(listener)?;
        Ok(this)
    }

    fn run(&self, listener: StdListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let _context = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let task = self
            .runtime
            .spawn(accept(listener, Arc::clone(&self.shared)));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    pub(crate) fn service(&self) -> &Arc<S> {
        &self.shared.service
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Closes the port and its connections. Blocks until both are closed.
    pub(crate) fn stop(&self) {
        let task = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(task) = task else { return };
        task.abort();
        let patience = Instant::now() + Duration::from_secs(2);
        let done = || task.is_finished() && self.shared.open.load(Ordering::SeqCst) == 0;
        while !done() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Opens the port again if it is closed. Blocks for a moment.
    pub(crate) fn restart(&self) -> io::Result<()> {
        if self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            return Ok(());
        }
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            match StdListener::bind(self.addr) {
                Ok(listener) => return self.run(listener),
                Err(error) if Instant::now() > patience => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// Accepts connections until it is aborted. Its connections end with it.
async fn accept<S: Service>(listener: TcpListener, shared: Arc<Shared<S>>) {
    let mut connections = JoinSet::new();
    let (_running, running) = watch::channel(());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let open = OpenConnection(Arc::clone(&shared));
                    connections.spawn(connection(stream, open, running.clone()));
                }
                // Most likely no file descriptor is free. Some will be soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

struct OpenConnection<S>(Arc<Shared<S>>);

impl<S> Drop for OpenConnection<S> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection<S: Service>(
    stream: TcpStream,
    open: OpenConnection<S>,
    running: watch::Receiver<()>,
) {
    let shared = &open.0;
    let _ = stream.set_nodelay(true);
    let fate = Arc::new(Fate::default());
    let stream = Wire {
        stream,
        fate: Arc::clone(&fate),
    };
    let id = NEXT_CONNECTION.fetch_add(1, Ordering::SeqCst);
    let plain = Connection {
        id,
        tls: false,
        sni: None,
        fate,
        running,
        unread: Mutex::default(),
    };
    let service = Arc::clone(&shared.service);
    let Some(tls) = &shared.tls else {
        return serve(stream, plain, service).await;
    };
    let Some((stream, sni)) = tls.accept(stream).await else {
        return;
    };
    let secured = Connection {
        tls: true,
        sni,
        ..plain
    };
    serve(stream, secured, service).await;
}

async fn serve<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Connection,
    service: Arc<S>,
) {
    let fate = Arc::clone(&connection.fate);
    let connection = Arc::new(connection);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(10_000)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024);
    let answer = service_fn(move |request| {
        let answer = Arc::clone(&service).answer(request, Arc::clone(&connection));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    tokio::select! {
        _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer) => {}
        () = fate.ended.notified() => {}
    }
}

/// A socket that ends with a reset if the connection's fate says so.
pub(crate) struct Wire {
    stream: TcpStream,
    fate: Arc<Fate>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.fate.reset.load(Ordering::SeqCst) {
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.fate.left.load(Ordering::SeqCst);
        if left == usize::MAX {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let fate = Arc::clone(&self.fate);
        let mut instead = fate.instead();
        while !instead.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &instead) {
                Poll::Ready(Ok(written)) => drop(instead.split_to(written)),
                other => return other,
            }
        }
        drop(instead);
        let leaving = &buf[..left.min(buf.len())];
        if leaving.is_empty() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, leaving);
        if let Poll::Ready(Ok(written)) = written {
            self.fate.left.store(left - written, Ordering::SeqCst);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.fate.left.load(Ordering::SeqCst) == usize::MAX {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| buf))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
