//! A worker: the module's root context, its timer, its calls out, and the callbacks into the module.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::panic;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use crate::abi::{exports, status};
use crate::headers::Headers;
use crate::host::{Host, Log, LogLevel, Process};
use crate::router::RoutedState;
use crate::stream::{Direction, LocalReply, Stream, StreamState};

/// Context ids and call numbers: unique over all workers of all processes.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// The process's environment, the SDK's logger and its panic hook, which all threads share.
static GLOBAL_STATE: Mutex<()> = Mutex::new(());

thread_local! {
    /// The worker whose callback is running.
    static RUNNING: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
    /// All workers of this thread, in the order of their start.
    static WORKERS: RefCell<Vec<Weak<Worker>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn next_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// The setup of a worker.
#[derive(Clone, Debug)]
pub struct Setup {
    json: Vec<u8>,
    environment: Vec<(String, String)>,
    properties: Vec<(Vec<u8>, Vec<u8>)>,
    allow_on_headers_stop_iteration: bool,
    loses_frames: bool,
}

impl Setup {
    /// A worker with the plugin configuration `json`.
    pub fn new(json: impl AsRef<[u8]>) -> Self {
        Self {
            json: json.as_ref().to_vec(),
            environment: Vec::new(),
            properties: Vec::new(),
            allow_on_headers_stop_iteration: true,
            loses_frames: true,
        }
    }

    /// Adds an environment variable, as `vm_config.environment_variables` does. It exists while the module starts.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a property of the process, such as `xds\0node\0id`, which the module may read in any context. Zero bytes
    /// separate the parts of `path`. Envoy passes numbers as eight bytes, least significant first.
    #[must_use]
    pub fn property(mut self, path: &str, value: impl AsRef<[u8]>) -> Self {
        self.properties.push((path.into(), value.as_ref().into()));
        self
    }

    /// The plugin's setting of this name; `true` by default. With `false`, Envoy's default, a paused headers callback
    /// stops bodies too: the module does not see them until it resumes.
    #[must_use]
    pub fn allow_on_headers_stop_iteration(self, allowed: bool) -> Self {
        Self {
            allow_on_headers_stop_iteration: allowed,
            ..self
        }
    }

    /// Whether the first body frame after an asynchronous resume is lost; `true` by default.
    ///
    /// If the last body callback returned `Pause`, and `proxy_continue_stream` then resumes the stream, Envoy puts the
    /// next frame into its buffer and shows it to the module. When the module returns `Continue`, Envoy passes an empty
    /// frame on (<https://github.com/envoyproxy/envoy/pull/46842> fixes it).
    #[must_use]
    pub fn loses_frames(self, loses_frames: bool) -> Self {
        Self {
            loses_frames,
            ..self
        }
    }
}

/// The module refused its configuration.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The log lines about it.
    pub logs: Vec<Log>,
}

/// A call of the module without an answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// The cluster.
    pub cluster: String,
    /// The headers, as the module gave them.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Headers,
    /// The time limit.
    pub timeout: Duration,
    /// The effective context when it was made. The call still belongs to the root context.
    pub context: u32,
}

