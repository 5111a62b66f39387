//! A client that speaks HTTP/2, whose requests can have trailers.

use bytes::Bytes;
use e2e::Gateway;
use h2::SendStream;
use http::Request;
use tokio::net::TcpStream;

/// Sends a request whose body `upload` sends, on a connection of its own. Returns the status of the answer.
pub(crate) fn send(
    gateway: &Gateway,
    request: Request<()>,
    upload: impl FnOnce(&mut SendStream<Bytes>),
) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = TcpStream::connect(gateway.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let (answer, mut body) = client.send_request(request, false).unwrap();
        upload(&mut body);
        let status = answer.await.unwrap().status();
        connection.abort();
        status.as_u16()
    })
}
