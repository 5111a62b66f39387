//! The fetch of one token: its calls, one after the other, within one time limit.
//!
//! IMDS and App Service take one call. Workload identity takes two, one for the token file and one to Entra ID. If
//! Entra ID reports an expired assertion, both calls are repeated once, because the kubelet may have replaced the file
//! meanwhile.

use core::time::Duration;

use super::claims::{self, Claims};
use super::entra::{self, Application, Refusal};
use super::source::{self, Answer, Failure, Fetched};
use crate::config::{Identity, Proof, Secret, Source};
use crate::prelude::*;
use crate::time::Timestamp;

/// A call of a fetch.
#[derive(Debug)]
pub struct Call {
    /// The Envoy cluster to call.
    pub cluster: String,
    /// The headers, including pseudo-headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body. May be empty.
    pub body: Secret,
    /// The time limit for the answer.
    pub timeout: Duration,
}

/// The step after an answer.
#[derive(Debug)]
pub enum Next {
    /// Another call of this fetch.
    Call(Fetch, Call),
    /// The fetch is over.
    Done(Result<Fetched, Failure>),
}

/// A fetch that waits for the answer to a call.
#[derive(Debug)]
pub struct Fetch {
    deadline: Timestamp,
    step: Step,
    /// Whether the token file was read a second time.
    again: bool,
}

/// The call whose answer the fetch awaits.
#[derive(Debug)]
enum Step {
    /// A call to a machine's token service.
    Machine,
    /// A call to the listener that serves the token file.
    File,
    /// A call to Entra ID, with an assertion that has these claims, or with a client secret.
    Exchange(Option<Claims>),
}

impl Fetch {
    /// Starts a fetch with its first call. All calls together may take the identity's `fetch_timeout`.
    pub fn start(identity: &Identity, now: Timestamp) -> (Self, Call) {
        let mut fetch = Self {
            deadline: now + identity.fetch_timeout,
            step: Step::Machine,
            again: false,
        };
        let call = match (source::request(identity), application(identity)) {
            (None, Some(application)) => match application.proof {
                Proof::TokenFile { cluster } => fetch.read_file(cluster, now),
                Proof::Secret(_) => fetch.exchange(application, None, now),
            },
            (headers, _) => fetch.call(
                &identity.cluster,
                headers.unwrap_or_default(),
                Secret::new(String::new()),
                now,
            ),
        };
        (fetch, call)
    }

    /// Handles the answer to the fetch's last call.
    pub fn on_answer(mut self, identity: &Identity, answer: Answer<'_>, now: Timestamp) -> Next {
        let Some(application) = application(identity) else {
            return Next::Done(source::read_answer(answer, now));
        };
        match (&self.step, application.proof) {
            (Step::File, Proof::TokenFile { cluster }) => match entra::read_file(cluster, answer) {
                Ok(_) if self.deadline <= now => Next::Done(Err(Failure::no_answer())),
                Ok(assertion) => {
                    let call = self.exchange(application, Some(assertion), now);
                    Next::Call(self, call)
                }
                Err(failure) => Next::Done(Err(failure)),
            },
            (Step::Exchange(assertion), proof) => {
                match entra::read_answer(application, assertion.as_ref(), answer, now) {
                    Ok(fetched) => Next::Done(Ok(fetched)),
                    Err(Refusal::Failure(failure)) => Next::Done(Err(failure)),
                    Err(Refusal::Expired) => match proof {
                        Proof::TokenFile { cluster } if !self.again && now < self.deadline => {
                            self.again = true;
                            let call = self.read_file(cluster, now);
                            Next::Call(self, call)
                        }
                        _ => Next::Done(Err(entra::still_expired())),
                    },
                }
            }
            _ => Next::Done(Err(Failure::no_answer())),
        }
    }

    /// The failure of a fetch whose call Envoy refused with `error`.
    #[inline(never)]
    pub fn refused(identity: &Identity, cluster: &str, error: &str) -> Failure {
        let field = match cluster == identity.cluster {
            true => "cluster",
            false => "token_file_cluster",
        };
        Failure::Misconfigured {
            reason: format!("Envoy refused a call to {cluster:?}: {error}"),
            advice: Some(format!(
                "set the name of an existing Envoy cluster in `{}.{field}`",
                identity.label()
            )),
        }
    }

