//! Several identities in one configuration.

use e2e::{cases, chat_request, load, simulate_with, Gateway, GatewayBuilder};
use serde_json::json;
use simulator::{BackendSettings, Simulator, TokenCheck};

const RED_KEY: &str = "RED-SECRET";

/// `blue` and `green` each accept an identity of their own, `red` a key, and `grey` the common identity.
fn coloured() -> (Simulator, GatewayBuilder) {
    let azure = simulate_with(&["blue", "green", "red", "grey"], |settings| {
        let names = ["blue-id", "green-id", "grey-id"].map(ToOwned::to_owned);
        settings.imds.identities = Some(names.into());
        let only = |backend: &mut BackendSettings, id: &str| {
            backend.identities = Some(vec![id.to_owned()])
        };
        if let [blue, green, red, grey] = settings.backends.as_mut_slice() {
            only(blue, "blue-id");
            only(green, "green-id");
            only(grey, "grey-id");
            red.identities = Some(Vec::new());
            red.api_key = Some(RED_KEY.to_owned());
        }
    });
    let gateway = Gateway::builder()
        .simulator(&azure)
        .secret("RED_KEY", RED_KEY)
        .plugin(|p| {
            p["identity"]["client_id"] = json!("grey-id");
            p["identities"] = json!({
                "blue": {"cluster": "imds", "client_id": "blue-id"},
                "green": {"cluster": "imds", "client_id": "green-id"},
            });
            p["backends"][0]["identity"] = json!("blue");
            p["backends"][1]["identity"] = json!("green");
            p["backends"][2]["api_key_env"] = json!("RED_KEY");
        });
    (azure, gateway)
}

cases! {
    fn case_17_each_backend_gets_the_token_of_its_own_identity(engine) {
        let (azure, gateway) = coloured();
        let gateway = gateway.engine(engine).workers(2).without_cooldowns().start();
        gateway.warm_up(&azure);
        for (name, id) in [("blue", Some("blue-id")), ("green", Some("green-id")), ("red", None), ("grey", Some("grey-id"))] {
            // Each backend also gets requests that begin on another one.
            for backend in azure.backends() {
                backend.clear();
                if backend.name() != name {
                    backend.set(simulator::Behaviour::throttled(1));
                }
            }
            let result = load(&gateway, 2, 8, &chat_request());
            assert!(result.status(200) > 0, "{result:?}");
            let requests = azure.backend(name).requests();
            assert!(!requests.is_empty());
            for request in requests {
                assert_eq!(request.identity.as_deref(), id);
                assert_eq!(request.token == TokenCheck::Key, id.is_none());
                assert!(request.token.passes());
            }
        }
        assert_eq!(azure.imds().count(), 3, "one fetch for each identity");
        for token in azure.imds().tokens() {
            assert!(!gateway.log().contains(&token));
        }
    }

    fn a_missing_identity_disables_only_its_own_backends(engine) {
        let (azure, gateway) = coloured();
        let gateway = gateway
            .engine(engine)
            .plugin(|p| p["identities"]["blue"]["client_id"] = json!("nobody"))
            .start();
        let result = load(&gateway, 2, 30, &chat_request());
        assert_eq!(result.status(200), 30, "{result:?}");
        assert_eq!(azure.backend("blue").count(), 0);
        for name in ["green", "red", "grey"] {
            assert!(result.backend(name) >= 5, "{result:?}");
        }
    }

    fn a_refused_token_is_renewed_for_its_own_identity_alone(engine) {
        let (azure, gateway) = coloured();
        let gateway = gateway.engine(engine).start();
        assert_eq!(load(&gateway, 1, 8, &chat_request()).status(200), 8);
        assert_eq!(azure.imds().count(), 3);
        azure.backend("green").queue(vec![simulator::Behaviour::unauthorized_token()]);
        azure.imds().issue_fresh();
        assert_eq!(load(&gateway, 1, 8, &chat_request()).status(200), 8);
        assert_eq!(azure.imds().count(), 4);
        let green = azure.backend("green").requests();
        assert_eq!(green.last().unwrap().identity.as_deref(), Some("green-id"));
    }

    fn an_identity_without_an_own_name_is_refused(engine) {
        let (_azure, gateway) = coloured();
        let refused = gateway
            .engine(engine)
            .plugin(|p| p["backends"][1]["identity"] = json!("gren"))
            .try_start()
            .unwrap_err();
        assert!(refused.log.contains(r#"backends[1].identity: "gren""#), "{}", refused.log);
    }

    fn case_52_the_audience_follows_the_hosts_of_the_backends(engine) {
        for (domain, audience) in [
            ("services.ai.azure.com", "https://ai.azure.com"),
            ("openai.azure.us", "https://cognitiveservices.azure.us"),
            ("openai.azure.cn", "https://cognitiveservices.azure.cn"),
        ] {
            let azure = simulate_with(&["east", "west"], |settings| {
                settings.imds.audience = audience.to_owned();
                for backend in &mut settings.backends {
                    backend.host = format!("contoso-{}.{domain}", backend.name);
                }
            });
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            assert_eq!(load(&gateway, 1, 4, &chat_request()).status(200), 4, "{domain}");
            assert_eq!(azure.upstream_calls(), 4, "{domain}: no token was refused");
            let line = format!("new access token for {audience} ");
            gateway.wait_for(|g| g.log().contains(&line), std::time::Duration::from_secs(3), &line);
        }
    }

    fn case_52_hosts_in_different_clouds_need_an_identity_each(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[1].host = "contoso-west.openai.azure.us".to_owned();
        });
        let refused = Gateway::builder().simulator(&azure).engine(engine).try_start().unwrap_err();
        assert!(refused.log.contains("identity.resource: is missing, and "), "{}", refused.log);
        assert!(refused.log.contains("contoso-west.openai.azure.us"), "{}", refused.log);
    }
}
