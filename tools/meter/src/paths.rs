//! The common paths of a request, with both retry engines, on the mock host.

use std::time::Duration;

use mock_host::{Headers, Host, Routed, Router, Setup, Stream, Vm};
use serde_json::json;

use crate::cost::Cost;

/// Who carries out the attempts after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Filter,
    Router,
}

const NAMES: [&str; 3] = ["east", "west", "north"];

/// Parts of an answer that streams.
const CHUNKS: usize = 50;
const CHUNK: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" well\"}}]}\n\n";

/// An event of a response's stream, whose item gets a tag.
const EVENT: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\
    \"item_id\":\"msg_68a6102a4968819c8177b05584dd627b0679e572a900e618\",\"output_index\":0,\"content_index\":0,\"delta\":\" well\"}\n\n";

const CHAT: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

/// Azure's first two events of a chat.
const BEFORE_CONTENT: [&str; 2] = [
    "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0,\
     \"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"self_harm\":{\"filtered\":false,\
     \"severity\":\"safe\"},\"sexual\":{\"filtered\":false,\"severity\":\"safe\"},\"violence\":{\"filtered\":false,\
     \"severity\":\"safe\"}}}]}\n\n",
    "data: {\"choices\":[{\"content_filter_results\":{},\"delta\":{\"content\":\"\",\"refusal\":null,\"role\":\"assistant\"},\
     \"finish_reason\":null,\"index\":0,\"logprobs\":null}],\"created\":1760000000,\"id\":\"chatcmpl-1\",\
     \"model\":\"gpt-4o-2024-11-20\",\"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_1\"}\n\n",
];

/// With the tokens that it took.
const LAST: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":50,\"total_tokens\":59}}\n\ndata: [DONE]\n\n";

/// A whole answer, with the tokens that it took as Azure reports them.
const ANSWER: &str = concat!(
    r#"{"choices":[],"usage":{"completion_tokens":4,"completion_tokens_details":{"accepted_prediction_tokens":0,"#,
    r#""audio_tokens":0,"reasoning_tokens":0,"rejected_prediction_tokens":0},"prompt_tokens":9,"#,
    r#""prompt_tokens_details":{"audio_tokens":0,"cached_tokens":0},"total_tokens":13}}"#,
);

const BODY: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"All is well."}]}"#;

/// As Envoy reads from a connection.
const FRAME: usize = 16 << 10;
const LARGE: usize = 1 << 20;

type Act = fn(&Gateway);

/// What is done once before it is counted, and what is counted.
const PATHS: [(&str, Act, Act); 8] = [
    ("served at once", warm_up, serve),
    ("an answer of 50 chunks", warm_up, stream),
    ("a body of 96 KiB", warm_up, serve_sizeable),
    ("a body of 1 MiB", warm_up, serve_large),
    ("throttled, then served", warm_up, retry),
    ("one backend is cooling down", cool_down, serve),
    ("a response of 50 events with tags", warm_up, respond),
    ("a stream of 50 events", warm_up, event_stream),
];

/// What each path costs, by its name. Always in the same order, and to be asked once by a process: the numbers of contexts count
/// on, and where a map keeps one depends on them.
pub fn all() -> Vec<(String, Cost)> {
    let engines = [
        (Engine::Filter, "filter engine"),
        (Engine::Router, "router engine"),
    ];
    let paths = engines
        .into_iter()
        .flat_map(|engine| PATHS.map(|path| (engine, path)));
    paths
        .map(|((engine, engine_name), (name, prepare, act))| {
            let gateway = Gateway::ready(engine);
            prepare(&gateway);
            let cost = Cost::of(&gateway.host, || act(&gateway));
            (format!("{engine_name}: {name}"), cost)
        })
        .collect()
}

/// Every backend's first answer is written down, the first held body is watched, and the worker becomes sure that the turns are its
/// own.
fn warm_up(gateway: &Gateway) {
    for _ in 0..3 * NAMES.len() {
        serve(gateway);
    }
}

fn serve(gateway: &Gateway) {
    let request = gateway.send(&[BODY.as_bytes()]);
    request.answer(gateway, 200, &[ANSWER]);
}

fn stream(gateway: &Gateway) {
    let request = gateway.send(&[BODY.as_bytes()]);
    let mut frames = [CHUNK; CHUNKS];
    if let Some(last) = frames.last_mut() {
        *last = LAST;
    }
    request.answer(gateway, 200, &frames);
}

fn respond(gateway: &Gateway) {
    let body = br#"{"model":"gpt-4o","input":"All is well.","stream":true}"#;
    let request = gateway.send_to("/openai/v1/responses", &[body]);
    request.answer(gateway, 200, &[EVENT; CHUNKS]);
}

/// It is held for its first content, which is its third event.
fn event_stream(gateway: &Gateway) {
    let request = gateway.send(&[BODY.as_bytes()]);
    let mut events = [CHUNK; CHUNKS];
    events[..2].copy_from_slice(&BEFORE_CONTENT);
    request.answer_with(gateway, 200, "text/event-stream", &events);
}

fn serve_sizeable(gateway: &Gateway) {
    serve_frames::<6>(gateway);
}

fn serve_large(gateway: &Gateway) {
    serve_frames::<{ LARGE / FRAME }>(gateway);
}

fn serve_frames<const COUNT: usize>(gateway: &Gateway) {
    let frame = [b'x'; FRAME];
    let request = gateway.send(&[&frame[..]; COUNT]);
    request.answer(gateway, 200, &[ANSWER]);
}

