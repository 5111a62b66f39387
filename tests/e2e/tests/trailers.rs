//! Requests over HTTP/2 with trailers after a body of announced length.

use bytes::Bytes;
use e2e::{cases, chat_request, simulate, Chat, Gateway};
use http::{HeaderMap, HeaderValue, Request};
use simulator::Behaviour;

use crate::http2;

cases! {
    fn a_body_that_is_ended_by_trailers_is_sent_again_whole(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error().times(1));
        }
        let chat = chat_request().padded(100_000);
        assert_eq!(send(&gateway, &chat), 500, "both failed");
        assert_eq!(send(&gateway, &chat), 200);
        let backends = azure.backends().iter();
        let bodies: Vec<_> = backends.flat_map(|backend| backend.requests()).map(|request| request.body).collect();
        assert_eq!(bodies.len(), 3);
        assert!(bodies.iter().all(|body| *body == chat.bytes()), "not byte for byte");
    }
}

/// Sends a chat in pieces, with trailers after them. Returns the answer's status.
fn send(gateway: &Gateway, chat: &Chat) -> u16 {
    let body = chat.bytes();
    let request = Request::post(gateway.url(&chat.path))
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(())
        .unwrap();
    http2::send(gateway, request, |upload| {
        for piece in body.chunks(10_000) {
            upload
                .send_data(Bytes::copy_from_slice(piece), false)
                .unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("1234"));
        trailers.insert("api-key", HeaderValue::from_static("CLIENT-KEY"));
        upload.send_trailers(trailers).unwrap();
    })
}
