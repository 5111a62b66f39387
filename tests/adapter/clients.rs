//! Names of clients, which an earlier filter sets.

use serde_json::json;

use super::engines::*;

fn named(engine: Engine) -> Gateway {
    engine.fleet(3, json!({"headers": {"client": "x-aoai-client"}}))
}

fn ask_as(gateway: &Gateway, client: &str) -> Request {
    gateway.request(chat().with("x-aoai-client", client), true)
}

cases! {
    fn requests_are_counted_by_client_and_the_name_goes_no_further(engine) {
        let gateway = named(engine);
        for (client, status) in [
            ("app-1", 200),
            ("app-2", 200),
            ("app-1", 500),
            ("a.b c", 200),
        ] {
            let request = ask_as(&gateway, client);
            assert_eq!(request.attempt().header("x-aoai-client"), None);
            answer(&request.attempt(), status, "x");
            if status == 500 {
                let name = request.attempt().header("x-aoai-client");
                assert_eq!(name, None, "nor with a further attempt");
                answer(&request.attempt(), 200, "fine");
                assert_eq!(outcome(&request), is(200, "east", "2", "fine"));
                assert_eq!(
                    request.property("aoai_client").as_deref(),
                    Some(&b"app-1"[..])
                );
            }
        }
        assert_eq!(gateway.counted("aoai.client.app-1.requests"), 2);
        assert_eq!(gateway.host.statistic("aoai.client.app-2.requests"), 1);
        assert_eq!(gateway.host.statistic("aoai.client.a_b_c.requests"), 1);
        assert_quiet(&gateway.host);
    }

    fn the_name_is_kept_for_the_access_log(engine) {
        let gateway = named(engine);
        let request = ask_as(&gateway, "app-1");
        assert_eq!(
            request.property("aoai_client").as_deref(),
            Some(&b"app-1"[..])
        );
        assert_eq!(
            gateway.get().property("aoai_client"),
            None,
            "the client is unknown"
        );
    }

    fn at_most_200_names_have_statistics(engine) {
        let gateway = named(engine);
        for n in 0..300 {
            answer(
                &ask_as(&gateway, &format!("client-{n}")).attempt(),
                200,
                "x",
            );
        }
        assert_eq!(gateway.counted("aoai.client.client-199.requests"), 1);
        assert_eq!(gateway.host.statistic("aoai.client.other.requests"), 100);
    }

    fn without_the_field_the_header_is_the_clients_own(engine) {
        let gateway = engine.gateway();
        gateway.host.clear_counts();
        let request = ask_as(&gateway, "app-1");
        let sent = request.attempt().header("x-aoai-client");
        assert_eq!(sent.as_deref(), Some("app-1"));
        assert_eq!(request.property("aoai_client"), None);
        assert!(!gateway.host.counts().contains_key("proxy_define_metric"));
    }
}