impl Call {
    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// The answer to a call, readable while its callback runs.
pub(crate) struct CallAnswer {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// An effect of a host call, which follows when the callback has returned.
pub(crate) enum Effect {
    Resume(u32, Direction),
    Reply(u32, LocalReply),
    Close(u32),
}

/// A VM: the contexts of all plugins in it.
#[derive(Default)]
pub(crate) struct Instance {
    pub(crate) streams: RefCell<BTreeMap<u32, Rc<StreamState>>>,
    roots: RefCell<BTreeMap<u32, Weak<Worker>>>,
    pub(crate) routed: RefCell<Vec<Weak<RoutedState>>>,
}

impl Instance {
    /// Lets the routers of this VM's requests take all steps that have become possible.
    pub(crate) fn route(&self) {
        let routed = {
            let mut routed = self.routed.borrow_mut();
            routed.retain(|routed| routed.strong_count() > 0);
            routed.clone()
        };
        for routed in routed.iter().filter_map(Weak::upgrade) {
            routed.proceed();
        }
    }
}

/// A plugin on a worker thread. Several may share a VM.
pub(crate) struct Worker {
    pub(crate) instance: Rc<Instance>,
    pub(crate) process: Arc<Process>,
    pub(crate) root: u32,
    pub(crate) configuration: RefCell<Option<Vec<u8>>>,
    pub(crate) setup: Setup,
    pub(crate) calls: RefCell<BTreeMap<u32, Call>>,
    pub(crate) answer: RefCell<Option<CallAnswer>>,
    pub(crate) current: Cell<u32>,
    pub(crate) effective: Cell<u32>,
    pub(crate) effects: RefCell<Vec<Effect>>,
    pub(crate) iteration_stopped: Cell<bool>,
    period: Cell<Option<Duration>>,
    next_tick: Cell<Option<u64>>,
    closed: Cell<bool>,
}

/// Runs `act` on the worker whose callback is running.
pub(crate) fn running<T>(act: impl FnOnce(&Worker) -> T) -> Option<T> {
    // After a failed assertion the module goes with its thread, and this value may have gone before.
    let worker = RUNNING.try_with(|running| running.borrow().clone());
    worker.ok().flatten().map(|worker| act(&worker))
}

impl Worker {
    /// Runs a callback of the module, then its effects. Returns the module's action, and whether a local reply was
    /// sent, which overrides the action.
    pub(crate) fn callback<T>(
        self: &Rc<Self>,
        context: u32,
        name: &'static str,
        call: impl FnOnce() -> T,
    ) -> (T, bool) {
        self.process.counts.add(name, 0, 0);
        let outer = RUNNING.with(|running| running.replace(Some(Rc::clone(self))));
        assert!(outer.is_none(), "{name} would interrupt another callback");
        self.current.set(context);
        self.effective.set(0);
        let result = call();
        RUNNING.with(|running| running.replace(None));
        let stopped = self.iteration_stopped.take();
        for effect in self.effects.take() {
            // The stream may belong to another plugin.
            let stream = |id| {
                let stream = self.instance.streams.borrow().get(id).cloned()?;
                Some((stream.worker.upgrade()?, stream))
            };
            match effect {
                Effect::Resume(id, direction) => {
                    if let Some((worker, stream)) = stream(&id) {
                        stream.resume(&worker, direction);
                    }
                }
                Effect::Reply(id, reply) => {
                    if let Some((worker, stream)) = stream(&id) {
                        stream.reply(&worker, reply);
                    }
                }
                Effect::Close(id) => {
                    if let Some((_, stream)) = stream(&id) {
                        stream.close();
                    }
                }
            }
        }
        (result, stopped)
    }

    /// The context that host calls act on.
    pub(crate) fn acting(&self) -> u32 {
        match self.effective.get() {
            0 => self.current.get(),
            id if self.knows(id) => id,
            _ => self.current.get(),
        }
    }

    pub(crate) fn knows(&self, context: u32) -> bool {
        let is_root = self.instance.roots.borrow().contains_key(&context);
        is_root || self.instance.streams.borrow().contains_key(&context)
    }

    pub(crate) fn acting_stream(&self) -> Option<Rc<StreamState>> {
        self.instance.streams.borrow().get(&self.acting()).cloned()
    }

    /// The root context of the context that host calls act on. It owns timers.
    pub(crate) fn acting_root(&self) -> Option<Rc<Worker>> {
        match self.acting_stream() {
            Some(stream) => stream.worker.upgrade(),
            None => self.instance.roots.borrow().get(&self.acting())?.upgrade(),
        }
    }

    /// A property of the process.
    pub(crate) fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let properties = self.setup.properties.iter();
        let mut found = properties.filter(|(name, _)| name == path);
        found.next().map(|(_, value)| value.clone())
    }

    pub(crate) fn allow_on_headers_stop_iteration(&self) -> bool {
        self.setup.allow_on_headers_stop_iteration
    }

    pub(crate) fn loses_frames(&self) -> bool {
        self.setup.loses_frames
    }

    pub(crate) fn set_period(&self, period: Duration) {
        let period = Some(period).filter(|period| !period.is_zero());
        self.period.set(period);
        self.arm();
    }

    fn arm(&self) {
        let period = self.period.get().map(|period| period.as_nanos() as u64);
        self.next_tick
            .set(period.map(|period| self.process.nanos() + period));
    }

    fn tick(self: &Rc<Self>) {
        self.callback(self.root, "proxy_on_tick", || {
            exports::proxy_on_tick(self.root);
        });
        self.arm();
        self.instance.route();
    }

    pub(crate) fn make_call(&self, call: Call) -> Result<u32, u32> {
        let complete =
            [":method", ":path", ":authority"].map(|name| call.headers.first(name).is_some());
        if complete.contains(&false) {
            return Err(status::BAD_ARGUMENT);
        }
        let number = call.number;
        self.calls.borrow_mut().insert(number, call);
        Ok(number)
    }

