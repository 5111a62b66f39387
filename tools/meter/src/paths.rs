//! The common paths of a request, with both retry engines, on the mock host.

use std::cell::RefCell;
use std::time::Duration;

use mock_host::{Headers, Host, Routed, Router, Setup, Stream, Vm};
use serde_json::{json, Value};

use crate::cost::Cost;
use crate::module;

/// The retry engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Filter,
    Router,
}

/// The default number of backends.
const USUAL: usize = 3;

/// The most backends that a configuration may have.
const MANY: usize = 100;

/// The number of requests that wait at a time.
const WAITERS: usize = 200;

/// The parts of a streamed answer.
const CHUNKS: usize = 50;

/// An event of a chat with content, as Azure sends it.
const CHUNK: &str = "data: {\"choices\":[{\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\
    \"self_harm\":{\"filtered\":false,\"severity\":\"safe\"},\"sexual\":{\"filtered\":false,\"severity\":\"safe\"},\
    \"violence\":{\"filtered\":false,\"severity\":\"safe\"}},\"delta\":{\"content\":\" well\"},\"finish_reason\":null,\"index\":0,\
    \"logprobs\":null}],\"created\":1760000000,\"id\":\"chatcmpl-1\",\"model\":\"gpt-4o-2024-11-20\",\
    \"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_1\"}\n\n";

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

/// The last event, with the tokens.
const LAST: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":50,\"total_tokens\":59}}\n\ndata: [DONE]\n\n";

/// A whole answer, with the tokens as Azure reports them.
const ANSWER: &str = concat!(
    r#"{"choices":[],"usage":{"completion_tokens":4,"completion_tokens_details":{"accepted_prediction_tokens":0,"#,
    r#""audio_tokens":0,"reasoning_tokens":0,"rejected_prediction_tokens":0},"prompt_tokens":9,"#,
    r#""prompt_tokens_details":{"audio_tokens":0,"cached_tokens":0},"total_tokens":13}}"#,
);

const BODY: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"All is well."}]}"#;

/// A stream whose tokens the client does not request.
const STREAM_BODY: &str =
    r#"{"model":"gpt-4o","messages":[{"role":"user","content":"All is well."}],"stream":true}"#;

const RESPONSES: &str = "/openai/v1/responses";
const RESPONSE_BODY: &[u8] = br#"{"model":"gpt-4o","input":"All is well.","stream":true}"#;

/// The size in which Envoy reads from a connection.
const FRAME: usize = 16 << 10;
const LARGE: usize = 1 << 20;

type Act = fn(&Gateway);

/// A path of a request: the gateway, the preparation before counting, and the counted action.
struct Path {
    name: &'static str,
    setting: fn() -> Setting,
    prepare: Act,
    act: Act,
}

impl Path {
    const fn usual(name: &'static str, prepare: Act, act: Act) -> Self {
        Self {
            name,
            setting: Setting::default,
            prepare,
            act,
        }
    }

    const fn of_many(name: &'static str, prepare: Act, act: Act) -> Self {
        Self {
            setting: Setting::many,
            ..Self::usual(name, prepare, act)
        }
    }
}

/// The paths of most requests. The branch hints come from them.
const TYPICAL: [Path; 13] = [
    Path::usual("served at once", warm_up, serve),
    Path::usual("an answer of 50 chunks", warm_up, stream),
    Path::usual("a body of 96 KiB", warm_up, serve_sizeable),
    Path::usual("a body of 1 MiB", warm_up, serve_large),
    Path::usual("throttled, then served", warm_up, retry),
    Path::usual("one backend is cooling down", cool_down, serve),
    Path::usual("a response of 50 events with tags", warm_up, respond),
    Path::usual("a stream of 50 events", warm_up, event_stream),
    Path::usual("an event of a stream", open_stream, next_event),
    Path::usual("the end of a stream", open_stream, last_events),
    Path::usual(
        "an event of a response with tags",
        open_response,
        next_event_with_tag,
    ),
    Path {
        setting: Setting::with_limits,
        ..Path::usual("served at once, with limits of clients", warm_up, serve)
    },
    Path {
        setting: Setting::with_limits,
        ..Path::usual(
            "a stream of 50 events, with limits of clients",
            warm_up,
            stream_with_requested_tokens,
        )
    },
];

