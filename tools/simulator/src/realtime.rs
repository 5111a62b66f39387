//! Realtime sessions, and the Responses API over a WebSocket: greets and then echoes messages. HTTP/1.1 only.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderValue, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::WebSocketStream;

use crate::azure::errors;
use crate::behaviour::Failure;
use crate::body::{Body, OpenAnswer};
use crate::server::{Break, Connection};

/// Whether a request opens a realtime session.
pub(crate) fn wanted(head: &Parts) -> bool {
    match head.uri.path() {
        "/openai/realtime" | "/openai/v1/realtime" => true,
        "/openai/v1/responses" => head.headers.contains_key(UPGRADE),
        _ => false,
    }
}

/// Answers 101 and begins the session. The session may break after a number of the backend's messages.
pub(crate) fn open(
    head: &Parts,
    greeting: Value,
    open: OpenAnswer,
    connection: Arc<Connection>,
    broken: Option<(u32, Break)>,
) -> Result<Response<Body>, Failure> {
    let missing =
        || errors::bad_request("A realtime session needs a WebSocket upgrade over HTTP/1.1.");
    let key = head.headers.get(SEC_WEBSOCKET_KEY).ok_or_else(missing)?;
    let accepted = derive_accept_key(key.as_bytes());
    let accepted = HeaderValue::try_from(accepted).map_err(|_| missing())?;
    let upgrade = head
        .extensions
        .get::<OnUpgrade>()
        .cloned()
        .ok_or_else(missing)?;
    tokio::spawn(async move {
        let _open = open;
        let session = async {
            if let Ok(upgraded) = upgrade.await {
                let left = broken.map(|(messages, _)| messages);
                converse(upgraded, greeting, left, || {
                    if let Some((_, Break::Reset)) = broken {
                        connection.reset_at_end();
                    }
                })
                .await;
            }
        };
        tokio::select! {
            () = session => {}
            () = connection.stopped() => {}
        }
    });
    let mut response = Response::new(Body::whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    Ok(response)
}

/// Echoes messages until the client ends the session, or for this many messages.
async fn converse(upgraded: Upgraded, greeting: Value, mut left: Option<u32>, at_end: impl Fn()) {
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let mut next = Some(Message::text(greeting.to_string()));
    loop {
        if let Some(message) = next.take() {
            if socket.send(message).await.is_err() {
                return;
            }
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) {
                return at_end();
            }
        }
        match socket.next().await {
            Some(Ok(message)) if message.is_text() || message.is_binary() => next = Some(message),
            // The socket itself answers pings and closes.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