    fn answer(self: &Rc<Self>, number: u32, headers: Headers, body: Vec<u8>) {
        let call = self.calls.borrow_mut().remove(&number);
        assert!(call.is_some(), "the call {number} is not out");
        let sizes = (headers.len(), body.len());
        self.answer.replace(Some(CallAnswer { headers, body }));
        self.callback(self.root, "proxy_on_http_call_response", || {
            exports::proxy_on_http_call_response(self.root, number, sizes.0, sizes.1, 0);
        });
        self.answer.replace(None);
        self.instance.route();
    }

    pub(crate) fn end_stream(self: &Rc<Self>, stream: &StreamState) {
        let known = self.instance.streams.borrow().contains_key(&stream.id);
        if self.closed.get() || !known {
            return;
        }
        let id = stream.id;
        if !stream.is_attempt {
            stream.logging.set(true);
            self.callback(id, "proxy_on_log", || exports::proxy_on_log(id));
            stream.logging.set(false);
        }
        self.callback(id, "proxy_on_done", || exports::proxy_on_done(id));
        self.callback(id, "proxy_on_delete", || exports::proxy_on_delete(id));
        self.instance.streams.borrow_mut().remove(&id);
    }

    fn close(self: &Rc<Self>) {
        let streams: Vec<_> = self.instance.streams.borrow().values().cloned().collect();
        for stream in streams {
            if stream.worker.ptr_eq(&Rc::downgrade(self)) {
                self.end_stream(&stream);
            }
        }
        self.callback(self.root, "proxy_on_done", || {
            exports::proxy_on_done(self.root)
        });
        self.callback(self.root, "proxy_on_delete", || {
            exports::proxy_on_delete(self.root);
        });
        self.closed.set(true);
    }
}

/// Lets the workers of this thread tick until `time` has passed.
pub(crate) fn advance(process: &Arc<Process>, time: Duration) {
    let until = process.nanos() + time.as_nanos() as u64;
    loop {
        let workers = WORKERS.with_borrow_mut(|workers| {
            workers.retain(|worker| worker.strong_count() > 0);
            workers.clone()
        });
        let due = workers
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|worker| Arc::ptr_eq(&worker.process, process) && !worker.closed.get())
            .filter_map(|worker| Some((worker.next_tick.get()?, worker)))
            .filter(|(at, _)| *at <= until)
            .min_by_key(|(at, _)| *at);
        let Some((at, worker)) = due else {
            break;
        };
        process.set_nanos(at.max(process.nanos()));
        worker.tick();
    }
    process.set_nanos(until.max(process.nanos()));
}

/// The module on one worker of a [`Host`].
///
/// When dropped, the worker ends its streams and then itself, as Envoy does.
pub struct Vm(pub(crate) Rc<Worker>);

impl Vm {
    pub(crate) fn start(
        process: &Arc<Process>,
        instance: Rc<Instance>,
        setup: Setup,
    ) -> Result<Self, Refused> {
        let root = next_id();
        let worker = Rc::new(Worker {
            instance: Rc::clone(&instance),
            process: Arc::clone(process),
            root,
            configuration: RefCell::default(),
            setup,
            calls: RefCell::default(),
            answer: RefCell::default(),
            current: Cell::new(root),
            effective: Cell::default(),
            effects: RefCell::default(),
            iteration_stopped: Cell::default(),
            period: Cell::default(),
            next_tick: Cell::default(),
            closed: Cell::default(),
        });
        let roots = &instance.roots;
        roots.borrow_mut().insert(root, Rc::downgrade(&worker));
        let logs_before = process.logs().len();
        let global = GLOBAL_STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = Self(worker);
        let configured = vm.configure();
        drop(global);
        if configured {
            WORKERS.with_borrow_mut(|workers| workers.push(Rc::downgrade(&vm.0)));
            return Ok(vm);
        }
        let logs = process.logs().split_off(logs_before);
        Err(Refused { logs })
    }

    fn configure(&self) -> bool {
        let worker = &self.0;
        let (root, setup) = (worker.root, &worker.setup);
        for (name, value) in &setup.environment {
            std::env::set_var(name, value);
        }
        worker.callback(root, "_initialize", initialize);
        worker.callback(root, "proxy_on_context_create", || {
            exports::proxy_on_context_create(root, 0);
        });
        worker.callback(root, "proxy_on_vm_start", || {
            exports::proxy_on_vm_start(root, 0)
        });
        worker.configuration.replace(Some(setup.json.clone()));
        let (configured, _) = worker.callback(root, "proxy_on_configure", || {
            exports::proxy_on_configure(root, setup.json.len())
        });
        worker.configuration.replace(None);
        for (name, _) in &setup.environment {
            std::env::remove_var(name);
        }
        configured
    }

