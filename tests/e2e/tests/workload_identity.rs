//! Tokens of Entra ID, by the token that Kubernetes projects into a pod and by a client secret.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{cases, chat_request, load, simulate, simulate_with, Gateway, GatewayBuilder};
use serde_json::json;
use simulator::{ImdsBehaviour, RecordedRequest, Simulator};
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);

/// A volume with a projected token in the kubelet's form: the file is a link into `..data`, which is a link to a
/// folder.
struct Volume {
    folder: TempDir,
}

impl Volume {
    fn with(content: &str) -> Self {
        let volume = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        volume.write(content);
        symlink("..data/azure-identity-token", volume.file()).unwrap();
        volume
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("azure-identity-token")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Replaces the content as the kubelet does.
    fn write(&self, content: &str) {
        let path = self.folder.path();
        let before = fs::read_link(path.join("..data")).ok();
        let new = tempfile::Builder::new()
            .prefix("..2026_")
            .tempdir_in(path)
            .unwrap()
            .keep();
        fs::write(new.join("azure-identity-token"), content).unwrap();
        symlink(new.file_name().unwrap(), path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(path.join(before)).unwrap();
        }
    }
}

fn builder(azure: &Simulator, volume: &Volume, engine: e2e::Engine) -> GatewayBuilder {
    Gateway::builder()
        .simulator(azure)
        .engine(engine)
        .workload_identity(azure, &volume.file(), &volume.socket())
}

/// An assertion that is accepted for an hour.
fn assertion(azure: &Simulator) -> String {
    azure.imds().assertion(3600).token()
}

fn form(request: &RecordedRequest) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

/// Nothing that Envoy outputs has a part of a token or of these secrets. At `debug` and `trace`, Envoy's own router
/// logs the headers of every request, with the access token for a backend; that line is left out.
fn assert_nothing_secret(azure: &Simulator, gateway: &Gateway, secrets: &[&str]) {
    let mut output = gateway.log();
    assert!(
        output.contains("new access token"),
        "the log is that of the module"
    );
    let is_header = |line: &str| line.starts_with("'authorization', 'Bearer ");
    output = output
        .lines()
        .filter(|line| !is_header(line))
        .collect::<Vec<_>>()
        .join("\n");
    output += &gateway.admin("/config_dump");
    output += &gateway.admin("/stats");
    for entry in gateway.access_log() {
        output += &entry.to_string();
    }
    let tokens = azure.imds().tokens();
    assert!(!tokens.is_empty(), "there were tokens");
    let tokens = tokens.iter().map(String::as_str);
    for secret in tokens.chain(secrets.iter().copied()) {
        for part in secret.split('.').filter(|part| part.len() > 20) {
            assert!(
                !output.contains(part),
                "a part of a secret is in the output"
            );
        }
    }
    for field in ["client_assertion", "client_secret="] {
        assert!(!output.contains(field), "a form is in the output: {field}");
    }
}

cases! {
    fn case_51_one_exchange_of_the_file_serves_all_workers(engine) {
        let azure = simulate(&["east", "west"]);
        let token = assertion(&azure);
        let volume = Volume::with(&format!("{token}\n"));
        let gateway = builder(&azure, &volume, engine).workers(2).start();
        let result = load(&gateway, 16, 200, &chat_request());
        assert_eq!(result.status(200), 200, "{result:?}");
        let requests = azure.imds().requests();
        assert_eq!(requests.len(), 1, "one exchange");
        let request = &requests[0];
        let entra = simulator::EntraSettings::default();
        assert_eq!(request.method, "POST");
        assert_eq!(request.path, format!("/{}/oauth2/v2.0/token", entra.tenant));
        assert_eq!(request.authority, "login.microsoftonline.com");
        assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(
            form(request),
            format!(
                "grant_type=client_credentials&client_id={}&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default\
                 &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &client_assertion={token}",
                entra.client_id
            )
        );
        let mode = fs::metadata(volume.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.identity.seconds_to_expiry").is_some_and(|s| s > 3500),
            3 * SECOND,
            "the expiry to be known",
        );
    }

    fn case_51_a_rotation_of_the_file_loses_no_request(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.imds.token_lifetime = 4 * SECOND;
        });
        let (first, second) = (assertion(&azure), assertion(&azure));
        let volume = Volume::with(&first);
        let gateway = builder(&azure, &volume, engine).workers(2).start();
        let started = Instant::now();
        let mut rotated = None;
        while started.elapsed() < 12 * SECOND {
            if rotated.is_none() && started.elapsed() > 5 * SECOND {
                volume.write(&second);
                rotated = Some(azure.imds().count());
            }
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("x-aoai-attempts"), Some("1"), "no token was ever refused");
            thread::sleep(Duration::from_millis(50));
        }
        let forms: Vec<String> = azure.imds().requests().iter().map(form).collect();
        let with = |token: &str| forms.iter().filter(|form| form.ends_with(token)).count();
        assert!(with(&first) >= 2 && with(&second) >= 2, "{} and {}", with(&first), with(&second));
        assert_eq!(with(&first) + with(&second), forms.len());
        // At most one exchange with the old content was in progress.
        let rotated = usize::try_from(rotated.unwrap()).unwrap();
        assert!(forms[rotated + 1..].iter().all(|form| form.ends_with(&second)));
    }

    fn case_51_an_expired_assertion_is_read_again_at_once(engine) {
        let azure = simulate(&["east"]);
        azure.imds().set(ImdsBehaviour::aadsts(401, 700_024).times(1));
        let volume = Volume::with(&assertion(&azure));
        let gateway = builder(&azure, &volume, engine).start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let times: Vec<f64> = azure.imds().requests().iter().map(|r| r.received_at).collect();
        assert_eq!(times.len(), 2);
        assert!(times[1] - times[0] < 500.0, "{times:?}");
        assert!(!gateway.log().contains("no token"), "{}", gateway.log());
    }

    fn case_51_a_stale_file_is_logged_and_its_renewal_ends_it(engine) {
        let azure = simulate(&["east"]);
        let volume = Volume::with(&azure.imds().assertion(-10).token());
        let gateway = builder(&azure, &volume, engine)
            .plugin(|p| p["identity"]["wait_timeout"] = json!("0s"))
            .start();
        let expected = "identity: no token (AADSTS700024: the token in the file has expired";
        gateway.wait_for(|g| g.log().contains(expected), 5 * SECOND, expected);
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["code"], "identity_unavailable");
        volume.write(&assertion(&azure));
        gateway.wait_for(|g| g.chat(&chat_request()).status == 200, 10 * SECOND, "a token");
    }

    fn case_51_a_missing_credential_is_logged_and_not_hammered(engine) {
        for code in [70_021, 700_213] {
            let azure = simulate(&["east"]);
            azure.imds().set(ImdsBehaviour::aadsts(400, code));
            let volume = Volume::with(&assertion(&azure));
            let gateway = builder(&azure, &volume, engine).workers(2).start();
            gateway.assert_refused_without_token(&azure);
            let log = gateway.log();
            let entra = simulator::EntraSettings::default();
            let expected = format!(
                "AADSTS{code}); application {} needs a federated credential for issuer {}, subject {} and audience \
                 api://AzureADTokenExchange; a new one takes effect after some minutes; next try in 1m",
                entra.client_id, entra.issuer, entra.subject
            );
            assert_eq!(log.matches(&expected).count(), 1, "{log}");
        }
    }

    fn case_51_a_busy_or_unreachable_authority_is_retried(engine) {
        for (behaviour, logged) in [
            (Some(ImdsBehaviour::status_retry_after(429, "2").times(1)), "no token (status 429, simulated); next try in 2s"),
            (Some(ImdsBehaviour::status(503).times(1)), "no token (status 503, simulated); next try in 1s"),
            (None, "check that cluster \"entra_id\" reaches \"login.microsoftonline.com\"); next try in 1s"),
        ] {
            let azure = simulate(&["east"]);
            match behaviour {
                Some(behaviour) => azure.imds().set(behaviour),
                None => azure.imds().stop(),
            }
            let volume = Volume::with(&assertion(&azure));
            let gateway = builder(&azure, &volume, engine).start();
            gateway.wait_for(|g| g.log().contains(logged), 5 * SECOND, logged);
            azure.imds().restart().unwrap_or_default();
            gateway.wait_for(|g| g.chat(&chat_request()).status == 200, 10 * SECOND, "service to resume");
        }
    }

    fn case_51_an_empty_file_is_logged_and_its_content_ends_it(engine) {
        let azure = simulate(&["east"]);
        let volume = Volume::with("");
        let gateway = builder(&azure, &volume, engine).start();
        let expected = "no token (the token file is empty; check the projected volume";
        gateway.wait_for(|g| g.log().contains(expected), 5 * SECOND, expected);
        assert_eq!(azure.imds().count(), 0, "nothing was exchanged");
        volume.write(&assertion(&azure));
        gateway.wait_for(|g| g.chat(&chat_request()).status == 200, 10 * SECOND, "service to resume");
    }

    fn case_51_a_missing_file_ends_envoy_with_its_name(engine) {
        let azure = simulate(&["east"]);
        let volume = Volume::with("");
        fs::remove_file(volume.file()).unwrap();
        let error = builder(&azure, &volume, engine).try_start().unwrap_err();
        assert!(error.log.contains("azure-identity-token"), "{error}");
    }

    fn case_51_a_missing_token_listener_is_logged(engine) {
        let azure = simulate(&["east"]);
        let volume = Volume::with(&assertion(&azure));
        for (cluster, expected) in [
            ("gone", "no token (the token file cannot be read: status 503 from cluster \"gone\"; check that Envoy has its listener"),
            ("none", "Envoy refused a call to \"none\""),
        ] {
            let gateway = builder(&azure, &volume, engine)
                .plugin(move |p| p["identity"]["token_file_cluster"] = json!(cluster))
                .fleet(|fleet| {
                    let mut gone = fleet.authorities[0].clone();
                    (gone.cluster, gone.port) = ("gone".to_owned(), 1);
                    fleet.authorities.push(gone);
                })
                .start();
            gateway.wait_for(|g| g.log().contains(expected), 5 * SECOND, expected);
            assert_eq!(azure.imds().count(), 0);
        }
    }

    fn case_51_no_secret_is_logged_at_any_level(engine) {
        let azure = simulate_with(&["east"], |settings| {
            settings.imds.token_lifetime = 3 * SECOND;
        });
        let (first, second) = (assertion(&azure), assertion(&azure));
        let volume = Volume::with(&first);
        let gateway = builder(&azure, &volume, engine)
            .workers(2)
            .log_level("trace")
            .envoy_log_level("trace")
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        // The log also has a refusal of the next exchange.
        azure.imds().set(ImdsBehaviour::aadsts(400, 700_213));
        volume.write(&second);
        let refusal = "needs a federated credential";
        gateway.wait_for(|g| g.log().contains(refusal), 10 * SECOND, refusal);
        assert_nothing_secret(&azure, &gateway, &[&first, &second]);
    }

    fn case_51_a_client_secret_is_exchanged_and_never_shown(engine) {
        let azure = simulate(&["east"]);
        let secret = simulator::EntraSettings::default().client_secret;
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .log_level("trace")
            .envoy_log_level("trace")
            .entra_id(&azure, "client_secret")
            .secret("AZURE_CLIENT_SECRET", &secret)
            .start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        assert_nothing_secret(&azure, &gateway, &[&secret]);
        let wrong = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .entra_id(&azure, "client_secret")
            .secret("AZURE_CLIENT_SECRET", "wrong")
            .start();
        let expected = "AADSTS7000215); the client secret is wrong";
        wrong.wait_for(|g| g.log().contains(expected), 5 * SECOND, expected);
    }

    fn case_51_several_identities_have_several_files(engine) {
        let azure = simulate(&["east", "west"]);
        let (first, second) = (assertion(&azure), assertion(&azure));
        let (volume, other) = (Volume::with(&first), Volume::with(&second));
        let (file, socket) = (other.file(), other.socket());
        let gateway = builder(&azure, &volume, engine)
            .plugin(|p| {
                p["identities"] = json!({"other": {
                    "source": "workload_identity", "cluster": "entra_id", "token_file_cluster": "other_file",
                    "resource": "https://cognitiveservices.azure.com/",
                }});
                p["backends"][1]["identity"] = json!("other");
            })
            .fleet(move |fleet| {
                fleet.token_files.push(render::TokenFile {
                    cluster: "other_file".to_owned(),
                    file,
                    socket,
                });
            })
            .start();
        for _ in 0..4 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        let forms: Vec<String> = azure.imds().requests().iter().map(form).collect();
        assert_eq!(forms.len(), 2, "an exchange for each");
        assert!([&first, &second].iter().all(|token| forms.iter().any(|form| form.ends_with(token.as_str()))));
    }
}
