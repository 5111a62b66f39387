//! The tour's configurations are the checked-in ones.

use std::path::{Path, PathBuf};
use std::{env, fs};

use render::Engine;

fn checked_in(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(file)
}

fn assert_same(path: &Path, rendered: &str) {
    let checked_in = fs::read_to_string(path).expect("the file is there");
    assert!(
        checked_in == rendered,
        "{} is not what is rendered now; run `UPDATE_GOLDEN=1 cargo test -p demo --test checked_in`",
        path.display()
    );
}

fn assert_checked_in(file: &str, rendered: &str) {
    let path = checked_in(file);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, rendered).expect("the file can be written");
    }
    assert_same(&path, rendered);
}

#[test]
fn the_containers_configuration_is_current() {
    assert_checked_in("deploy/compose/envoy.yaml", &demo::compose::configuration());
}

#[test]
fn the_containers_keys_are_current() {
    assert_checked_in("deploy/compose/clients.yaml", &demo::compose::keys());
}

#[test]
fn the_local_keys_are_current() {
    assert_checked_in("envoy/clients.yaml", &demo::clients::local_keys());
}

/// The command line tool writes these two, from the list of backends beside them.
#[test]
fn the_local_tour_runs_the_checked_in_configurations() {
    for (engine, file) in [
        (Engine::Filter, "envoy/envoy.yaml"),
        (Engine::Router, "envoy/envoy-router.yaml"),
    ] {
        let fleet = demo::clients::local_fleet(engine);
        assert_same(&checked_in(file), &render::envoy(&fleet));
    }
}
