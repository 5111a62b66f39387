//! The admin endpoint.

mod common;

use common::{chat, send, simulator, Answer, End};
use serde_json::Value;
use simulator::Simulator;

fn admin(simulator: &Simulator, method: &str, path: &str, body: &str) -> Answer {
    send(
        simulator.admin_addr().unwrap(),
        method,
        &format!("/admin/{path}"),
        &[],
        body.as_bytes(),
    )
}

#[test]
fn it_tells_its_health_and_what_there_is() {
    let simulator = simulator();
    assert_eq!(
        admin(&simulator, "GET", "health", "").json()["status"],
        "ready"
    );
    assert!(!admin(&simulator, "GET", "", "").json()["paths"]
        .as_array()
        .unwrap()
        .is_empty());
    assert_eq!(
        admin(&simulator, "GET", "backends", "").json()[0]["name"],
        "east"
    );
    let imds = admin(&simulator, "GET", "imds", "").json();
    assert_eq!(imds["addr"], simulator.imds().addr().to_string());
    assert_eq!((&imds["requests"], &imds["tokens"]), (&0.into(), &0.into()));
}

#[test]
fn it_sets_behaviours() {
    let simulator = simulator();
    let path = "backends/east/behaviour";
    let one = r#"{"answer":{"kind":"error","status":429,"headers":[["retry-after","3"]]}}"#;
    assert_eq!(admin(&simulator, "PUT", path, one).status, 200);
    let answer = chat(&simulator, "east", "{}");
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("3"))
    );
    let queue = r#"[{"answer":{"kind":"reset"}},{"remaining":1,"answer":{"kind":"early_error","status":503}}]"#;
    admin(&simulator, "PUT", path, queue);
    assert_eq!(chat(&simulator, "east", "{}").end, End::Reset);
    assert_eq!(chat(&simulator, "east", "{}").status, 503);
    assert_eq!(chat(&simulator, "east", "{}").status, 429);
    admin(&simulator, "DELETE", path, "");
    assert_eq!(chat(&simulator, "east", "{}").status, 200);
}

#[test]
fn it_says_what_is_wrong() {
    let simulator = simulator();
    let cases = [
        (
            "PUT",
            "backends/east/behaviour",
            r#"{"anser":{}}"#,
            400,
            "unknown field `anser`",
        ),
        (
            "PUT",
            "backends/east/behaviour",
            r#"{"answer":{"kind":"err"}}"#,
            400,
            "unknown variant `err`",
        ),
        ("PUT", "backends/east/behaviour", "[{]", 400, "column 3"),
        (
            "PUT",
            "backends/north/behaviour",
            "{}",
            404,
            "there is no backend north",
        ),
        (
            "PUT",
            "imds/token-lifetime",
            r#"{"seconds":"x"}"#,
            400,
            "invalid type",
        ),
        ("GET", "elsewhere", "", 404, "GET /admin/ lists"),
    ];
    for (method, path, body, status, part) in cases {
        let answer = admin(&simulator, method, path, body);
        assert!(
            answer.status == status && answer.text().contains(part),
            "{path}: {answer:?}"
        );
    }
}

#[test]
fn it_shows_and_forgets_requests() {
    let simulator = simulator();
    chat(&simulator, "east", r#"{"a":"ü"}"#);
    let records = admin(&simulator, "GET", "requests?service=east", "").json();
    assert_eq!(records[0]["body"], r#"{"a":"ü"}"#);
    assert_eq!(
        (&records[0]["token"], &records[0]["status"]),
        (&Value::from("key"), &Value::from(200))
    );
    admin(&simulator, "DELETE", "requests", "");
    assert_eq!(
        admin(&simulator, "GET", "requests", "").json(),
        Value::Array(Vec::new())
    );
}

#[test]
fn it_stops_and_restarts_ports() {
    let simulator = simulator();
    assert_eq!(
        admin(&simulator, "POST", "backends/east/stop", "").status,
        200
    );
    assert_eq!(chat(&simulator, "east", "{}").end, End::Refused);
    assert_eq!(
        admin(&simulator, "POST", "backends/east/restart", "").status,
        200
    );
    assert_eq!(chat(&simulator, "east", "{}").status, 200);
}

#[test]
fn it_steers_the_identity_endpoint() {
    let simulator = simulator();
    let token = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x";
    let ask = || {
        send(
            simulator.imds().addr(),
            "GET",
            token,
            &[("Metadata", "true")],
            b"",
        )
    };
    admin(
        &simulator,
        "PUT",
        "imds/behaviour",
        r#"{"answer":{"kind":"error","status":410}}"#,
    );
    assert_eq!(ask().status, 410);
    admin(&simulator, "DELETE", "imds/behaviour", "");
    admin(
        &simulator,
        "PUT",
        "imds/token-lifetime",
        r#"{"seconds":60}"#,
    );
    assert_eq!(ask().json()["expires_in"], "60");
    admin(&simulator, "POST", "imds/revoke", "");
    ask();
    assert_eq!(simulator.imds().tokens().len(), 2);
}
