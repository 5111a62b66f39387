//! Keeps the checked-in configuration what the renderer writes.

use std::path::Path;
use std::{env, fs};

#[test]
fn the_checked_in_configuration_is_the_demo_fleet() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy/envoy.yaml");
    let rendered = render::envoy(&render::demo_fleet());
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &rendered).expect("write envoy/envoy.yaml");
    }
    let checked_in = fs::read_to_string(&file).expect("read envoy/envoy.yaml");
    assert!(
        checked_in == rendered,
        "envoy/envoy.yaml is not what the renderer writes; run `UPDATE_GOLDEN=1 cargo test -p render` and look at the diff"
    );
}
