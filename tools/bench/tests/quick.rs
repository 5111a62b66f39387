//! The benchmark runs, for seconds, so that it does not rot between the runs that count.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// A path that `cargo xtask test` names.
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
        .arg("direct,envoy,stock,lua,ext_proc,idle,filter,router,router-against")
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let page = std::fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    for row in [
        "| plain Envoy ",
        "| stock Envoy: token, retries ",
        "| Lua ",
        "| ext_proc service ",
        "| wasm that does nothing ",
        "| balancer, filter engine ",
        "| balancer, router engine ",
        "| other build, router engine ",
    ] {
        // CPU, requests per second, latency, memory.
        assert!(page.matches(row).count() >= 4, "{row}\n{page}");
    }
    let chart = std::fs::read_to_string(folder.path().join("benchmarks.svg")).unwrap();
    assert!(chart.contains("balancer, router engine"), "{chart}");
}
