//! Whole requests through a gateway.

use serde_json::Value;

use crate::builder::last_lines;
use crate::load::JSON;
use crate::{Chat, Form, Gateway, Response};

impl Gateway {
    /// Sends a chat completion and reads the whole answer.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub fn chat(&self, chat: &Chat) -> Response {
        self.request("POST", &chat.path, JSON, &chat.bytes())
    }

    /// Sends JSON, or with `null` a request without a body, and reads the whole answer.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Response {
        match body {
            Value::Null => self.request(method, path, &[], b""),
            body => self.request(method, path, JSON, body.to_string().as_bytes()),
        }
    }

    /// Sends a form and reads the whole answer.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub fn upload(&self, path: &str, form: &Form) -> Response {
        self.request("POST", path, &[Form::CONTENT_TYPE], &form.bytes())
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let answer = self.client().send(method, path, headers, body);
        answer.unwrap_or_else(|e| {
            panic!(
                "{path}: {e}; the end of the log:\n{}",
                last_lines(&self.log())
            )
        })
    }
}
