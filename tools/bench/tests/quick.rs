//! A short run of the benchmark, which shows that the benchmark works.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        .arg("direct,envoy,stock,lua,ext_proc,idle,floor_filter,floor_router,floor_downstream,filter,router,filter_lean,router-against")
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
    let page = std::fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    for row in [
        "| plain Envoy ",
        "| stock Envoy: token, retries ",
        "| Lua ",
        "| ext_proc service ",
        "| wasm that does nothing ",
        "| floor: filter engine's host calls ",
        "| floor: router engine's host calls ",
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
    let chart = std::fs::read_to_string(folder.path().join("benchmarks.svg")).unwrap();
    assert!(chart.contains("balancer, router engine"), "{chart}");
    let curves = std::fs::read_to_string(folder.path().join("benchmarks-curves.svg")).unwrap();
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
    let same = std::fs::read_to_string(again.path().join("benchmarks.md")).unwrap();
    assert_eq!(same, page);

    // The floors must export the same callbacks as the balancer, because Envoy charges for each.
    let expected = request_callbacks(&module);
    assert!(
        expected.contains("proxy_on_request_headers"),
        "{expected:?}"
    );
    for name in ["filter", "router", "upstream"] {
        let floor = folder.path().join(format!("floor_{name}.wasm"));
        assert_eq!(request_callbacks(&floor), expected, "floor/{name}.wat");
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