const RARE: [Path; 5] = [
    Path::of_many("100 backends", warm_up, serve),
    Path::of_many("100 backends, half of them cooling down", cool_half, serve),
    Path::of_many(
        "100 backends, another worker has changed one",
        warm_up_and_learn,
        serve,
    ),
    Path {
        setting: Setting::with_two_identities,
        ..Path::usual(
            "100 backends, half of them with another identity",
            warm_up,
            serve,
        )
    },
    Path {
        setting: Setting::without_token,
        ..Path::usual(
            "a tick while 200 requests wait for a token",
            wait_for_token,
            tick,
        )
    },
];

/// The settings of a gateway.
struct Setting {
    backends: usize,
    /// Further fields of the plugin's configuration.
    plugin: Value,
    /// Whether every second backend has another identity.
    has_two_identities: bool,
    has_token: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            backends: USUAL,
            plugin: json!({}),
            has_two_identities: false,
            has_token: true,
        }
    }
}

impl Setting {
    fn many() -> Self {
        Self {
            backends: MANY,
            ..Self::default()
        }
    }

    fn with_two_identities() -> Self {
        Self {
            has_two_identities: true,
            ..Self::many()
        }
    }

    fn with_limits() -> Self {
        let limits = json!({"default": {
            "tokens_per_minute": 1_000_000, "tokens_per_day": 100_000_000, "requests_per_minute": 10_000,
        }});
        Self {
            plugin: json!({"headers": {"client": "x-client"}, "limits": limits}),
            ..Self::default()
        }
    }

    fn without_token() -> Self {
        Self {
            has_token: false,
            ..Self::default()
        }
    }
}

/// The cost of each path, by name. The order never changes, and a process must call this once: contexts have increasing
/// numbers, which decide the places in hash maps.
pub fn all() -> Vec<(String, Cost)> {
    let mut costs = Vec::new();
    walk(&[&TYPICAL, &RARE], |name, host, act| {
        costs.push((name, Cost::of(host, act)));
    });
    costs
}

/// Prepares each typical path, and gives its action to `run`.
pub(crate) fn typical(mut run: impl FnMut(&dyn Fn())) {
    walk(&[&TYPICAL], |_, _, act| run(act));
}

/// Prepares each of the `paths` with both engines, and gives its name, its host and its action to `run`.
fn walk(paths: &[&[Path]], mut run: impl FnMut(String, &Host, &dyn Fn())) {
    let engines = [
        (Engine::Filter, "filter engine"),
        (Engine::Router, "router engine"),
    ];
    for (engine, engine_name) in engines {
        for path in paths.iter().copied().flatten() {
            let gateway = Gateway::ready(engine, (path.setting)());
            (path.prepare)(&gateway);
            let name = format!("{engine_name}: {}", path.name);
            run(name, &gateway.host, &|| (path.act)(&gateway));
        }
    }
}

/// The number of open streams for the measurement of memory. A module's memory grows in steps of 64 KiB.
const OPEN: usize = 300;

/// The module's memory for each open stream in bytes, by engine. Also the growth when as many streams are opened after
/// these have ended: zero if all memory was returned. Each measurement uses a new module.
pub fn memory() -> Vec<(String, u64)> {
    let measured = [Engine::Filter, Engine::Router].map(|engine| {
        let measure = move || {
            let gateway = Gateway::ready(engine, Setting::default());
            warm_up(&gateway);
            let open_all = || {
                let before = module::memory();
                for _ in 0..OPEN {
                    begin_stream(&gateway);
                }
                // The older frames have been dropped.
                for _ in 0..4 {
                    gateway.send_frame(CHUNK, false);
                }
                let grown = module::memory() - before;
                gateway.under_way.borrow_mut().clear();
                grown / OPEN as u64
            };
            [open_all(), open_all()]
        };
        let measuring = std::thread::spawn(measure);
        measuring.join().expect("the module works")
    });
    let names = ["filter engine", "router engine"].map(|engine| {
        ["an open stream", "an open stream after as many have ended"]
            .map(|name| format!("{engine}: {name}"))
    });
    names
        .into_iter()
        .flatten()
        .zip(measured.into_iter().flatten())
        .collect()
}

