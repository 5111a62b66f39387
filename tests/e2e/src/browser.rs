//! A headless Chromium, by the DevTools protocol: <https://chromedevtools.github.io/devtools-protocol/>.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use tempfile::TempDir;
use tungstenite::{client, Message, WebSocket};

/// The longest time that the browser may take to start, or to answer.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A running browser with one page, which ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    calls: u64,
    /// The page's errors: exceptions, and everything that the browser logs as an error.
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts the browser that `AOAI_CHROMIUM` names.
    ///
    /// # Panics
    ///
    /// When the browser does not start.
    pub fn start() -> Self {
        let Some(program) = env::var_os("AOAI_CHROMIUM") else {
            panic!("run `cargo xtask test`: AOAI_CHROMIUM names a Chromium");
        };
        let profile = tempfile::Builder::new().prefix("browser-").tempdir();
        let profile = profile.expect("a temporary folder");
        let process = Command::new(&program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-extensions",
            ])
            .args([
                "--disable-background-networking",
                "--no-proxy-server",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", PathBuf::from(&program).display()));
        let (address, path) = debugger(profile.path());
        let stream = TcpStream::connect(address).expect("the browser's debugger");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let (socket, _) = client(format!("ws://{address}{path}"), stream).expect("a WebSocket");
        let mut browser = Self {
            process,
            socket,
            session: String::new(),
            calls: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", target)["sessionId"].clone();
        browser.session = session.as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Opens a URL. The page may not be complete when this returns.
    pub fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
    }

    /// Runs a script in every page that is opened from now on, before the page's own scripts.
    pub fn prepare(&mut self, script: &str) {
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": script }),
        );
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    ///
    /// When the expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", call);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// The laid-out text of the first element that a CSS selector finds; empty if it finds none.
    pub fn text(&mut self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.evaluate(&format!(
            "document.querySelector({selector})?.innerText ?? ''"
        ));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    ///
    /// When the expression is not true within `limit`. The message has the text of the page.
    pub fn wait_for(&mut self, expression: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.evaluate(expression) != true {
            if Instant::now() > deadline {
                let text = self.text("body");
                panic!(
                    "waited {limit:?} for {expression}; {:?}; the page:\n{text}",
                    self.complaints
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Shows the page in a window of this size, with a `light` or `dark` color scheme.
    pub fn look(&mut self, width: u32, height: u32, room: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let feature = json!({"name": "prefers-color-scheme", "value": room});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// Writes a picture of the page into the folder that `AOAI_SCREENSHOTS` names. Without the variable, does nothing.
    pub fn screenshot(&mut self, name: &str) {
        use base64::prelude::{Engine as _, BASE64_STANDARD};
        let Some(folder) = env::var_os("AOAI_SCREENSHOTS") else {
            return;
        };
        let size = self.evaluate(
            "[document.documentElement.clientWidth, document.documentElement.scrollHeight]",
        );
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let call = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", call);
        let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap_or_default());
        let file = Path::new(&folder).join(format!("{name}.png"));
        fs::write(file, picture.expect("base64")).expect("write the picture");
    }

    /// The page's errors until now: exceptions, and everything that the browser logs as an error.
    pub fn complaints(&mut self) -> Vec<String> {
        // The browser sends pending errors before it answers this.
        self.evaluate("1");
        self.complaints.clone()
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": parameters});
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let sent = self.socket.send(Message::text(call.to_string()));
        sent.unwrap_or_else(|e| panic!("{method}: {e}"));
        loop {
            let message = self
                .socket
                .read()
                .unwrap_or_else(|e| panic!("{method}: {e}"));
            let Message::Text(text) = message else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).expect("JSON");
            if message["id"] == self.calls {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.listen(&message);
        }
    }

    fn listen(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_complaint = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => parameters["type"] == "error",
            "Log.entryAdded" => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(parameters.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address of the browser's debugger, and the path there.
fn debugger(profile: &Path) -> (SocketAddr, String) {
    let file = profile.join("DevToolsActivePort");
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n') {
            if let (Ok(port), false) = (port.parse(), path.is_empty()) {
                return (
                    SocketAddr::from(([127, 0, 0, 1], port)),
                    path.trim().to_owned(),
                );
            }
        }
        assert!(
            Instant::now() < deadline,
            "the browser did not start within {LIMIT:?}"
        );
        thread::sleep(POLL);
    }
}