    /// Another plugin in the same VM. Envoy shares a VM if `vm_id`, code and VM configuration are equal. The root
    /// context and streams of one plugin are known to the other.
    ///
    /// # Errors
    /// When the module refuses its configuration.
    pub fn plugin(&self, setup: Setup) -> Result<Self, Refused> {
        Self::start(&self.0.process, Rc::clone(&self.0.instance), setup)
    }

    /// The process this worker belongs to.
    pub fn host(&self) -> Host {
        Host(Arc::clone(&self.0.process))
    }

    /// The id of the root context.
    pub fn root(&self) -> u32 {
        self.0.root
    }

    /// The worker's tick period.
    pub fn tick_period(&self) -> Option<Duration> {
        self.0.period.get()
    }

    /// Ticks now, independently of the timer. Normally use [`Host::advance`].
    pub fn tick(&self) {
        self.0.tick();
    }

    /// A client's request; `end` if it has no body.
    pub fn request(&self, headers: impl Into<Headers>, end: bool) -> Stream {
        self.request_with::<&str>(&[], headers, end)
    }

    /// A client's request with properties from the start on, such as `xds\0cluster_name`. Zero bytes separate the parts
    /// of a path.
    pub fn request_with<V: AsRef<[u8]>>(
        &self,
        properties: &[(&str, V)],
        headers: impl Into<Headers>,
        end: bool,
    ) -> Stream {
        Stream::begin(&self.0, properties, headers.into(), end)
    }

    /// Ends the worker without another callback: it trapped, or its thread hangs. Its calls are never answered.
    pub fn crash(self) {
        self.0.closed.set(true);
    }

    /// The calls in progress, in the order of their making.
    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.borrow().values().cloned().collect()
    }

    /// The only call in progress.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn call(&self) -> Call {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "calls that are out: {calls:#?}");
        calls.remove(0)
    }

    /// A server answers a call.
    pub fn answer(
        &self,
        call: &Call,
        status: u16,
        headers: impl Into<Headers>,
        body: impl AsRef<[u8]>,
    ) {
        // The header that Envoy's router adds to an upstream's answer only.
        let mut answer = Headers::from([(":status", status.to_string().as_str())]);
        answer.add("x-envoy-upstream-service-time", "3");
        for (name, value) in headers.into().iter() {
            answer.add(name, value);
        }
        self.0.answer(call.number, answer, body.as_ref().to_vec());
    }

    /// Envoy answers a call itself: with 503 after a failed connection, and with 504 after its time limit.
    pub fn answer_locally(&self, call: &Call, status: u16) {
        let body = match status {
            504 => "upstream request timeout",
            _ => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
            }
        };
        let status = status.to_string();
        let length = body.len().to_string();
        let headers = [
            (":status", status.as_str()),
            ("content-length", &length),
            ("content-type", "text/plain"),
        ];
        self.0.answer(call.number, headers.into(), body.into());
    }

    /// A call ends without any answer: no headers at all.
    pub fn fail(&self, call: &Call) {
        self.0.answer(call.number, Headers::default(), Vec::new());
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // A failed assertion says enough. The module may be in any state.
        if !std::thread::panicking() && !self.0.closed.get() {
            self.0.close();
        }
        self.0.closed.set(true);
    }
}

/// Runs the module's `_initialize`, and reverts its effects on the process. Its panic hook would send messages of
/// failed assertions to the mock's log. Its log level would hide lines from the tests.
fn initialize() {
    static SHOW_TRAPS: Once = Once::new();
    SHOW_TRAPS.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A panic in a callback aborts the process, and the test harness would lose its captured output.
            let trapped = RUNNING.try_with(|running| running.borrow().is_some());
            if trapped.unwrap_or(false) {
                let _ = writeln!(std::io::stderr(), "the module trapped: {info}");
            }
            usual(info);
        }));
    });
    let ours = panic::take_hook();
    exports::_initialize();
    panic::set_hook(ours);
    log::set_max_level(log::LevelFilter::Trace);
}

impl Worker {
    pub(crate) fn log(&self, level: u32, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        self.process.log(LogLevel::from_abi(level), text);
    }
}
