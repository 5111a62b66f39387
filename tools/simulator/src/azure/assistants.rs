//! Assistants, threads, and the parts of threads.

use bytes::Bytes;
use serde_json::{json, Value};

use super::collection::{listed, merged};
use super::objects::Kind;
use super::reply::Event;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

static ASSISTANT: Kind = Kind::new("assistant", "asst_", "assistant");
static THREAD: Kind = Kind::new("thread", "thread_", "thread");
static MESSAGE: Kind = Kind::new("thread.message", "msg_", "message");
static RUN: Kind = Kind::new("thread.run", "run_", "run").with_statuses("queued", "completed");

impl Resource {
    pub(super) fn assistants(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        let fields = json!({
            "name": null,
            "description": null,
            "instructions": null,
            "tools": [],
            "tool_resources": {},
            "metadata": {},
        });
        if let ("POST", [], Some(model)) = (call.method.as_str(), rest, call.fields()?.get("model"))
        {
            self.known(model.as_str())?;
        }
        self.collection(call, &ASSISTANT, None, rest, fields)
    }

    pub(super) fn threads(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", ["runs"]) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                let thread = request.get("thread").cloned().unwrap_or(json!({}));
                let thread = self.make_thread(thread);
                self.run(call, thread["id"].as_str().unwrap_or_default())
            }
            ("POST", []) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                Ok(Reply::json(&self.make_thread(Value::Object(request))))
            }
            (_, [] | [_]) => self.collection(call, &THREAD, None, rest, Value::Null),
            (_, [id, part, rest @ ..]) => {
                self.is_here(&THREAD, id)?;
                match *part {
                    "messages" => self.messages(call, id, rest),
                    "runs" => self.runs(call, id, rest),
                    _ => Err(errors::resource_not_found()),
                }
            }
        }
    }

    /// Makes a thread with its first messages.
    fn make_thread(&self, mut request: Value) -> Value {
        let messages = request["messages"].take();
        let resources = request["tool_resources"].take();
        let fields = json!({ "metadata": request["metadata"], "tool_resources": resources });
        let thread = self.make(&THREAD, None, fields, Bytes::new());
        let id = thread["id"].as_str().unwrap_or_default();
        for message in messages.as_array().into_iter().flatten() {
            self.say(id, message["role"].clone(), &message["content"]);
        }
        thread
    }

    fn messages(&self, call: &Call<'_>, thread: &str, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                let request = call.fields()?;
                self.check_references(&request)?;
                let content = request.get("content").unwrap_or(&Value::Null);
                let role = request.get("role").cloned().unwrap_or(json!("user"));
                Ok(Reply::json(&self.say(thread, role, content)))
            }
            ("GET", []) => listed(call, self.objects.list(&MESSAGE, Some(thread))),
            _ => self.collection(call, &MESSAGE, Some(thread), rest, Value::Null),
        }
    }

    fn say(&self, thread: &str, role: Value, content: &Value) -> Value {
        let text = content.as_str().unwrap_or_default();
        let fields = json!({
            "thread_id": thread,
            "role": role,
            "content": [{ "type": "text", "text": { "value": text, "annotations": [] } }],
            "assistant_id": null,
            "run_id": null,
            "attachments": [],
            "metadata": {},
        });
        self.make(&MESSAGE, Some(thread), fields, Bytes::new())
    }

    fn runs(&self, call: &Call<'_>, thread: &str, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => self.run(call, thread),
            ("POST", [id, "cancel"]) => self.cancel(&RUN, id),
            ("POST", [id, "submit_tool_outputs"]) => {
                self.show(&RUN, id).map(|run| Reply::json(&run))
            }
            ("GET", [id, "steps"]) => {
                self.is_here(&RUN, id)?;
                listed(call, Vec::new())
            }
            _ => self.collection(call, &RUN, Some(thread), rest, Value::Null),
        }
    }

    /// Runs an assistant on a thread.
    fn run(&self, call: &Call<'_>, thread: &str) -> Result<Reply, Failure> {
        let mut request = call.fields()?;
        self.check_references(&request)?;
        let assistant = request.get("assistant_id").and_then(Value::as_str);
        let assistant = assistant
            .ok_or_else(|| errors::bad_request("The run has no assistant_id."))?
            .to_owned();
        self.is_here(&ASSISTANT, &assistant)?;
        let stream = request.remove("stream") == Some(json!(true));
        request.remove("thread");
        let fields = json!({ "thread_id": thread, "last_error": null, "usage": null });
        let run = self.make(&RUN, Some(thread), merged(fields, request), Bytes::new());
        let message = self.say(thread, json!("assistant"), &json!(self.greeting()));
        if !stream {
            return Ok(Reply::json(&run));
        }
        let run_id = run["id"].as_str().unwrap_or_default();
        let completed = self.show(&RUN, run_id)?;
        Ok(Reply::Events(vec![
            Event::named("thread.run.created", &run),
            Event::named("thread.run.queued", &run),
            Event::named("thread.message.completed", &message),
            Event::named("thread.run.completed", &completed),
            Event::named("done", "[DONE]"),
        ]))
    }
}