fn retry(gateway: &Gateway) {
    let request = gateway.send(&[BODY.as_bytes()]);
    request.answer(gateway, 429, &[r#"{"error":{"code":"429"}}"#]);
    request.answer(gateway, 200, &[ANSWER]);
}

fn cool_down(gateway: &Gateway) {
    warm_up(gateway);
    retry(gateway);
    warm_up(gateway);
    // The turn that is counted is the absent backend's, which is another's.
    serve(gateway);
    serve(gateway);
}

/// One worker of a gateway that has a token.
struct Gateway {
    host: Host,
    vm: Vm,
    router: Option<Router>,
    /// Lives as long as the router.
    _upstream: Option<Vm>,
}

impl Gateway {
    fn ready(engine: Engine) -> Self {
        let backends = NAMES.map(|name| {
            json!({
                "name": name, "cluster": format!("aoai_{name}"),
                "host": format!("contoso-{name}.openai.azure.com"),
            })
        });
        let mut plugin = json!({
            "backends": backends, "identity": {"cluster": "imds"},
            // As it is rendered.
            "left_to_envoy": ["timeout", "host"],
        });
        if engine == Engine::Router {
            plugin["retry"] = json!({"engine": "router"});
        }
        let host = Host::new();
        let vm = host.start(Setup::new(plugin.to_string()));
        let vm = vm.expect("the module takes its configuration");
        let (mut upstream, mut router) = (None, None);
        if engine == Engine::Router {
            let plugin = vm.plugin(Setup::new(r#"{"role": "upstream"}"#));
            let plugin = plugin.expect("the module takes its role");
            let clusters = NAMES.map(|name| format!("aoai_{name}"));
            router = Some(Router::new(
                &vm,
                &plugin,
                &clusters.each_ref().map(String::as_str),
            ));
            upstream = Some(plugin);
        }
        host.advance(Duration::from_millis(1));
        let token = json!({
            "access_token": "eyJ0eXAiOiJKV1Qi".repeat(100), "expires_in": "86399", "expires_on": "4102444800",
            "token_type": "Bearer",
        });
        vm.answer(&vm.call(), 200, [], token.to_string());
        Self {
            host,
            vm,
            router,
            _upstream: upstream,
        }
    }

    /// A client's chat with a body in these frames.
    fn send(&self, frames: &[&[u8]]) -> Request {
        self.send_to(CHAT, frames)
    }

    /// A client's request for this path with a body in these frames.
    fn send_to(&self, path: &str, frames: &[&[u8]]) -> Request {
        let length = frames.iter().map(|frame| frame.len()).sum();
        let headers = headers(path, length);
        let request = match &self.router {
            None => Request::Filter(self.vm.request(headers, false)),
            Some(router) => Request::Router(router.request(headers, false)),
        };
        for (index, frame) in frames.iter().enumerate() {
            let end = index + 1 == frames.len();
            match &request {
                Request::Filter(stream) => {
                    stream.body(frame, end);
                }
                Request::Router(routed) => routed.body(frame, end),
            }
        }
        request
    }
}

/// A request on its way.
enum Request {
    Filter(Stream),
    Router(Routed),
}

impl Request {
    /// The backend of the current attempt answers with a body in these frames.
    fn answer(&self, gateway: &Gateway, status: u16, frames: &[&str]) {
        self.answer_with(gateway, status, "application/json", frames);
    }

    fn answer_with(&self, gateway: &Gateway, status: u16, media: &str, frames: &[&str]) {
        let mut headers = Headers::from([
            ("content-type", media),
            ("apim-request-id", "5f1c1a52-0f65-4a3e-9d0c-6a3f7f0a9d11"),
            ("x-ms-region", "East US"),
            ("x-ratelimit-remaining-requests", "900"),
            ("x-ratelimit-remaining-tokens", "90000"),
        ]);
        if status == 429 {
            headers.add("retry-after", "60");
        }
        let parts = frames.iter().enumerate();
        let parts = parts.map(|(index, frame)| (frame, index + 1 == frames.len()));
        // With the filter engine a further attempt is a call.
        if let Some(call) = gateway.vm.calls().first() {
            gateway.vm.answer(call, status, headers, frames.concat());
            return;
        }
        match self {
            Self::Filter(stream) => {
                stream.respond(status, headers, false);
                for (frame, end) in parts {
                    stream.response_body(frame, end);
                }
            }
            Self::Router(routed) => {
                let attempt = routed.attempt();
                attempt.respond(status, headers, false);
                for (frame, end) in parts {
                    attempt.response_body(frame, end);
                }
            }
        }
    }
}

/// A request's headers as the openai SDK for Python sends them and Envoy adds to them.
fn headers(path: &str, length: usize) -> Headers {
    let mut headers = Headers::from([
        (":authority", "gateway.internal"),
        (":path", path),
        (":method", "POST"),
        (":scheme", "http"),
        ("accept-encoding", "gzip, deflate"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("user-agent", "AzureOpenAI/Python 2.54.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "2.54.0"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.13.5"),
        ("x-stainless-async", "false"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
        ("api-key", "CLIENT-KEY"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "6f3d0a41-3f1c-4f0e-8f55-1f2f4f2b7c10"),
    ]);
    headers.add("content-length", length.to_string());
    headers
}
