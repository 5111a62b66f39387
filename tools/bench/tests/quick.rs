//! A short run of the benchmark, which shows that the benchmark works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, mem};

/// The path in an environment variable that `cargo xtask test` sets.
fn path(variable: &str) -> PathBuf {
    let path = env::var_os(variable);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set; run `cargo xtask test`"));
    PathBuf::from(path)
}

#[test]
fn every_variant_that_is_an_envoy_serves_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let module = path("AOAI_WASM");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["run", "--quick", "--memory", "--only"])
        .arg("direct,envoy,stock,lua,ext_proc,idle,floor_filter,floor_router,floor_downstream,floor_filter_lean,filter,router,filter_lean,router-against")
        .arg("--envoy")
        .arg(path("AOAI_ENVOY_1_40_0"))
        .arg("--module")
        .arg(&module)
        .arg("--against")
        .arg(&module)
        .arg("--folder")
        .arg(folder.path())
        .arg("--write")
        .arg(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let page = fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    for row in [
        "| plain Envoy ",
        "| stock Envoy: token, retries ",
        "| Lua ",
        "| ext_proc service ",
        "| wasm that does nothing ",
        "| floor: balancer, filter engine ",
        "| floor: balancer, router engine ",
        "| floor: answers not read, filter engine ",
        "| balancer, filter engine ",
        "| balancer, router engine ",
        "| other build, router engine ",
    ] {
        // The tables of CPU, requests per second, latency and memory each have this row.
        assert!(page.matches(row).count() >= 4, "{row}\n{page}");
    }
    // The table of targets has these rows.
    for row in [
        "| 16 KB: answers not read, filter engine ",
        "| one of three throttled: balancer, router engine ",
    ] {
        assert_eq!(page.matches(row).count(), 1, "{row}\n{page}");
    }
    let chart = fs::read_to_string(folder.path().join("benchmarks.svg")).unwrap();
    assert!(chart.contains("balancer, router engine"), "{chart}");
    let curves = fs::read_to_string(folder.path().join("benchmarks-curves.svg")).unwrap();
    assert!(
        curves.contains("CPU per request, us: deployments"),
        "{curves}"
    );

    // The saved values give the same page again.
    let again = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("page")
        .arg(folder.path().join("measured.json"))
        .arg("--write")
        .arg(again.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let same = fs::read_to_string(again.path().join("benchmarks.md")).unwrap();
    assert_eq!(same, page);

    // The floors must export the same callbacks as the balancer, because Envoy charges for each.
    let expected = request_callbacks(&module);
    assert!(
        expected.contains("proxy_on_request_headers"),
        "{expected:?}"
    );
    for name in ["floor_filter", "floor_router", "floor_router_upstream"] {
        let floor = folder.path().join(format!("{name}.wasm"));
        assert_eq!(request_callbacks(&floor), expected, "{name}");
    }
}

#[test]
fn each_floor_makes_the_host_calls_of_its_balancer() {
    const FLOORS: [(&str, &str); 6] = [
        ("filter", "floor_filter"),
        ("router", "floor_router"),
        ("filter_lean", "floor_filter_lean"),
        ("router_lean", "floor_router_lean"),
        ("filter_everything", "floor_filter_everything"),
        ("router_everything", "floor_router_everything"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let variants = FLOORS.map(|(balancer, floor)| format!("{balancer},{floor}"));
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        // With one connection, the requests in the logs follow each other.
        .args(["run", "--quick", "--trace", "--conditions", "alone"])
        .arg("--only")
        .arg(variants.join(","))
        .arg("--envoy")
        .arg(path("AOAI_ENVOY_1_40_0"))
        .arg("--module")
        .arg(path("AOAI_WASM"))
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for (balancer, floor) in FLOORS {
        let requests = |variant| requests(&folder.path().join(format!("{variant}.log")));
        let (expected, actual) = (requests(balancer), requests(floor));
        let total: usize = expected.values().sum();
        // The names of backends differ in length, so each backend has its own list. The floor names the first backend in all answers.
        let usual = expected.iter().filter(|(_, count)| **count > total / 5);
        let usual: Vec<_> = usual.map(|(request, _)| request).collect();
        let (most, _) = actual.iter().max_by_key(|(_, count)| **count).unwrap();
        let example = usual.first().expect("most requests are alike");
        assert!(
            usual.contains(&most),
            "{floor}:\n{most}\n{balancer}:\n{example}"
        );
    }
}

/// The requests in a log with traces, each as a list of its callbacks and host calls, and their numbers. The lists have neither
/// addresses nor ids. The requests must follow each other.
fn requests(log: &Path) -> BTreeMap<String, usize> {
    let log = fs::read_to_string(log).unwrap();
    let traces = log.lines().filter_map(|line| {
        let (head, trace) = line.split_once("/wasm_vm.cc:")?;
        // The second field in brackets is the thread.
        Some((head.split(['[', ']']).nth(3)?, trace.split_once("] ")?.1))
    });
    let traces: Vec<_> = traces.collect();
    let serves = |(_, trace): &&(&str, &str)| trace.contains("proxy_on_request_headers");
    let (worker, _) = traces.iter().find(serves).expect("a thread serves");

    let mut requests = BTreeMap::new();
    let mut request = String::new();
    let mut open_contexts = 0;
    let mut is_counted = false;
    for (_, trace) in traces.iter().filter(|(thread, _)| thread == worker) {
        let (direction, trace) = trace.split_once(' ').unwrap();
        let (name, rest) = trace.split_once(['(', ' ']).unwrap();
        let arguments: Vec<_> = rest.trim_end_matches(')').split(", ").collect();
        let is_memory = name == "proxy_on_memory_allocate";
        if direction == "[host->vm]" && !is_memory {
            is_counted = is_of_stream(name, &arguments);
        }
        if !is_counted {
            continue;
        }
        match direction {
            "[host->vm]" if is_memory => {
                request += &format!("    returns {} bytes\n", arguments[0]);
            }
            "[host->vm]" => {
                let has_ids_only = ["proxy_on_context_create", "proxy_on_delete"].contains(&name);
                let shown = if has_ids_only { &[] } else { &arguments[1..] };
                request += &format!("{name}({})\n", shown.join(", "));
                open_contexts += i32::from(name == "proxy_on_context_create");
                open_contexts -= i32::from(name == "proxy_on_delete");
                if open_contexts == 0 {
                    *requests.entry(mem::take(&mut request)).or_default() += 1;
                }
            }
            "[host<-vm]" if !is_memory && rest != "return: void" => {
                request += &format!("  {rest}\n");
            }
            "[vm->host]" => {
                let shown = without_addresses(name).iter();
                let shown: Vec<_> = shown.map(|index| arguments[*index]).collect();
                request += &format!("  {name}({})\n", shown.join(", "));
            }
            _ => {}
        }
    }
    requests
}

/// Whether a callback belongs to a stream, not to a root context.
fn is_of_stream(name: &str, arguments: &[&str]) -> bool {
    match name {
        "proxy_on_context_create" => arguments[1] != "0",
        "proxy_on_delete" => true,
        _ => name.starts_with("proxy_on_request_") || name.starts_with("proxy_on_response_"),
    }
}

/// The indexes of the arguments of a host call that are neither addresses nor numbers for compare-and-swap. Rare calls have none here, so
/// only their names count.
fn without_addresses(host_call: &str) -> &'static [usize] {
    match host_call.trim_start_matches("env.proxy_") {
        "get_header_map_pairs" => &[0],
        "get_property" | "get_shared_data" => &[1],
        "get_header_map_value" | "remove_header_map_value" => &[0, 2],
        "set_property" | "set_shared_data" => &[1, 3],
        "get_buffer_bytes" => &[0, 1, 2],
        "replace_header_map_value" => &[0, 2, 4],
        _ => &[],
    }
}

/// The callbacks that a module exports, except those that cost a request nothing.
fn request_callbacks(module: &Path) -> BTreeSet<String> {
    let module = walrus::Module::from_file(module).unwrap();
    let exports = module.exports.iter().map(|export| export.name.clone());
    let without_cost = ["proxy_on_tick", "proxy_on_http_call_response"];
    exports
        .filter(|name| name.starts_with("proxy_on_") && !without_cost.contains(&name.as_str()))
        .collect()
}
