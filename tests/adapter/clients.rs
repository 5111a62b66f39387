//! Clients by the names that a filter before this one gave them.

use mock_host::{Host, Setup, Vm};
use serde_json::json;

use super::support::*;

fn named() -> (Host, Vm) {
    ready_with(Setup::new(config_with(
        "headers",
        json!({"client": "x-aoai-client"}),
    )))
}

fn ask_as(vm: &Vm, client: &str) -> mock_host::Stream {
    vm.request(chat().with("x-aoai-client", client), true)
}

#[test]
fn requests_are_counted_by_client_and_the_name_goes_no_further() {
    let (host, vm) = named();
    for (client, status) in [
        ("app-1", 200),
        ("app-2", 200),
        ("app-1", 500),
        ("a.b c", 200),
    ] {
        let stream = ask_as(&vm, client);
        let forwarded = stream.forwarded().unwrap().headers;
        assert_eq!(forwarded.get("x-aoai-client"), None);
        respond(&stream, status, "x");
        if status == 500 {
            let call = vm.call();
            assert_eq!(
                call.headers.get("x-aoai-client"),
                None,
                "nor with a further attempt"
            );
            vm.answer(&call, 200, [], "fine");
        }
    }
    assert_eq!(counted(&host, "aoai.client.app-1.requests"), 2);
    assert_eq!(host.statistic("aoai.client.app-2.requests"), 1);
    assert_eq!(host.statistic("aoai.client.a_b_c.requests"), 1);
    assert_quiet(&host);
}

#[test]
fn the_name_is_kept_for_the_access_log() {
    let (_host, vm) = named();
    let stream = ask_as(&vm, "app-1");
    assert_eq!(
        stream.property("aoai_client").as_deref(),
        Some(&b"app-1"[..])
    );
    assert_eq!(
        get(&vm).property("aoai_client"),
        None,
        "no one said who this is"
    );
}

#[test]
fn a_thousand_names_are_not_a_thousand_statistics() {
    let (host, vm) = named();
    for n in 0..300 {
        respond(&ask_as(&vm, &format!("client-{n}")), 200, "x");
    }
    assert_eq!(counted(&host, "aoai.client.client-199.requests"), 1);
    assert_eq!(host.statistic("aoai.client.other.requests"), 100);
}

#[test]
fn without_the_field_it_costs_nothing_and_the_header_is_the_clients() {
    let (host, vm) = ready();
    host.clear_counts();
    let stream = ask_as(&vm, "app-1");
    let forwarded = stream.forwarded().unwrap().headers;
    assert_eq!(forwarded.get("x-aoai-client"), Some("app-1"));
    assert_eq!(stream.property("aoai_client"), None);
    assert!(!host.counts().contains_key("proxy_define_metric"));
}