/// Prepares a worker: every backend's first success is written down, the first held body is observed, and the worker
/// becomes sure that no other worker draws turns.
fn warm_up(gateway: &Gateway) {
    for _ in 0..gateway.backends + 6 {
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
    let request = gateway.send_to(RESPONSES, &[RESPONSE_BODY]);
    request.answer(gateway, 200, &[EVENT; CHUNKS]);
}

fn open(gateway: &Gateway, path: &str, body: &[u8], events: &[&str]) {
    let request = gateway.send_to(path, &[body]);
    request.begin(200, "text/event-stream");
    for event in events {
        request.frame(event, false);
    }
    gateway.under_way.borrow_mut().push(request);
}

fn open_stream(gateway: &Gateway) {
    warm_up(gateway);
    begin_stream(gateway);
}

/// Begins a stream up to its content.
fn begin_stream(gateway: &Gateway) {
    let events = [BEFORE_CONTENT[0], BEFORE_CONTENT[1], CHUNK, CHUNK];
    open(gateway, CHAT, BODY.as_bytes(), &events);
}

fn open_response(gateway: &Gateway) {
    warm_up(gateway);
    open(gateway, RESPONSES, RESPONSE_BODY, &[EVENT, EVENT]);
}

fn next_event(gateway: &Gateway) {
    gateway.send_frame(CHUNK, false);
}

fn next_event_with_tag(gateway: &Gateway) {
    gateway.send_frame(EVENT, false);
}

/// The event with the tokens, and the end of the body, as they arrive over HTTP/1.1.
fn last_events(gateway: &Gateway) {
    gateway.send_frame(LAST, false);
    gateway.send_frame("", true);
    gateway.under_way.borrow_mut().clear();
}

/// A stream that is held until its first content, which is its third event.
fn event_stream(gateway: &Gateway) {
    let request = gateway.send(&[BODY.as_bytes()]);
    let mut events = [CHUNK; CHUNKS];
    events[..2].copy_from_slice(&BEFORE_CONTENT);
    request.answer_with(gateway, 200, "text/event-stream", &events);
}

/// The filter requests the tokens, and removes them from the stream.
fn stream_with_requested_tokens(gateway: &Gateway) {
    let request = gateway.send(&[STREAM_BODY.as_bytes()]);
    let [first, second, content] = [BEFORE_CONTENT[0], BEFORE_CONTENT[1], CHUNK]
        .map(|event| event.replace("}\n\n", ",\"usage\":null}\n\n"));
    let mut events = [&*content; CHUNKS];
    (events[0], events[1], events[CHUNKS - 1]) = (&first, &second, LAST);
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
    // The counted turn is the absent backend's, so another backend serves it.
    serve(gateway);
    serve(gateway);
}

/// Each request is throttled by one more backend, and then served.
fn cool_half(gateway: &Gateway) {
    warm_up(gateway);
    for _ in 0..gateway.backends / 2 {
        retry(gateway);
    }
    // The turn that is counted is that of a backend in cooldown, so all others are looked at.
    for _ in 0..gateway.backends / 2 + 10 {
        serve(gateway);
    }
}

/// Another worker has changed one backend's health since this worker read it.
fn warm_up_and_learn(gateway: &Gateway) {
    warm_up(gateway);
    retry(gateway);
    gateway.change_again();
}

fn wait_for_token(gateway: &Gateway) {
    for _ in 0..WAITERS {
        let request = gateway.send(&[BODY.as_bytes()]);
        gateway.under_way.borrow_mut().push(request);
    }
    tick(gateway);
}

fn tick(gateway: &Gateway) {
    gateway.vm.tick();
}

/// One worker of a gateway.
struct Gateway {
    host: Host,
    /// Requests in progress. They end before the worker does.
    under_way: RefCell<Vec<Request>>,
    backends: usize,
    /// Whether requests have their clients' names.
    names_clients: bool,
    vm: Vm,
    router: Option<Router>,
    /// Lives as long as the router.
    _upstream: Option<Vm>,
}

impl Gateway {
    fn ready(engine: Engine, setting: Setting) -> Self {
        let names = || (0..setting.backends).map(|index| format!("region{index:03}"));
        let backends = names().enumerate().map(|(index, name)| {
            let mut backend = json!({
                "name": name, "cluster": format!("aoai_{name}"),
                "host": format!("contoso-{name}.openai.azure.com"),
            });
            if setting.has_two_identities && index % 2 == 1 {
                backend["identity"] = json!("second");
            }
            backend
        });
        let backends: Vec<_> = backends.collect();
        let mut plugin = json!({
            "backends": backends, "identity": {"cluster": "imds"},
            // As in rendered configurations.
            "left_to_envoy": ["timeout", "host"],
        });
        if engine == Engine::Router {
            plugin["retry"] = json!({"engine": "router"});
        }
        if setting.has_two_identities {
            plugin["identities"] = json!({"second": {"cluster": "imds", "client_id": "2"}});
        }
        let names_clients = setting.plugin.get("headers").is_some();
        if let (Some(plugin), Value::Object(more)) = (plugin.as_object_mut(), setting.plugin) {
            plugin.extend(more);
        }
        let host = Host::new();
        let vm = host.start(Setup::new(plugin.to_string()));
        let vm = vm.expect("the module takes its configuration");
        let (mut upstream, mut router) = (None, None);
        if engine == Engine::Router {
            let plugin = vm.plugin(Setup::new(r#"{"role": "upstream"}"#));
            let plugin = plugin.expect("the module takes its role");
            let clusters: Vec<_> = names().map(|name| format!("aoai_{name}")).collect();
            let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
            router = Some(Router::new(&vm, &plugin, &clusters));
            upstream = Some(plugin);
        }
        host.advance(Duration::from_millis(1));
        let token = json!({
            "access_token": "eyJ0eXAiOiJKV1Qi".repeat(100), "expires_in": "86399", "expires_on": "4102444800",
            "token_type": "Bearer",
        });
        if setting.has_token {
            for call in vm.calls() {
                vm.answer(&call, 200, [], token.to_string());
            }
        }
        Self {
            host,
            under_way: RefCell::default(),
            backends: setting.backends,
            names_clients,
            vm,
            router,
            _upstream: upstream,
        }
    }

    /// The next frame of the answer in progress.
    fn send_frame(&self, frame: &str, end: bool) {
        for request in &*self.under_way.borrow() {
            request.frame(frame, end);
        }
    }

    /// Acts as another worker that changes the backend's health again: increments the edition.
    fn change_again(&self) {
        /// The place of the edition in the record of turns, after the version and the next turn.
        const EDITION: std::ops::Range<usize> = 9..13;
        let keys = self.host.shared_keys().into_iter();
        let mut keys = keys.filter(|key| key.starts_with("aoai.turn."));
        let key = keys.next().expect("requests draw turns");
        let mut turns = self.host.shared(&key).expect("the key is there");
        let edition = u32::from_le_bytes(turns[EDITION].try_into().expect("four bytes"));
        turns[EDITION].copy_from_slice(&(edition + 1).to_le_bytes());
        // The backends of the last editions follow, each at the place of its edition.
        let changed = turns.get_mut(EDITION.end..).expect("there are backends");
        let (last, next) = (
            edition as usize % changed.len(),
            (edition as usize + 1) % changed.len(),
        );
        changed[next] = changed[last];
        self.host.set_shared(&key, &turns);
    }

    /// A client's chat with a body in these frames.
    fn send(&self, frames: &[&[u8]]) -> Request {
        self.send_to(CHAT, frames)
    }

    /// A client's request to this path with a body in these frames.
    fn send_to(&self, path: &str, frames: &[&[u8]]) -> Request {
        let length = frames.iter().map(|frame| frame.len()).sum();
        let mut headers = headers(path, length);
        if self.names_clients {
            headers.add("x-client", "team-a");
        }
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

/// A request in progress.
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
        // With the filter engine a further attempt is a call.
        if let Some(call) = gateway.vm.calls().first() {
            let headers = answer_headers(status, media);
            gateway.vm.answer(call, status, headers, frames.concat());
            return;
        }
        self.begin(status, media);
        for (index, frame) in frames.iter().enumerate() {
            self.frame(frame, index + 1 == frames.len());
        }
    }

    fn begin(&self, status: u16, media: &str) {
        let headers = answer_headers(status, media);
        match self {
            Self::Filter(stream) => drop(stream.respond(status, headers, false)),
            Self::Router(routed) => drop(routed.attempt().respond(status, headers, false)),
        }
    }

    fn frame(&self, frame: &str, end: bool) {
        match self {
            Self::Filter(stream) => drop(stream.response_body(frame, end)),
            Self::Router(routed) => drop(routed.attempt().response_body(frame, end)),
        }
    }
}

fn answer_headers(status: u16, media: &str) -> Headers {
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
    headers
}

/// The headers of a request from the openai SDK for Python, with Envoy's additions.
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
