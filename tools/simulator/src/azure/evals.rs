//! Evaluations, skills and webhook endpoints.

use serde_json::{json, Value};

use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

static EVAL: Kind = Kind {
    object: "eval",
    prefix: "eval_",
    noun: "eval",
    deleted: "eval.deleted",
    statuses: None,
};
static RUN: Kind = Kind {
    object: "eval.run",
    prefix: "evalrun_",
    noun: "run",
    deleted: "eval.run.deleted",
    statuses: Some(["queued", "completed"]),
};
static SKILL: Kind = Kind {
    object: "skill",
    prefix: "skill_",
    noun: "skill",
    deleted: "skill.deleted",
    statuses: None,
};
static ENDPOINT: Kind = Kind {
    object: "webhook_endpoint",
    prefix: "whe_",
    noun: "webhook endpoint",
    deleted: "webhook_endpoint.deleted",
    statuses: None,
};

impl Resource {
    pub(super) fn evals(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        match rest {
            [] | [_] => self.collection(call, &EVAL, None, rest, Value::Null),
            [id, "runs", rest @ ..] => {
                self.is_here(&EVAL, id)?;
                self.collection(call, &RUN, Some(id), rest, json!({ "eval_id": id }))
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    pub(super) fn skills(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        self.collection(call, &SKILL, None, rest, Value::Null)
    }

    pub(super) fn endpoints(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        self.collection(call, &ENDPOINT, None, rest, Value::Null)
    }
}