    fn read_file(&mut self, cluster: &str, now: Timestamp) -> Call {
        self.step = Step::File;
        let headers = vec![
            (":method", "GET".to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", "token-file".to_owned()),
            (":path", "/".to_owned()),
        ];
        self.call(cluster, headers, Secret::new(String::new()), now)
    }

    fn exchange(
        &mut self,
        application: Application<'_>,
        assertion: Option<&str>,
        now: Timestamp,
    ) -> Call {
        // An assertion that is not a JSON web token is sent anyway, because Entra ID has to judge it.
        self.step = Step::Exchange(assertion.map(|text| claims::read(text).unwrap_or_default()));
        self.call(
            &application.identity.cluster,
            entra::headers(application),
            entra::form(application, assertion),
            now,
        )
    }

    fn call(
        &self,
        cluster: &str,
        headers: Vec<(&'static str, String)>,
        body: Secret,
        now: Timestamp,
    ) -> Call {
        Call {
            cluster: cluster.to_owned(),
            headers,
            body,
            timeout: self.deadline.since(now),
        }
    }
}

/// The identity's application, if its tokens come from Entra ID.
fn application(identity: &Identity) -> Option<Application<'_>> {
    match &identity.source {
        Source::Entra {
            authority,
            tenant,
            client_id,
            proof,
        } => Some(Application {
            identity,
            authority,
            tenant,
            client_id,
            proof,
        }),
        Source::Imds { .. } | Source::AppService { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use base64::Engine;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    const TOKEN: &[u8] = br#"{"token_type":"Bearer","expires_in":3599,"access_token":"abc"}"#;

    fn identity(proof: Proof) -> Identity {
        Identity {
            name: None,
            source: Source::Entra {
                authority: "login.microsoftonline.com".into(),
                tenant: "tenant-1".into(),
                client_id: "client-1".into(),
                proof,
            },
            cluster: "entra_id".into(),
            resource: "https://cognitiveservices.azure.com".into(),
            wait_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(5),
        }
    }

    fn workload() -> Identity {
        identity(Proof::TokenFile {
            cluster: "token_file".into(),
        })
    }

    fn assertion() -> String {
        let claims = r#"{"aud":["api://AzureADTokenExchange"],"iss":"https://oidc.example/","sub":"system:serviceaccount:a:b"}"#;
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn answer(status: u16, body: &[u8]) -> Answer<'_> {
        Answer {
            status: Some(status),
            retry_after: None,
            body,
        }
    }

    fn refusal(code: u64) -> String {
        format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS{code}: it was {} at 12:00","error_codes":[{code}]}}"#,
            assertion()
        )
    }

    fn header<'c>(call: &'c Call, name: &str) -> &'c str {
        let found = call.headers.iter().find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    }

    fn call(next: Next) -> (Fetch, Call) {
        match next {
            Next::Call(fetch, call) => (fetch, call),
            Next::Done(result) => panic!("{result:?}"),
        }
    }

    fn failure(next: Next) -> Failure {
        match next {
            Next::Done(result) => result.unwrap_err(),
            Next::Call(_, call) => panic!("{call:?}"),
        }
    }

    /// The request to Entra ID after the file was read.
    fn exchange(identity: &Identity, now: Timestamp) -> (Fetch, Call) {
        let (fetch, _) = Fetch::start(identity, now);
        call(fetch.on_answer(identity, answer(200, assertion().as_bytes()), now))
    }

    /// The failure of a request to Entra ID with this answer.
    fn refused(identity: &Identity, status: u16, body: &str) -> Failure {
        let (fetch, _) = exchange(identity, NOW);
        failure(fetch.on_answer(identity, answer(status, body.as_bytes()), NOW))
    }

