//! Many requests, and a module that traps.

use std::time::Duration;

use e2e::{cases, chat_request, load, module, simulate, simulate_with, Ending, Engine, Gateway};
use simulator::{Behaviour, Simulator, Stream};
use tempfile::TempPath;

const SECOND: Duration = Duration::from_secs(1);

/// The real module with a trap in this exported callback.
fn trapping_module(export: &str) -> TempPath {
    let mut wasm = walrus::Module::from_file(module()).unwrap();
    let function = wasm.exports.get_func(export).unwrap();
    wasm.replace_exported_func(function, |(body, _)| {
        body.unreachable();
    })
    .unwrap();
    let path = tempfile::Builder::new()
        .suffix(".wasm")
        .tempfile()
        .unwrap()
        .into_temp_path();
    wasm.emit_wasm_file(&path).unwrap();
    path
}

cases! {
    fn ten_thousand_requests_without_an_error_and_without_growth(engine) {
        for workers in [1, 2] {
            let azure = simulate_with(&["east", "west", "north"], |settings| settings.audit_bodies = false);
            let gateway = Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .workers(workers)
                .log_level("info")
                .start();
            azure.backend("east").set(Behaviour::internal_error().times(500));
            let chat = chat_request().padded(8_000);
            let warm = load(&gateway, 32, 2_000, &chat);
            let before = module_memory(&gateway);
            let result = load(&gateway, 32, 8_000, &chat);
            let after = module_memory(&gateway);
            assert_eq!(warm.status(200) + result.status(200), 10_000, "{warm:?} {result:?}");
            assert!(warm.errors.is_empty() && result.errors.is_empty());
            // The memory of a wasm module never shrinks. So the peak of the second thousand requests must suffice for
            // all.
            assert!(after <= before + 2 * 1024 * 1024, "{workers} workers: {before} to {after} bytes");
            assert_eq!(azure.imds().count(), 1);
        }
    }

    fn case_29_after_a_trap_the_next_request_is_served(engine) {
        let azure = simulate(&["east", "west"]);
        let (_module, gateway) = trapping_gateway(&azure, engine, 1);
        let chat = chat_request();
        assert_eq!(gateway.chat(&chat).status, 200);
        for round in 1..=3 {
            // Envoy does not restart at once a module that traps right after its start.
            std::thread::sleep(SECOND / 2);
            trap(&gateway);
            let next = gateway.chat(&chat);
            assert_eq!(next.status, 200, "after trap {round}: {}", next.text());
        }
        assert!(gateway.log().contains("unreachable"), "the trap is in the log");
        let unharmed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gateway.assert_unharmed()));
        assert!(unharmed.is_err(), "a test that looks for traps sees it");
    }

    fn case_29_a_trap_spares_the_streams_of_other_workers(engine) {
        let azure = simulate(&["east", "west"]);
        let (_module, gateway) = trapping_gateway(&azure, engine, 2);
        for backend in azure.backends() {
            backend.set(Behaviour::stream(Stream { events: 30, interval_ms: 50, ..Stream::default() }));
        }
        let chat = chat_request().streaming();
        // Linux distributes connections over workers at random.
        let mut streams: Vec<_> = (0..24)
            .map(|_| gateway.client().stream("POST", &chat.path, &[], &chat.bytes()).unwrap())
            .collect();
        for stream in &mut streams {
            assert!(stream.next().is_some());
        }
        trap(&gateway);
        let ends = streams.into_iter().map(|stream| stream.read_to_end().ending);
        let complete = ends.filter(|ending| *ending == Ending::Complete).count();
        assert!((1..24).contains(&complete), "{complete} of 24 arrived whole");
    }
}

/// A gateway whose module traps at a request with trailers. Also the module's file.
fn trapping_gateway(azure: &Simulator, engine: Engine, workers: u32) -> (TempPath, Gateway) {
    let path = trapping_module("proxy_on_request_trailers");
    let trapping = path.to_path_buf();
    let gateway = Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .workers(workers)
        .fleet(move |fleet| fleet.module = trapping)
        .rewrite(
            "accept_http_10: true",
            "accept_http_10: true\n          enable_trailers: true",
        )
        .start();
    (path, gateway)
}

/// Sends a request that makes the module trap.
fn trap(gateway: &Gateway) {
    let chat = chat_request();
    let mut upload = gateway
        .client()
        .upload("POST", &chat.path, &[("te", "trailers")])
        .unwrap();
    upload.chunk(&chat.bytes()).unwrap();
    let trapped = upload.finish_with_trailers(&[("x-last", "word")]);
    let trapped = trapped.map(|stream| stream.read_to_end().status);
    assert!(
        !matches!(trapped, Ok(200)),
        "the trap was not hit: {trapped:?}"
    );
}

/// Envoy's memory at rest. Of all its parts, only the module's could grow with requests.
fn module_memory(gateway: &Gateway) -> u64 {
    std::thread::sleep(SECOND / 2);
    gateway.memory()
}
