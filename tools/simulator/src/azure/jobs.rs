//! Work in progress on a resource: batches and fine-tuning jobs.

use serde_json::{json, Value};

use super::collection::listed;
use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

static BATCH: Kind = Kind::new("batch", "batch_", "batch").with_statuses("validating", "completed");
static JOB: Kind =
    Kind::new("fine_tuning.job", "ftjob-", "fine-tuning job").with_statuses("pending", "succeeded");

impl Resource {
    pub(super) fn batches(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) => {
                if call.fields()?.get("input_file_id").is_none() {
                    return Err(errors::bad_request("The batch has no input_file_id."));
                }
                let fields = json!({
                    "errors": null,
                    "output_file_id": null,
                    "error_file_id": null,
                    "request_counts": { "total": 1, "completed": 0, "failed": 0 },
                });
                self.collection(call, &BATCH, None, rest, fields)
            }
            ("GET", []) => self.collection(call, &BATCH, None, rest, Value::Null),
            ("GET", [id]) => {
                let batch = self.show(&BATCH, id)?;
                if batch["status"] != "completed" || !batch["output_file_id"].is_null() {
                    return Ok(Reply::json(&batch));
                }
                let output = format!("{{\"response\":{}}}\n", json!(self.greeting()));
                let file = self.keep_file("results.jsonl", "batch_output", output.into());
                let batch = self.change(&BATCH, id, |batch| {
                    batch["output_file_id"] = file["id"].clone();
                    batch["request_counts"]["completed"] = json!(1);
                })?;
                Ok(Reply::json(&batch))
            }
            ("POST", [id, "cancel"]) => self.cancel(&BATCH, id),
            _ => Err(errors::resource_not_found()),
        }
    }

    pub(super) fn fine_tuning(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match (call.method.as_str(), rest) {
            ("POST", []) if call.fields()?.get("training_file").is_none() => {
                Err(errors::bad_request("The job has no training_file."))
            }
            ("POST", []) => {
                let fields = json!({
                    "validation_file": null,
                    "result_files": [],
                    "fine_tuned_model": null,
                    "error": null,
                });
                self.collection(call, &JOB, None, rest, fields)
            }
            ("GET", []) | ("GET" | "DELETE", [_]) => {
                self.collection(call, &JOB, None, rest, Value::Null)
            }
            ("POST", [id, "cancel"]) => self.cancel(&JOB, id),
            ("GET", [id, "events" | "checkpoints"]) => {
                self.is_here(&JOB, id)?;
                listed(call, Vec::new())
            }
            _ => Err(errors::resource_not_found()),
        }
    }
}