    #[test]
    fn the_file_is_read_and_exchanged_within_one_limit() {
        let identity = workload();
        let (fetch, first) = Fetch::start(&identity, NOW);
        assert_eq!(first.cluster, "token_file");
        assert_eq!(header(&first, ":method"), "GET");
        assert_eq!(first.body.reveal(), "");
        assert_eq!(first.timeout, Duration::from_secs(5));
        let later = NOW + Duration::from_secs(2);
        let file = format!("{}\r\n", assertion());
        let (fetch, second) = call(fetch.on_answer(&identity, answer(200, file.as_bytes()), later));
        assert_eq!(second.cluster, "entra_id");
        assert_eq!(header(&second, ":method"), "POST");
        assert_eq!(header(&second, ":authority"), "login.microsoftonline.com");
        assert_eq!(header(&second, ":path"), "/tenant-1/oauth2/v2.0/token");
        assert_eq!(second.timeout, Duration::from_secs(3));
        assert_eq!(
            second.body.reveal(),
            format!(
                "grant_type=client_credentials&client_id=client-1\
                 &scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default\
                 &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &client_assertion={}",
                assertion()
            )
        );
        assert!(!format!("{second:?}").contains("client_assertion"));
        let Next::Done(Ok(fetched)) = fetch.on_answer(&identity, answer(200, TOKEN), later) else {
            panic!("no token");
        };
        assert_eq!(fetched.token.reveal(), "abc");
        assert_eq!(fetched.expires_on, later + Duration::from_secs(3599));
    }

    #[test]
    fn a_client_secret_takes_one_call() {
        let identity = identity(Proof::Secret(Secret::new("a+b~c".into())));
        let (fetch, only) = Fetch::start(&identity, NOW);
        assert_eq!(only.cluster, "entra_id");
        assert!(only
            .body
            .reveal()
            .ends_with("%2F.default&client_secret=a%2Bb~c"));
        let next = fetch.on_answer(&identity, answer(200, TOKEN), NOW);
        assert!(matches!(next, Next::Done(Ok(_))));
    }

    #[test]
    fn the_audience_may_end_in_a_slash() {
        let mut identity = workload();
        identity.resource = "https://ai.azure.com/".into();
        let (_, call) = exchange(&identity, NOW);
        assert!(call
            .body
            .reveal()
            .contains("scope=https%3A%2F%2Fai.azure.com%2F.default&"));
    }

    #[test]
    fn an_expired_assertion_is_read_again_once() {
        let identity = workload();
        let (fetch, _) = exchange(&identity, NOW);
        let expired = refusal(700_024);
        let (fetch, again) = call(fetch.on_answer(&identity, answer(401, expired.as_bytes()), NOW));
        assert_eq!(again.cluster, "token_file");
        let (fetch, second) =
            call(fetch.on_answer(&identity, answer(200, assertion().as_bytes()), NOW));
        assert_eq!(second.cluster, "entra_id");
        let failure = failure(fetch.on_answer(&identity, answer(401, expired.as_bytes()), NOW));
        assert!(!failure.is_permanent());
        assert!(failure
            .text("identity")
            .contains("AADSTS700024: the token in the file has expired"));
    }

    #[test]
    fn no_call_follows_the_time_limit() {
        let identity = workload();
        let (fetch, _) = Fetch::start(&identity, NOW);
        let late = NOW + Duration::from_secs(5);
        let next = fetch.on_answer(&identity, answer(200, assertion().as_bytes()), late);
        assert_eq!(failure(next), Failure::no_answer());
        let (fetch, _) = exchange(&identity, NOW);
        let expired = refusal(700_024);
        let next = fetch.on_answer(&identity, answer(401, expired.as_bytes()), late);
        assert!(!failure(next).is_permanent());
    }

