//! The identity endpoint, and the backends' checks of its tokens.

mod common;

use std::time::Duration;

use common::{send, started, Answer, End, CHAT};
use simulator::{
    Auth, BackendSettings, Expires, ImdsBehaviour, ImdsSettings, Settings, Simulator, TokenCheck,
};

const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01\
    &resource=https%3A%2F%2Fcognitiveservices.azure.com";
const METADATA: (&str, &str) = ("Metadata", "true");

fn simulator() -> Simulator {
    started(vec![BackendSettings::new("east")])
}

fn ask(simulator: &Simulator, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(simulator.imds().addr(), "GET", path, headers, b"")
}

fn token(simulator: &Simulator) -> String {
    let answer = ask(simulator, TOKEN, &[METADATA]).json();
    answer["access_token"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The status of a chat completion with this token, and the result of the token's check.
fn with_token(simulator: &Simulator, token: &str) -> (u16, TokenCheck) {
    let east = simulator.backend("east");
    let authorization = format!("Bearer {token}");
    let answer = send(
        east.addr(),
        "POST",
        CHAT,
        &[("Authorization", &authorization)],
        b"{}",
    );
    (answer.status, east.requests().pop().unwrap().token)
}

#[test]
fn the_fields_of_a_token_are_strings() {
    let simulator = simulator();
    let answer = ask(&simulator, TOKEN, &[METADATA]).json();
    assert!(
        answer
            .as_object()
            .unwrap()
            .values()
            .all(|value| value.is_string()),
        "{answer}"
    );
    assert_eq!(answer["resource"], "https://cognitiveservices.azure.com");
    let left: u64 = answer["expires_in"].as_str().unwrap().parse().unwrap();
    assert!((3598..=3600).contains(&left), "{left}");
    assert_eq!(
        simulator.imds().tokens(),
        [answer["access_token"].as_str().unwrap()]
    );
    assert_eq!(
        simulator.imds().requests()[0].header("metadata"),
        Some("true")
    );
}

#[test]
fn a_wrong_request_is_refused() {
    let simulator = simulator();
    let cases: [(&str, &[(&str, &str)]); 6] = [
        (TOKEN, &[]),
        (TOKEN, &[METADATA, ("X-Forwarded-For", "10.0.0.1")]),
        (
            "/metadata/identity/oauth2/token?api-version=2018-02-01",
            &[METADATA],
        ),
        ("/metadata/identity/oauth2/token?resource=x", &[METADATA]),
        (
            "/metadata/identity/oauth2/token?api-version=1&resource=x",
            &[METADATA],
        ),
        (&format!("{TOKEN}&client_id=a&object_id=b"), &[METADATA]),
    ];
    for (path, headers) in cases {
        let answer = ask(&simulator, path, headers);
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (400, &"invalid_request".into()),
            "{path}"
        );
        assert!(answer.json()["error_description"].is_string());
    }
    assert_eq!(
        send(simulator.imds().addr(), "POST", TOKEN, &[METADATA], b"").status,
        400
    );
    assert_eq!(
        ask(&simulator, "/metadata/instance", &[METADATA]).status,
        404
    );
}

#[test]
fn only_known_identities_get_tokens() {
    let settings = Settings {
        imds: ImdsSettings {
            identities: Some(vec!["one".to_owned(), "two".to_owned()]),
            ..ImdsSettings::default()
        },
        ..Settings::default()
    };
    let simulator = Simulator::start(settings).unwrap();
    assert_eq!(ask(&simulator, TOKEN, &[METADATA]).status, 400);
    let unknown = ask(&simulator, &format!("{TOKEN}&client_id=three"), &[METADATA]);
    assert_eq!(unknown.json()["error_description"], "Identity not found");
    let known = ask(&simulator, &format!("{TOKEN}&client_id=two"), &[METADATA]);
    assert_eq!(known.json()["client_id"], "two");
}

#[test]
fn the_app_service_form_has_its_own_secret_and_fields() {
    let simulator = simulator();
    let path = "/msi/token?api-version=2019-08-01&resource=https://cognitiveservices.azure.com&mi_res_id=x";
    assert_eq!(
        ask(&simulator, path, &[("X-IDENTITY-HEADER", "wrong")]).status,
        401
    );
    let answer = ask(&simulator, path, &[("X-IDENTITY-HEADER", "secret")]).json();
    assert!(answer["expires_on"].is_string() && answer.get("expires_in").is_none());
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(with_token(&simulator, token), (200, TokenCheck::Valid));
}

#[test]
fn a_token_is_returned_until_a_new_one_is_due() {
    let simulator = simulator();
    let first = token(&simulator);
    assert_eq!(token(&simulator), first);
    simulator.imds().issue_fresh();
    let second = token(&simulator);
    assert_ne!(second, first);
    assert_eq!(with_token(&simulator, &first).0, 200);
}

#[test]
fn revoked_expired_and_foreign_tokens_are_refused() {
    let simulator = simulator();
    let first = token(&simulator);
    assert_eq!(with_token(&simulator, &first), (200, TokenCheck::Valid));
    simulator.imds().revoke_all();
    assert_eq!(with_token(&simulator, &first), (401, TokenCheck::Revoked));
    assert_eq!(with_token(&simulator, &token(&simulator)).0, 200);
    simulator.imds().set_token_lifetime(Duration::ZERO);
    let expired = token(&simulator);
    common::eventually("the token has expired", || {
        with_token(&simulator, &expired) == (401, TokenCheck::Expired)
    });
    simulator.imds().set_token_lifetime(Duration::from_secs(60));
    let other = ask(
        &simulator,
        &TOKEN.replace("cognitiveservices", "vault"),
        &[METADATA],
    )
    .json();
    let other = other["access_token"].as_str().unwrap();
    assert_eq!(
        with_token(&simulator, other),
        (401, TokenCheck::WrongAudience)
    );
    assert_eq!(
        with_token(&simulator, "e30.e30.x"),
        (401, TokenCheck::Unknown)
    );
}

#[test]
fn keys_are_checked_too() {
    let simulator = common::simulator();
    let east = simulator.backend("east");
    let status = |headers: &[(&str, &str)]| {
        let answer = send(east.addr(), "POST", CHAT, headers, b"{}");
        (answer.status, east.requests().pop().unwrap().token)
    };
    assert_eq!(status(&[("api-key", common::KEY)]), (200, TokenCheck::Key));
    assert_eq!(status(&[("api-key", "other")]), (401, TokenCheck::WrongKey));
    assert_eq!(status(&[]), (401, TokenCheck::Missing));
}

#[test]
fn without_authorization_every_request_is_accepted() {
    let simulator = Simulator::start(Settings {
        backends: vec![BackendSettings::new("east")],
        auth: Auth::Off,
        ..Settings::default()
    });
    assert_eq!(
        with_token(&simulator.unwrap(), "any"),
        (200, TokenCheck::Unknown)
    );
}

#[test]
fn errors_have_the_form_of_imds() {
    let simulator = simulator();
    simulator.imds().queue(vec![
        ImdsBehaviour::status_retry_after(429, "3"),
        ImdsBehaviour::status(410),
        ImdsBehaviour::reset(),
        ImdsBehaviour::garbage("<html>"),
        ImdsBehaviour::missing_token(),
        ImdsBehaviour::expires(Expires::ExpiresIn, true),
    ]);
    let next = || ask(&simulator, TOKEN, &[METADATA]);
    let throttled = next();
    assert_eq!(
        (throttled.status, throttled.header("retry-after")),
        (429, Some("3"))
    );
    assert_eq!(next().status, 410);
    assert_eq!(next().end, End::Reset);
    assert_eq!(next().text(), "<html>");
    let missing = next().json();
    assert!(missing["expires_on"].is_string() && missing.get("access_token").is_none());
    let numbers = next().json();
    assert!(numbers["expires_in"].is_u64() && numbers.get("expires_on").is_none());
    assert!(!token(&simulator).is_empty());
    assert_eq!(simulator.imds().count(), 7);
}

#[test]
fn a_stopped_endpoint_comes_back() {
    let simulator = simulator();
    simulator.imds().stop();
    assert_eq!(ask(&simulator, TOKEN, &[METADATA]).end, End::Refused);
    simulator.imds().restart().unwrap();
    assert!(!token(&simulator).is_empty());
}

#[test]
fn a_backend_accepts_only_identities_with_a_role() {
    let simulator = started(vec![BackendSettings {
        identities: Some(vec!["blue".to_owned()]),
        ..BackendSettings::new("east")
    }]);
    for (identity, status, check) in [
        ("blue", 200, TokenCheck::Valid),
        ("green", 401, TokenCheck::NoRole),
    ] {
        let path = format!("{TOKEN}&client_id={identity}");
        let answer = ask(&simulator, &path, &[METADATA]).json();
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(with_token(&simulator, token), (status, check));
        let request = simulator.backend("east").requests().pop().unwrap();
        assert_eq!(request.identity.as_deref(), Some(identity));
    }
    assert_eq!(with_token(&simulator, &token(&simulator)).0, 401);
    assert_eq!(with_token(&simulator, "forged").1, TokenCheck::Unknown);
    let forged = simulator.backend("east").requests().pop().unwrap();
    assert_eq!(forged.identity, None);
}

/// Entra ID's answer to this form.
fn exchange(simulator: &Simulator, tenant: &str, form: &str) -> Answer {
    let path = format!("/{tenant}/oauth2/v2.0/token");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    send(
        simulator.imds().addr(),
        "POST",
        &path,
        &headers,
        form.as_bytes(),
    )
}

#[test]
fn entra_exchanges_an_assertion_for_a_token() {
    let simulator = simulator();
    let entra = simulator::EntraSettings::default();
    let form = |assertion: &str, more: &str| {
        format!(
            "grant_type=client_credentials&client_id={}&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
             &client_assertion={assertion}{more}",
            entra.client_id
        )
    };
    let right = simulator.imds().assertion(60);
    let answer = exchange(&simulator, &entra.tenant, &form(&right.token(), ""));
    assert_eq!(answer.status, 200, "{}", answer.json());
    let answer = answer.json();
    assert!(answer["expires_in"].as_u64().unwrap() > 3000 && answer.get("expires_on").is_none());
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(with_token(&simulator, token), (200, TokenCheck::Valid));
    let other = |change: fn(&mut simulator::Assertion)| {
        let mut assertion = right.clone();
        change(&mut assertion);
        form(&assertion.token(), "")
    };
    for (form, code) in [
        (other(|a| a.expires_on = 1), 700_024),
        (other(|a| a.issuer.push('x')), 700_211),
        (other(|a| a.audience.push('x')), 700_212),
        (other(|a| a.subject.push('x')), 700_213),
        (form("nonsense", ""), 50_027),
        (form("", "&client_secret=wrong"), 7_000_215),
        (form("", ""), 7_000_218),
        (form("", "").replace(".default", ""), 70_011),
        (form("", "").replace(&entra.client_id, "other"), 700_016),
    ] {
        let answer = exchange(&simulator, &entra.tenant, &form);
        assert!([400, 401].contains(&answer.status));
        assert_eq!(answer.json()["error_codes"][0], code, "{form}");
    }
    let answer = exchange(&simulator, "other", &form(&right.token(), ""));
    assert_eq!(answer.json()["error_codes"][0], 90_002);
    simulator
        .imds()
        .set(ImdsBehaviour::aadsts(400, 70_021).times(1));
    let answer = exchange(&simulator, &entra.tenant, &form(&right.token(), ""));
    assert_eq!(answer.json()["error_codes"][0], 70_021);
}
