//! Keeps the checked-in configurations what the renderer writes.

use std::path::Path;
use std::{env, fs};

use render::Engine;

fn check(name: &str, engine: Engine) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../envoy")
        .join(name);
    let rendered = render::envoy(&render::demo_fleet_with(engine));
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &rendered).unwrap_or_else(|e| panic!("envoy/{name}: {e}"));
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_else(|e| panic!("envoy/{name}: {e}"));
    assert!(
        checked_in == rendered,
        "envoy/{name} is not what the renderer writes; run `UPDATE_GOLDEN=1 cargo test -p render` and look at the diff"
    );
}

#[test]
fn the_checked_in_configuration_is_the_demo_fleet() {
    check("envoy.yaml", Engine::Filter);
}

#[test]
fn the_checked_in_configuration_of_the_router_engine_is_the_demo_fleet_with_it() {
    check("envoy-router.yaml", Engine::Router);
}
