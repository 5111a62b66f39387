//! What the containers run is what is checked in.

use std::path::Path;
use std::{env, fs};

fn assert_checked_in(file: &str, rendered: &str) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/compose")).join(file);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, rendered).expect("the file can be written");
    }
    let checked_in = fs::read_to_string(&path).expect("the file is there");
    assert!(
        checked_in == rendered,
        "{} is not what is rendered now; run `UPDATE_GOLDEN=1 cargo test -p demo --test compose`",
        path.display()
    );
}

#[test]
fn the_checked_in_configuration_is_the_rendered_one() {
    assert_checked_in("envoy.yaml", &demo::compose::configuration());
}

#[test]
fn the_checked_in_keys_are_the_rendered_ones() {
    assert_checked_in("clients.yaml", &demo::compose::keys());
}
