//! The openai Python SDK as a client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use e2e::{cases, east_and_west, simulate, uneven, Gateway};
use simulator::Behaviour;

/// Runs `script` with the SDKs and a client of each kind, `client` for Azure and `v1`. Returns the script's output.
pub(crate) fn python(gateway: &Gateway, script: &str) -> String {
    python_at(gateway.address(), script)
}

fn python_at(address: SocketAddr, script: &str) -> String {
    run(address, script, variable("AOAI_PYTHONPATH"))
}

/// Runs `script` with the newest major version of the SDK.
fn newest_python(gateway: &Gateway, script: &str) -> String {
    let paths = [variable("AOAI_NEWEST_OPENAI"), variable("AOAI_PYTHONPATH")];
    run(gateway.address(), script, paths.join(":"))
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("run `cargo xtask test`: {name} tells where the openai SDK is"))
}

fn run(address: SocketAddr, script: &str, path: String) -> String {
    let prelude = format!(
        "from openai import AzureOpenAI, OpenAI\n\
         client = AzureOpenAI(azure_endpoint='http://{0}', api_key='CLIENT-SECRET', api_version='2024-10-21', max_retries=0)\n\
         gateway = 'http://{0}'\n\
         v1 = OpenAI(base_url='http://{0}/openai/v1', api_key='CLIENT-SECRET', max_retries=0)\n",
        address,
    );
    let output = Command::new(variable("AOAI_PYTHON"))
        .env("PYTHONPATH", path)
        .args(["-c", &format!("{prelude}{script}")])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A slow network to the gateway: a request's body arrives 300 ms after its headers.
fn slow_network(gateway: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let Ok(gateway) = TcpStream::connect(gateway) else {
                continue;
            };
            let (mut from, mut to) = (gateway.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                to.shutdown(Shutdown::Both)
            });
            thread::spawn(move || forward(client, gateway));
        }
    });
    address
}

fn forward(mut client: TcpStream, mut gateway: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return gateway.shutdown(Shutdown::Write);
        }
        let bytes = &buffer[..length];
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, rest) = bytes.split_at(end.map_or(0, |end| end + 4));
        if !head.is_empty() {
            gateway.write_all(head)?;
            thread::sleep(Duration::from_millis(300));
        }
        gateway.write_all(rest)?;
    }
}

cases! {
    fn the_openai_sdk_is_served_while_a_backend_fails(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::throttled(1));
        let printed = python(
            &gateway,
            "
messages = [{'role': 'user', 'content': 'Say hello.'}]
for _ in range(2):
    print(client.chat.completions.create(model='gpt-4o', messages=messages).choices[0].message.content)
for _ in range(2):
    chunks = client.chat.completions.create(model='gpt-4o', messages=messages, stream=True)
    print(''.join(chunk.choices[0].delta.content or '' for chunk in chunks if chunk.choices))
for _ in range(2):
    print(len(client.embeddings.create(model='embed', input='hello').data[0].embedding) > 0)
",
        );
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 6, "{printed}");
        assert!(lines[..4].iter().all(|line| line.contains("west")), "{printed}");
        assert_eq!(lines[4..], ["True", "True"]);
        for request in azure.backend("west").requests() {
            assert!(!format!("{request:?}").contains("CLIENT-SECRET"));
        }
    }

    fn case_57_the_openai_sdk_chats_despite_an_unread_401(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        for behaviour in [Behaviour::unread(401), Behaviour::unread_kept(401), Behaviour::early(401)] {
            azure.backend("east").set(behaviour);
            let printed = python_at(
                slow_network(gateway.address()),
                "
messages = [{'role': 'user', 'content': 'Say hello.'}]
for _ in range(6):
    print(client.chat.completions.create(model='gpt-4o', messages=messages).choices[0].message.content)
",
            );
            assert_eq!(printed.matches("west").count(), 6, "{printed}");
            gateway.assert_unharmed();
        }
        assert!(azure.backend("east").count() >= 9);
    }

    fn the_openai_sdk_does_everything_on_uneven_backends(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let printed = python(&gateway, include_str!("sdk/everything.py"));
        // The digest of the bytes 0 to 255, forty times.
        let digest = "e96760a87768717bcebcfd25ddc7d46b4dbc95a4b0014def080c08539f7d90d0";
        assert_eq!(printed, format!("azure {digest} True True\nv1 {digest} True True\n"));
        for request in azure.backends().iter().flat_map(|backend| backend.requests()) {
            assert!(!format!("{request:?}").contains("CLIENT-SECRET"));
        }
    }

    fn case_48_the_openai_sdk_sees_only_requested_tokens(engine) {
        let azure = simulate(&["east", "west"]);
        azure.backend("east").queue(vec![Behaviour::throttled(1)]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["usage"] = serde_json::json!({"streams": "always"}))
            .start();
        let printed = python(
            &gateway,
            "
messages = [{'role': 'user', 'content': 'Say hello.'}]
for sdk in client, v1:
    for options in {}, {'stream_options': {'include_usage': True}}:
        chunks = list(sdk.chat.completions.create(model='gpt-4o', messages=messages, stream=True, **options))
        print(len(chunks) > 3, [chunk.usage.completion_tokens > 0 for chunk in chunks if chunk.usage])
",
        );
        assert_eq!(printed, "True []\nTrue [True]\n".repeat(2));
        let counted = |g: &Gateway| g.stat("wasmcustom.aoai.backend.west.tokens.completion") > Some(0);
        gateway.wait_for(counted, Duration::from_secs(10), "the tokens");
        assert_eq!(gateway.stat("wasmcustom.aoai.usage.unknown").unwrap_or_default(), 0);
    }

    fn case_39_the_openai_sdk_runs_agents_of_ten_turns(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        assert_eq!(python(&gateway, include_str!("sdk/agent.py")), "3\n3\n");
        let version = "import openai\nprint(openai.__version__.split('.')[0])\n";
        let agents = [version, include_str!("sdk/agent.py")].concat();
        assert_eq!(newest_python(&gateway, &agents), "3\n3\n3\n");
    }

    fn the_openai_sdk_understands_the_gateways_errors(engine) {
        let azure = simulate(&["east"]);
        azure.backend("east").stop();
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let printed = python(
            &gateway,
            "
import openai
try:
    client.chat.completions.create(model='gpt-4o', messages=[])
except openai.APIStatusError as error:
    print(error.status_code, error.code, error.type)
",
        );
        assert_eq!(printed.trim(), "503 backend_unavailable server_error");
    }
}
