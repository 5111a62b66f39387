//! An `ext_proc` service that adds round robin and the token, in its own process. Envoy sends it request headers only, the cheapest
//! mode of `ext_proc`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    processing_request, processing_response, CommonResponse, HeaderMutation, HeadersResponse,
    ProcessingRequest, ProcessingResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::backend;
use crate::config::{cluster, host, CLUSTER_HEADER};

/// Prints the service's address on standard output, and serves until the process is killed.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        tonic::transport::Server::builder()
            .add_service(ExternalProcessorServer::new(Processor::default()))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .context("the ext_proc service ended")
    })
}

#[derive(Default)]
struct Processor {
    turn: std::sync::Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let turn = std::sync::Arc::clone(&self.turn);
        let authorization = format!("Bearer {}", backend::token());
        let answers = request.into_inner().map(move |message| {
            let part = message?.request;
            if !matches!(part, Some(processing_request::Request::RequestHeaders(_))) {
                return Err(Status::invalid_argument(
                    "this service accepts request headers only",
                ));
            }
            let index = turn.fetch_add(1, Relaxed) % backend::BACKENDS;
            Ok(edit(index, &authorization))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn edit(index: usize, authorization: &str) -> ProcessingResponse {
    let set = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        append_action: 2, // OVERWRITE_IF_EXISTS_OR_ADD
        ..HeaderValueOption::default()
    };
    let common = CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![
                set(CLUSTER_HEADER, &cluster(index)),
                set(":authority", &host(index)),
                set("authorization", authorization),
            ],
            remove_headers: vec!["api-key".to_owned()],
        }),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    ProcessingResponse {
        response: Some(processing_response::Response::RequestHeaders(
            HeadersResponse {
                response: Some(common),
            },
        )),
        ..ProcessingResponse::default()
    }
}
