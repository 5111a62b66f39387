//! The tokens of answers, by backend and by client.

use std::time::Duration;

use e2e::{cases, chat_request, simulate, Gateway, Response};
use render::{Clients, Key};
use serde_json::{json, Value};
use simulator::{Account, Behaviour, Stream};

/// The module hands its counts over once a second.
const LIMIT: Duration = Duration::from_secs(5);

const CLIENTS: [(&str, &str); 2] = [("app-1", "CLIENT-KEY-ONE"), ("app-2", "CLIENT-KEY-TWO")];

/// The tokens of prompt and completion that an answer reports.
fn reported(answer: &Response) -> [i64; 2] {
    let text = answer.text();
    let documents = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let documents = documents.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut usages =
        documents.flat_map(|it| [it["usage"].clone(), it["response"]["usage"].clone()]);
    let usage = usages.rfind(Value::is_object);
    let usage = usage.unwrap_or_else(|| panic!("no usage in {text}"));
    let number = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_i64());
    [
        number(["prompt_tokens", "input_tokens"]).expect("a prompt"),
        number(["completion_tokens", "output_tokens"]).unwrap_or_default(),
    ]
}

/// The kinds of requests: path and body.
fn requests(round: usize) -> Vec<(String, Value)> {
    let chat = |stream: bool| {
        let chat = match stream {
            true => chat_request().streaming(),
            false => chat_request(),
        };
        let mut chat = chat.padded(round * 100);
        if stream {
            chat.body["stream_options"] = json!({"include_usage": true});
        }
        (chat.path, chat.body)
    };
    let response = |stream: bool| {
        let body = json!({"model": "gpt-4o", "input": "x".repeat(round), "stream": stream});
        ("/openai/v1/responses".to_owned(), body)
    };
    let embedding = json!({"model": "gpt-4o", "input": ["a", "b"]});
    let embedding = ("/openai/v1/embeddings".to_owned(), embedding);
    let first_streams = round & 1 == 0;
    vec![
        chat(first_streams),
        chat(!first_streams),
        response(false),
        response(true),
        embedding,
    ]
}

cases! {
    fn case_47_counted_tokens_are_those_that_were_reported(engine) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        let keys = CLIENTS.map(|(client, key)| Key { client: client.into(), key: key.into() });
        std::fs::write(&file, render::keys_file("x-aoai-client", &keys)).expect("write the keys");
        let azure = simulate(&["east", "west"]);
        for backend in azure.backends() {
            backend.open_account();
            backend.set(Behaviour::stream(Stream { events: 4, interval_ms: 2, ..Stream::default() }));
        }
        let gateway = Gateway::builder()
            .fleet(move |fleet| fleet.clients = Clients::Keys { file })
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .start();

        let mut told = [[0_i64; 2]; CLIENTS.len()];
        let mut asked = 0;
        for round in 0..12 {
            if round % 3 == 1 {
                azure.backend("east").queue(vec![Behaviour::throttled(1)]);
            }
            for (index, (path, body)) in requests(round).into_iter().enumerate() {
                let client = (round + index) % CLIENTS.len();
                let headers = [("content-type", "application/json"), ("api-key", CLIENTS[client].1)];
                let answer = gateway.client().send("POST", &path, &headers, body.to_string().as_bytes());
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                for (sum, tokens) in told[client].iter_mut().zip(reported(&answer)) {
                    *sum += tokens;
                }
                asked += 1;
            }
        }

        let account = |name: &str| {
            let Account { prompt, completion, cached, reasoning } = azure.backend(name).account();
            [("prompt", prompt), ("completion", completion), ("cached", cached), ("reasoning", reasoning)]
        };
        for name in ["east", "west"] {
            for (kind, tokens) in account(name) {
                let tokens = i64::try_from(tokens).expect("few tokens");
                assert!(tokens > 0, "{name}: {kind}");
                let stat = format!("wasmcustom.aoai.backend.{name}.tokens.{kind}");
                gateway.wait_for(|g| g.stat(&stat) == Some(tokens), LIMIT, &format!("{stat} to be {tokens}"));
            }
        }
        assert!(gateway.stat("wasmcustom.aoai.backend.west.retries") > Some(0));
        assert_eq!(gateway.stat("wasmcustom.aoai.usage.unknown"), Some(0));
        for ((client, _), told) in CLIENTS.into_iter().zip(told) {
            for (kind, tokens) in ["prompt", "completion"].into_iter().zip(told) {
                let stat = format!("wasmcustom.aoai.client.{client}.tokens.{kind}");
                gateway.wait_for(|g| g.stat(&stat) == Some(tokens), LIMIT, &format!("{stat} to be {tokens}"));
            }
        }

        gateway.wait_for(|g| g.access_log().len() == asked, LIMIT, "the access log");
        let mut logged = [[0_i64; 2]; CLIENTS.len()];
        for line in gateway.access_log() {
            let client = CLIENTS.iter().position(|(name, _)| line["client"] == *name).expect("a client");
            for (sum, kind) in logged[client].iter_mut().zip(["input", "output"]) {
                let tokens = &line[format!("gen_ai.usage.{kind}_tokens")];
                *sum += tokens.as_str().map_or(0, |tokens| tokens.parse().expect("a number"));
            }
        }
        assert_eq!(logged, told);
        let prometheus = gateway.admin("/stats/prometheus");
        for line in [
            format!("aoai_client_tokens_prompt{{aoai_client=\"app-1\"}} {}", told[0][0]),
            format!("aoai_backend_tokens_completion{{aoai_backend=\"east\"}} {}", account("east")[1].1),
        ] {
            assert!(prometheus.lines().any(|found| found == line), "{line} is not in {prometheus}");
        }
    }

    fn what_reports_no_tokens_is_counted_apart(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        // Its client does not ask for the tokens.
        assert_eq!(gateway.chat(&chat_request().streaming()).status, 200);
        gateway.wait_for(|g| g.stat("wasmcustom.aoai.usage.unknown") == Some(1), LIMIT, "the count of the unknown");
        gateway.wait_for(|g| g.access_log().len() == 1, LIMIT, "the access log");
        assert_eq!(gateway.access_log()[0]["gen_ai.usage.input_tokens"], Value::Null);
    }
}
