//! A client of Azure OpenAI, reduced to the tour's needs.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use render::Fleet;
use serde_json::{json, Value};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// Longer than any answer of the tour takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The path of a chat completion.
pub const CHAT: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";

/// The default question.
const QUESTION: &str = "Say hello.";

/// An HTTP client that ignores the environment's proxy, because everything is on this machine.
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(LIMIT))
        // Each request has its own connection, so that the requests reach all of Envoy's workers.
        .max_idle_connections(0)
        .build()
        .into()
}

/// A client of the balancer.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
    backend_header: String,
    attempts_header: String,
    sent: Cell<i64>,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The backend that answered, as the balancer reports it.
    pub backend: String,
    /// The number of attempts, as the balancer reports it.
    pub attempts: String,
    /// The wait in seconds that the answer states.
    pub retry_after: String,
    /// The time until the last byte.
    pub elapsed: Duration,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value, or `-` if there is none.
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// The time in the form of the tables.
    pub fn time(&self) -> String {
        milliseconds(self.elapsed)
    }
}

/// A streamed answer that has ended.
#[derive(Clone, Debug, Default)]
pub struct Streamed {
    /// The headers' facts. The body is the model's text.
    pub answer: Answer,
    /// The time until the first byte.
    pub first_byte: Duration,
    /// The times until each piece of the model's text.
    pub pieces: Vec<Duration>,
    /// Whether it ended with `[DONE]`.
    pub is_done: bool,
    /// Whether an event reported tokens.
    pub has_usage: bool,
}

impl Client {
    /// A client for `url`, with the demo's key.
    pub fn new(url: &str, key: &str, fleet: &Fleet) -> Self {
        Self {
            agent: agent(),
            url: url.to_owned(),
            key: Some(key.to_owned()),
            backend_header: fleet.backend_header().to_owned(),
            attempts_header: fleet.attempts_header().to_owned(),
            sent: Cell::new(0),
        }
    }

    /// The client with this key, or without a key.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self {
            agent: self.agent.clone(),
            url: self.url.clone(),
            key: key.map(str::to_owned),
            backend_header: self.backend_header.clone(),
            attempts_header: self.attempts_header.clone(),
            sent: Cell::new(0),
        }
    }

    /// The number of sent requests.
    pub fn sent(&self) -> i64 {
        self.sent.get()
    }

    /// Sends a chat request and reads the whole answer.
    ///
    /// # Errors
    /// When there is no answer of HTTP.
    pub fn chat(&self) -> Result<Answer> {
        self.ask(QUESTION)
    }

    /// Sends a chat request with this question and reads the whole answer.
    ///
    /// # Errors
    /// When there is no answer of HTTP.
    pub fn ask(&self, question: &str) -> Result<Answer> {
        let start = Instant::now();
        let mut response = self.post(question, false)?;
        let body = response.body_mut().read_to_string()?;
        Ok(Answer {
            elapsed: start.elapsed(),
            body,
            ..self.answer(&response)
        })
    }

    /// Sends a chat request, and passes on each piece of the model's text when it arrives.
    ///
    /// # Errors
    /// When there is no answer of HTTP, or it breaks off.
    pub fn stream(&self, mut on_piece: impl FnMut(&str)) -> Result<Streamed> {
        let start = Instant::now();
        let response = self.post(QUESTION, true)?;
        let mut streamed = Streamed {
            answer: self.answer(&response),
            ..Streamed::default()
        };
        let mut lines = BufReader::new(response.into_body().into_reader());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            if streamed.first_byte.is_zero() {
                streamed.first_byte = start.elapsed();
            }
            let text = String::from_utf8_lossy(&line);
            match text.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => streamed.is_done = true,
                Some(data) => {
                    streamed.has_usage |= data.contains(r#""usage""#);
                    let piece = content(data)?;
                    if !piece.is_empty() {
                        streamed.pieces.push(start.elapsed());
                        streamed.answer.body.push_str(&piece);
                        on_piece(&piece);
                    }
                }
                None => {}
            }
            line.clear();
        }
        streamed.answer.elapsed = start.elapsed();
        Ok(streamed)
    }

    fn post(&self, question: &str, stream: bool) -> Result<Response<Body>> {
        self.sent.set(self.sent.get() + 1);
        let body = json!({
            "messages": [{"role": "user", "content": question}],
            "stream": stream,
        });
        let mut request = self
            .agent
            .post(format!("{}{CHAT}", self.url))
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("api-key", key);
        }
        let sent = request.send(body.to_string());
        sent.map_err(|error| anyhow!("POST {}{CHAT}: {error}", self.url))
    }

    fn answer(&self, response: &Response<Body>) -> Answer {
        let headers = response.headers().clone();
        let header = |name: &str| header(&headers, name).to_owned();
        Answer {
            status: response.status().as_u16(),
            backend: header(&self.backend_header),
            attempts: header(&self.attempts_header),
            retry_after: header("retry-after"),
            headers,
            ..Answer::default()
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or("-")
}

/// The model's text in one event of a streamed chat completion; empty for other events.
fn content(data: &str) -> Result<String> {
    let event: Value =
        serde_json::from_str(data).with_context(|| format!("an event is not JSON: {data}"))?;
    let delta = &event["choices"][0]["delta"]["content"];
    Ok(delta.as_str().unwrap_or_default().to_owned())
}

/// A duration in the form of the tables.
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 100.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_with_text_say_something() {
        let words = |data| content(data).unwrap();
        assert_eq!(
            words(r#"{"choices":[{"delta":{"content":" naïve"}}]}"#),
            " naïve"
        );
        assert_eq!(words(r#"{"choices":[{"delta":{"role":"assistant"}}]}"#), "");
        assert_eq!(words(r#"{"choices":[],"usage":{}}"#), "");
        assert!(content("<html>").is_err());
    }

    #[test]
    fn short_times_have_a_fraction() {
        assert_eq!(milliseconds(Duration::from_micros(3149)), "3.1 ms");
        assert_eq!(milliseconds(Duration::from_micros(1_234_567)), "1235 ms");
    }
}
