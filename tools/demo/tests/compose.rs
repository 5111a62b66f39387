//! The configuration that the containers run is the one that is checked in.

use std::path::Path;
use std::{env, fs};

#[test]
fn the_checked_in_configuration_is_the_rendered_one() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/compose/envoy.yaml"
    ));
    let rendered = demo::compose::configuration();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, &rendered).expect("the file can be written");
    }
    let checked_in = fs::read_to_string(path).expect("the file is there");
    assert!(
        checked_in == rendered,
        "{} is not what is rendered now; run `UPDATE_GOLDEN=1 cargo test -p demo --test compose`",
        path.display()
    );
}
