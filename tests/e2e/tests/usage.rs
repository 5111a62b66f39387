//! Tokens of answers, by backend and by client.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::{cases, chat_request, east_and_west, simulate, simulate_with, Ending, Gateway, Response};
use render::Key;
use serde_json::{json, Value};
use simulator::{Account, Behaviour, ContentFilter, Stream};

/// The longest wait for the module's report, which comes once a second.
const LIMIT: Duration = Duration::from_secs(5);

const CLIENTS: [(&str, &str); 2] = [("app-1", "CLIENT-KEY-ONE"), ("app-2", "CLIENT-KEY-TWO")];

/// The tokens that one answer reported: prompt and completion.
type Reported = [i64; 2];

/// The tokens of prompt and completion that an answer reports.
fn reported(answer: &Response) -> Reported {
    let text = answer.text();
    let documents = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let documents = documents.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let usages = documents.flat_map(|it| {
        let holders = [&it, &it["response"], &it["message"]];
        holders.map(|holder| holder["usage"].clone())
    });
    let usages: Vec<Value> = usages.filter(Value::is_object).collect();
    assert!(!usages.is_empty(), "no usage in {text}");
    // The last event that has the tokens: Anthropic's streams report the prompt at their beginning.
    let last = |names: &[&str]| {
        let mut all = usages.iter().rev();
        all.find_map(|usage| names.iter().find_map(|name| usage[*name].as_i64()))
    };
    let beside = ["cache_read_input_tokens", "cache_creation_input_tokens"];
    let beside: i64 = beside.iter().filter_map(|name| last(&[name])).sum();
    [
        last(&["prompt_tokens", "input_tokens"]).expect("a prompt") + beside,
        last(&["completion_tokens", "output_tokens"]).unwrap_or_default(),
    ]
}

/// A request of one kind.
struct Asked {
    path: String,
    body: Value,
    /// The requested deployment.
    deployment: &'static str,
}

/// The requests of one round, one of each kind.
fn requests(round: usize) -> Vec<Asked> {
    let asked = |path: &str, body: Value, deployment| Asked {
        path: path.to_owned(),
        body,
        deployment,
    };
    let chat = |stream: bool, deployment: &'static str, is_dated: bool| {
        let chat = chat_request().deployment(deployment).padded(round * 10);
        let mut chat = if is_dated { chat } else { chat.v1() };
        if stream {
            chat = chat.streaming();
            chat.body["stream_options"] = json!({"include_usage": true});
        }
        asked(&chat.path, chat.body, deployment)
    };
    let response = |stream: bool| {
        let body = json!({"model": "gpt-4o", "input": "x".repeat(round), "stream": stream});
        asked("/openai/v1/responses", body, "gpt-4o")
    };
    let message = |stream: bool| {
        let messages = json!([{"role": "user", "content": "x".repeat(round)}]);
        let body =
            json!({"model": "claude", "max_tokens": 9, "stream": stream, "messages": messages});
        asked("/anthropic/v1/messages", body, "claude")
    };
    let embedding = json!({"model": "embed", "input": ["a", "b"]});
    let image = json!({"model": "gpt-image-1", "prompt": "x".repeat(round)});
    vec![
        chat(false, "gpt-4o", true),
        chat(true, "gpt-4o", true),
        chat(false, "gpt-4o-mini", false),
        chat(true, "gpt-4o-mini", false),
        response(false),
        response(true),
        message(false),
        message(true),
        asked("/openai/v1/embeddings", embedding, "embed"),
        asked("/openai/v1/images/generations", image, "gpt-image-1"),
    ]
}

/// The clients of a test, and their gateway.
struct Clients<'a> {
    gateway: &'a Gateway,
}

impl Clients<'_> {
    /// Begins a client's request. The simulator adds its tokens to this account.
    fn begin(&self, asked: &Asked, client: usize, account: &str) -> e2e::Stream {
        let headers = [
            ("content-type", "application/json"),
            ("anthropic-version", "2023-06-01"),
            ("api-key", CLIENTS[client].1),
            ("x-sim-account", account),
        ];
        let body = asked.body.to_string();
        let stream = self
            .gateway
            .client()
            .stream("POST", &asked.path, &headers, body.as_bytes());
        stream.expect("an answer")
    }

    /// Sends a client's request, and reads the answer to its end.
    fn send(&self, asked: &Asked, client: usize) -> Reported {
        let account = format!("{} {}", CLIENTS[client].0, asked.deployment);
        let answer = self.begin(asked, client, &account).read_to_end();
        assert_eq!(answer.status, 200, "{}: {}", asked.path, answer.text());
        reported(&answer)
    }
}

