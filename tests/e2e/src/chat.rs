//! The chat request that most tests send.

use serde_json::{json, Value};

/// A chat completion with the default deployment `gpt-4o`, not streaming.
pub fn chat_request() -> Chat {
    Chat {
        path: path("gpt-4o"),
        body: json!({
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "Say hello."}],
            "stream": false,
        }),
    }
}

/// A chat completion request, as the SDKs send it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// Path and query.
    pub path: String,
    /// The body.
    pub body: Value,
}

impl Chat {
    /// The request, for another deployment.
    pub fn deployment(mut self, name: &str) -> Self {
        self.path = path(name);
        self.body["model"] = name.into();
        self
    }

    /// The request in the v1 form, with the deployment in the body alone.
    pub fn v1(mut self) -> Self {
        self.path = "/openai/v1/chat/completions".to_owned();
        self
    }

    /// The request, answered with a stream of events.
    pub fn streaming(mut self) -> Self {
        self.body["stream"] = true.into();
        self
    }

    /// The request, with a body of at least this many bytes.
    pub fn padded(mut self, bytes: usize) -> Self {
        self.body["messages"][0]["content"] = "x".repeat(bytes).into();
        self
    }

    /// The body's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.body.to_string().into_bytes()
    }
}

fn path(deployment: &str) -> String {
    format!("/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21")
}