    #[test]
    fn every_failure_of_the_file_is_reported() {
        let identity = workload();
        let long = vec![b'a'; 40_000];
        for (status, body, reason) in [
            (Some(200), &b"\n"[..], "the token file is empty"),
            (
                Some(200),
                b"two words",
                "the token file does not contain a token",
            ),
            (
                Some(200),
                b"\xff\xfe",
                "the token file does not contain a token",
            ),
            (Some(200), &long, "the token file does not contain a token"),
            (
                Some(503),
                b"reset",
                "the token file cannot be read: status 503 from cluster \"token_file\"",
            ),
            (Some(404), b"", "the token file cannot be read: status 404"),
            (None, b"", "the token file cannot be read: no answer"),
        ] {
            let (fetch, _) = Fetch::start(&identity, NOW);
            let answer = Answer {
                status,
                retry_after: None,
                body,
            };
            let failure = failure(fetch.on_answer(&identity, answer, NOW));
            assert!(!failure.is_permanent(), "{failure:?}");
            let text = failure.text("identity");
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn every_code_of_entra_has_advice() {
        for (code, advice) in [
            (70_021, "needs a federated credential for issuer https://oidc.example/, subject system:serviceaccount:a:b and audience api://AzureADTokenExchange"),
            (700_211, "needs a federated credential for issuer"),
            (700_213, "application client-1 needs a federated credential"),
            (7_000_215, "the client secret is wrong"),
            (7_000_222, "the client secret has expired"),
            (90_002, "login.microsoftonline.com has no tenant tenant-1; check `tenant_id`"),
            (700_016, "tenant tenant-1 has no application client-1; check `client_id`"),
            (500_011, "tenant tenant-1 has no resource https://cognitiveservices.azure.com"),
            (50_001, "https://login.microsoftonline.com/error?code=50001 explains the code"),
        ] {
            let failure = refused(&workload(), 400, &refusal(code));
            assert!(failure.is_permanent(), "{failure:?}");
            let text = failure.text("identity");
            assert!(text.contains(advice), "{text}");
            assert!(text.contains(&format!("status 400, invalid_client, AADSTS{code}")), "{text}");
            assert!(!text.contains("12:00"), "a description changes each time: {text}");
            assert!(!text.contains(&assertion()), "{text}");
        }
    }

    #[test]
    fn a_404_of_entra_is_permanent_and_a_5xx_is_not() {
        let failure = refused(&workload(), 404, "<html>");
        assert!(failure.is_permanent());
        assert!(failure
            .text("identity")
            .contains("(status 404); check `tenant_id`, `authority_host`"));
        for status in [408, 429, 500, 503] {
            let failure = refused(
                &workload(),
                status,
                r#"{"error":"temporarily_unavailable"}"#,
            );
            assert_eq!(
                failure,
                Failure::Transient {
                    reason: format!("status {status}, temporarily_unavailable"),
                    retry_after: None
                }
            );
        }
        let unreachable = refused(&workload(), 503, "upstream connect error");
        assert!(unreachable
            .text("identity")
            .contains("check that cluster \"entra_id\" reaches \"login.microsoftonline.com\""));
    }

    #[test]
    fn retry_after_of_entra_is_obeyed() {
        let identity = workload();
        let (fetch, _) = exchange(&identity, NOW);
        let answer = Answer {
            status: Some(429),
            retry_after: Some("7"),
            body: b"{}",
        };
        let next = fetch.on_answer(&identity, answer, NOW);
        assert!(matches!(
            failure(next),
            Failure::Transient { retry_after: Some(wait), .. } if wait == Duration::from_secs(7)
        ));
    }

    #[test]
    fn a_machines_token_service_takes_one_call() {
        let mut identity = workload();
        identity.source = Source::Imds { selector: None };
        let (fetch, only) = Fetch::start(&identity, NOW);
        assert_eq!(only.cluster, "entra_id");
        assert_eq!(header(&only, ":authority"), "169.254.169.254");
        let next = fetch.on_answer(&identity, answer(200, TOKEN), NOW);
        assert!(matches!(next, Next::Done(Ok(_))));
    }

    #[test]
    fn a_call_that_envoy_refuses_names_the_field() {
        for (cluster, field) in [
            ("entra_id", "`identity.cluster`"),
            ("token_file", "`identity.token_file_cluster`"),
        ] {
            let text = Fetch::refused(&workload(), cluster, "no").text("identity");
            assert!(text.contains(field), "{text}");
        }
    }
}
