//! Whole requests through a gateway.

use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::{BackendHandle, Simulator};

use crate::builder::last_lines;
use crate::load::JSON;
use crate::{chat_request, Chat, Form, Gateway, Response};

impl Gateway {
    /// Sends a chat completion and reads the whole answer.
    ///
    /// # Panics
    ///
    /// When no whole answer comes.
    pub fn chat(&self, chat: &Chat) -> Response {
        self.request("POST", &chat.path, JSON, &chat.bytes())
    }

    /// Sends this many chat completions, one after the other, and returns their statuses in ascending order.
    ///
    /// # Panics
    ///
    /// When one of them gets no whole answer.
    pub fn chat_statuses(&self, requests: usize) -> Vec<u16> {
        let chat = chat_request();
        let mut statuses: Vec<u16> = (0..requests).map(|_| self.chat(&chat).status).collect();
        statuses.sort_unstable();
        statuses
    }

    /// Asserts that five chats are refused at once because there is no token, and that one token was requested.
    ///
    /// # Panics
    ///
    /// When a chat is not refused at once, or more than one token was requested.
    pub fn assert_refused_without_token(&self, azure: &Simulator) {
        let started = Instant::now();
        for _ in 0..5 {
            let answer = self.chat(&chat_request());
            assert_eq!(answer.status, 503);
            assert_eq!(answer.json()["error"]["code"], "identity_unavailable");
        }
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "no refusal waits for a token"
        );
        assert_eq!(azure.imds().count(), 1);
    }

    /// Sends JSON and reads the whole answer. With `null` the request has no body.
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

    /// Waits until every backend has served a request, and then clears the recorded requests.
    ///
    /// # Panics
    ///
    /// When a backend does not serve within ten seconds.
    pub fn warm_up(&self, azure: &Simulator) {
        let chat = chat_request();
        let serves =
            |backend: &BackendHandle| backend.requests().iter().any(|r| r.status == Some(200));
        self.wait_for(
            |gateway| {
                gateway.chat(&chat);
                azure.backends().iter().all(serves)
            },
            Duration::from_secs(10),
            "every backend to serve",
        );
        azure
            .backends()
            .iter()
            .for_each(BackendHandle::clear_requests);
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
