//! TLS and HTTP/2.

mod common;

use std::convert::Infallible;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{request, started, Answer, End, CHAT, STREAM};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use simulator::{BackendHandle, BackendSettings, Behaviour, Break, Simulator, Stream, Tls};
use tokio::sync::mpsc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_rustls::TlsConnector;

fn simulator() -> Simulator {
    started(vec![BackendSettings {
        tls: Tls::On,
        api_key: Some(common::KEY.to_owned()),
        ..BackendSettings::new("east")
    }])
}

fn trusting(simulator: &Simulator) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(simulator.ca_path()).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn ask(simulator: &Simulator, host: &'static str) -> Answer {
    let config = Arc::new(trusting(simulator));
    let client = ClientConnection::new(config, ServerName::try_from(host).unwrap()).unwrap();
    let socket = TcpStream::connect(simulator.backend("east").addr()).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    let request = request("POST", CHAT, &[("api-key", common::KEY)], b"{}");
    match stream.write_all(&request) {
        Ok(()) => common::received(&mut stream),
        Err(_) => Answer {
            end: End::Broken,
            ..Answer::default()
        },
    }
}

#[test]
fn the_server_name_is_recorded() {
    let simulator = simulator();
    assert_eq!(ask(&simulator, "east.openai.azure.com").status, 200);
    let record = simulator.backend("east").requests().remove(0);
    assert!(record.tls);
    assert_eq!(record.sni.as_deref(), Some("east.openai.azure.com"));
    assert!(simulator
        .ca_pem()
        .starts_with("-----BEGIN CERTIFICATE-----"));
}

#[test]
fn a_certificate_can_be_for_another_host() {
    let simulator = simulator();
    simulator
        .backend("east")
        .set_certificate_for("other.host")
        .unwrap();
    assert_eq!(ask(&simulator, "east.openai.azure.com").end, End::Broken);
    assert_eq!(ask(&simulator, "other.host").status, 200);
    assert_eq!(simulator.backend("east").count(), 1);
}

#[test]
fn a_handshake_can_fail_and_recover() {
    let simulator = simulator();
    let east = simulator.backend("east");
    east.set_tls_failure(true).unwrap();
    assert_eq!(ask(&simulator, "east.openai.azure.com").end, End::Broken);
    east.set_tls_failure(false).unwrap();
    assert_eq!(ask(&simulator, "east.openai.azure.com").status, 200);
    assert_eq!(east.connections(), 2);
}

#[test]
fn a_plain_backend_has_no_certificate() {
    let simulator = started(vec![BackendSettings::new("east")]);
    let refused = simulator.backend("east").set_tls_failure(true);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "backend east: it has no TLS"
    );
}

/// A chat completion over HTTP/2: its body as far as it arrived, and whether it is complete.
async fn chat(sender: &mut http2::SendRequest<Full<Bytes>>) -> (u16, Vec<u8>, bool) {
    let request = Request::post(format!("http://east.openai.azure.com{CHAT}"))
        .header("api-key", common::KEY)
        .body(Full::from(STREAM))
        .unwrap();
    let Ok(response) = sender.send_request(request).await else {
        return (0, Vec::new(), false);
    };
    let (head, mut body) = response.into_parts();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => all.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(_) => return (head.status.as_u16(), all, false),
        }
    }
    (head.status.as_u16(), all, true)
}

/// A body whose pieces come through a channel.
fn body_in_pieces() -> (mpsc::Sender<Bytes>, UnsyncBoxBody<Bytes, Infallible>) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    (sender, BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

async fn connected<B>(simulator: &Simulator, east: &BackendHandle) -> http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let mut config = trusting(simulator);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(east.addr()).await.unwrap();
    let name = ServerName::try_from("east.openai.azure.com").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_streams_are_broken_one_by_one_or_all_together() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let mut sender = connected(&simulator, east).await;
    let breaking = |how: Break| {
        let stream = Stream {
            break_after: Some(3),
            how,
            ..Stream::default()
        };
        Behaviour::stream(stream).times(1)
    };
    east.set(breaking(Break::Close));
    let (mut one, mut two) = (sender.clone(), sender.clone());
    let (first, second) = tokio::join!(chat(&mut one), chat(&mut two));
    // Either stream may be the first.
    let (broken, whole) = if first.2 {
        (second, first)
    } else {
        (first, second)
    };
    assert_eq!((broken.0, broken.2), (200, false));
    assert!(whole.2 && whole.1.ends_with(b"data: [DONE]\n\n"));
    east.set(breaking(Break::Reset));
    assert!(!chat(&mut sender).await.2);
    assert!(!chat(&mut sender).await.2, "the connection is gone");
    let record = east.requests().remove(0);
    assert_eq!(
        (record.http_version.as_str(), record.authority.as_str()),
        ("HTTP/2.0", "east.openai.azure.com")
    );
    assert_eq!(east.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answers_work_over_http2() {
    let simulator = simulator();
    let east = simulator.backend("east");
    for (behaviour, key, open_after) in [
        (Behaviour::unread(401), common::KEY, false),
        (Behaviour::unread_kept(401), common::KEY, true),
        (Behaviour::normal(), "wrong", true),
    ] {
        east.set(behaviour);
        let mut sender = connected(&simulator, east).await;
        let (body, request_body) = body_in_pieces();
        let request = Request::post(format!("http://east.openai.azure.com{CHAT}"))
            .header("api-key", key)
            .body(request_body)
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 401);
        let (_, mut answer) = response.into_parts();
        while let Some(Ok(_)) = answer.frame().await {}
        // A reset stream accepts no more bytes.
        let patience = tokio::time::Instant::now() + Duration::from_millis(300);
        let mut is_open = true;
        while is_open && tokio::time::Instant::now() < patience {
            is_open = body.send(Bytes::from_static(b"x")).await.is_ok();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(is_open, open_after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_a_stream_is_noticed() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let mut sender = connected(&simulator, east).await;
    east.set(Behaviour::hang());
    let answer = tokio::spawn(async move { chat(&mut sender).await });
    common::eventually("the answer is in progress", || east.open_streams() == 1);
    answer.abort();
    common::eventually("the stream is given up", || east.open_streams() == 0);
    assert_eq!(east.count(), 1);
}