/// The account of answers that break off before they report any tokens.
const CUT: &str = "cut";

cases! {
    fn case_47_tokens_are_exact_over_1000_mixed_requests(engine) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        let keys = CLIENTS.map(|(client, key)| Key { client: client.into(), key: key.into() });
        std::fs::write(&file, render::keys_file("x-aoai-client", &keys)).expect("write the keys");
        let azure = simulate_with(&["east", "west"], |settings| {
            for backend in &mut settings.backends {
                backend.host = format!("{}.services.ai.azure.com", backend.name);
            }
            // Events without tokens follow the tokens of its chats.
            settings.backends[1].content_filter = ContentFilter::Asynchronous;
        });
        let paced = |interval_ms, break_after| {
            let stream = Stream { events: 4, interval_ms, break_after, ..Stream::default() };
            azure.backends().iter().for_each(|backend| backend.set(Behaviour::stream(stream.clone())));
        };
        azure.backends().iter().for_each(|backend| backend.open_accounts());
        let gateway = Gateway::builder()
            .fleet(move |fleet| fleet.clients = render::Clients::Keys { file })
            // With `deployments`, the filter reads the names in bodies.
            .plugin(|p| {
                p["backends"][1]["deployments"] = json!({"gpt-4o": "chat-eu"});
                p["identity"]["resource"] = json!("https://cognitiveservices.azure.com");
            })
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .start();
        let clients = Clients { gateway: &gateway };

        // 960 requests that run to their end, some after a retry.
        paced(1, None);
        let mut reports: [Vec<Reported>; CLIENTS.len()] = Default::default();
        for part in e2e::parallel(4, |thread| {
            let mut reports: [Vec<Reported>; CLIENTS.len()] = Default::default();
            for round in 0..24 {
                // A seldom event: each 429 throttles a deployment of this backend for a second or more, and the test
                // takes only a few seconds.
                if thread == 0 && round % 6 == 0 {
                    let failures = [Behaviour::status(500), Behaviour::throttled(1)];
                    azure.backend("east").queue(failures.to_vec());
                }
                for (index, asked) in requests(round).iter().enumerate() {
                    let client = (thread + round + index) % CLIENTS.len();
                    reports[client].push(clients.send(asked, client));
                }
            }
            reports
        }) {
            reports.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
        }
        azure.backend("east").queue(Vec::new());
        // 40 requests that do not: broken off before and after the tokens, and left by the client.
        let chat = &requests(0)[1];
        paced(1, Some(5));
        for _ in 0..14 {
            let broken = clients.begin(chat, 0, CUT).read_to_end();
            assert!(matches!(broken.ending, Ending::Cut(_)), "{}", broken.text());
        }
        paced(1, Some(8));
        for _ in 0..14 {
            let broken = clients.begin(chat, 1, "app-2 gpt-4o").read_to_end();
            assert!(matches!(broken.ending, Ending::Cut(_)), "{}", broken.text());
            reports[1].push(reported(&broken));
        }
        let broken_late = 14;
        paced(200, None);
        for _ in 0..12 {
            let mut left = clients.begin(chat, 0, CUT);
            for chunk in left.by_ref() {
                if String::from_utf8_lossy(&chunk.bytes).contains("Hello") {
                    break;
                }
            }
            left.disconnect();
        }

        let counted = |name: &str, expected: u64| {
            let expected = i64::try_from(expected).expect("few tokens");
            let stat = format!("wasmcustom.aoai.{name}");
            gateway.wait_for(|g| g.stat(&stat).unwrap_or_default() == expected, LIMIT, &format!("{stat} to be {expected}"));
        };
        let kinds = |account: &Account| {
            let Account { prompt, completion, cached, reasoning } = *account;
            [("prompt", prompt), ("completion", completion), ("cached", cached), ("reasoning", reasoning)]
        };
        let mut by_client: BTreeMap<String, Account> = BTreeMap::new();
        for name in ["east", "west"] {
            let mut accounts = azure.backend(name).accounts();
            assert!(accounts.remove(CUT).is_some(), "none was cut on {name}");
            let mut by_deployment: BTreeMap<String, Account> = BTreeMap::new();
            let mut all = Account::default();
            for (account, sums) in accounts {
                let (client, deployment) = account.split_once(' ').expect("client and deployment");
                *by_client.entry(client.to_owned()).or_default() += sums;
                *by_deployment.entry(deployment.to_owned()).or_default() += sums;
                all += sums;
            }
            for (kind, tokens) in kinds(&all) {
                assert!(tokens > 0, "{name}: {kind}");
                counted(&format!("backend.{name}.tokens.{kind}"), tokens);
            }
            assert_eq!(by_deployment.len(), 5, "{by_deployment:?}");
            for (deployment, sums) in by_deployment {
                for (kind, tokens) in kinds(&sums) {
                    counted(&format!("backend.{name}.deployment.{deployment}.tokens.{kind}"), tokens);
                }
            }
        }
        for ((client, _), reports) in CLIENTS.into_iter().zip(&reports) {
            let account = &by_client[client];
            for (kind, tokens) in kinds(account) {
                counted(&format!("client.{client}.tokens.{kind}"), tokens);
            }
            // The clients saw the same tokens.
            let saw = |place: usize| reports.iter().map(|tokens| tokens[place]).sum::<i64>();
            assert_eq!([saw(0), saw(1)].map(i64::unsigned_abs), [account.prompt, account.completion]);
        }
        counted("usage.cut", 14 + 12);
        counted("usage.unknown", 0);
        assert!(gateway.stat("wasmcustom.aoai.backend.west.retries") > Some(0));

        gateway.wait_for(|g| g.access_log().len() == 1000, LIMIT, "the access log");
        let mut logged: [Vec<Reported>; CLIENTS.len()] = Default::default();
        let mut without = 0;
        for line in gateway.access_log() {
            let client = CLIENTS.iter().position(|(name, _)| line["client"] == *name).expect("a client");
            let tokens = |kind: &str| {
                let tokens = line[format!("gen_ai.usage.{kind}_tokens")].as_str();
                tokens.map(|tokens| tokens.parse().expect("a number"))
            };
            match (tokens("input"), tokens("output")) {
                (None, None) => without += 1,
                (input, output) => logged[client].push([input.unwrap_or_default(), output.unwrap_or_default()]),
            }
        }
        // A broken answer has no tokens in its line of the access log, even if it had reported them.
        assert_eq!(without, 14 + broken_late + 12);
        let kept = reports[1].len() - broken_late;
        reports[1].truncate(kept);
        for (logged, reports) in logged.iter_mut().zip(&mut reports) {
            logged.sort_unstable();
            reports.sort_unstable();
            assert_eq!(logged, reports);
        }

        let prometheus = gateway.admin("/stats/prometheus");
        for line in [
            format!("aoai_client_tokens_prompt{{aoai_client=\"app-1\"}} {}", by_client["app-1"].prompt),
            format!("aoai_backend_tokens_completion{{aoai_backend=\"east\"}} {}", {
                let mut accounts = azure.backend("east").accounts();
                accounts.remove(CUT);
                accounts.values().map(|account| account.completion).sum::<u64>()
            }),
        ] {
            assert!(prometheus.lines().any(|found| found == line), "{line} is not in {prometheus}");
        }
        let labels = "aoai_backend_deployment_tokens_prompt{aoai_backend=\"west\",aoai_deployment=\"claude\"} ";
        assert!(prometheus.contains(labels), "{labels} is not in {prometheus}");
    }

    fn case_48_unasked_streams_are_counted_and_unchanged(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[1].content_filter = ContentFilter::Asynchronous;
        });
        let stream = Stream { events: 20, interval_ms: 2, split_frames: true, ..Stream::default() };
        azure.backends().iter().for_each(|backend| backend.set(Behaviour::stream(stream.clone())));
        azure.backends().iter().for_each(|backend| backend.open_accounts());
        let builder = || Gateway::builder().simulator(&azure).engine(engine);
        let asked = builder().start();
        let always = builder().plugin(|p| p["usage"] = json!({"streams": "always"})).start();
        // Except the numbers of the simulator.
        let unnumbered = |answer: Response| {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let text = answer.text().to_owned();
            let numbered = text.split("\n\n").nth(1).expect("a second event").trim_start_matches("data: ");
            let numbered: Value = serde_json::from_str(numbered).expect("JSON");
            let [id, created] = ["id", "created"].map(|key| format!("\"{key}\":{}", numbered[key]));
            let is_east = text.contains("from east");
            (is_east, text.replace(&id, "ID").replace(&created, "CREATED"))
        };
        for chat in [chat_request().streaming(), chat_request().streaming().v1()] {
            let expected = [asked.chat(&chat), asked.chat(&chat)].map(unnumbered);
            assert_ne!(expected[0].0, expected[1].0);
            for (is_east, text) in &expected {
                assert!(!text.contains("usage"), "{text}");
                assert_ne!(text.contains("content_filter_offsets"), *is_east, "{text}");
            }
            for round in 0..4 {
                if round == 2 {
                    azure.backend("east").queue(vec![Behaviour::status(500)]);
                }
                let answer = unnumbered(always.chat(&chat));
                assert!(expected.contains(&answer), "{answer:?}");
            }
        }
        let reported = azure.backends().iter().map(|backend| backend.account().completion).sum::<u64>();
        assert_eq!(reported, 8 * 20);
        let counted = |g: &Gateway| {
            let of = |name: &str| g.stat(&format!("wasmcustom.aoai.backend.{name}.tokens.completion"));
            of("east").unwrap_or_default() + of("west").unwrap_or_default()
        };
        always.wait_for(|g| counted(g) == 8 * 20, LIMIT, "the tokens of eight streams");
        assert_eq!(always.stat("wasmcustom.aoai.usage.unknown"), Some(0));
        always.wait_for(|g| g.access_log().len() == 8, LIMIT, "the access log");
        for line in always.access_log() {
            assert_eq!(line["gen_ai.usage.output_tokens"], "20", "{line}");
        }
    }

    fn a_model_that_refuses_the_option_is_served_without_it(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["usage"] = json!({"streams": "always"}))
            .start();
        let mut mistral = chat_request().streaming().v1();
        mistral.body["model"] = "mistral-large".into();
        for _ in 0..6 {
            let answer = gateway.chat(&mistral);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
        }
        // Each of two workers learns it of each backend at most once.
        let answers = azure.backends().iter().flat_map(|backend| backend.requests());
        let refused = answers.filter(|it| it.status == Some(422)).count();
        assert!((1..=4).contains(&refused), "{refused}");
        gateway.wait_for(|g| g.stat("wasmcustom.aoai.usage.refused") == Some(refused as i64), LIMIT, "the count of refusals");
        // Other deployments still get the option.
        assert_eq!(gateway.chat(&chat_request().streaming().v1()).status, 200);
        let counted = |g: &Gateway| {
            let of = |name: &str| g.stat(&format!("wasmcustom.aoai.backend.{name}.tokens.completion")).unwrap_or_default();
            of("east") + of("west")
        };
        gateway.wait_for(|g| counted(g) > 0, LIMIT, "the tokens of the last stream");
    }

    fn an_api_version_without_the_option_does_not_get_it(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["usage"] = json!({"streams": "always"}))
            .start();
        let mut chat = chat_request().streaming();
        chat.path = chat.path.replace("2024-10-21", "2024-06-01");
        let answer = gateway.chat(&chat);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn answers_without_tokens_are_counted_as_unknown(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        // The client does not request the tokens.
        assert_eq!(gateway.chat(&chat_request().streaming()).status, 200);
        gateway.wait_for(|g| g.stat("wasmcustom.aoai.usage.unknown") == Some(1), LIMIT, "the count of the unknown");
        gateway.wait_for(|g| g.access_log().len() == 1, LIMIT, "the access log");
        assert_eq!(gateway.access_log()[0]["gen_ai.usage.input_tokens"], Value::Null);
    }
}
