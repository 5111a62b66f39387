//! Evaluations, skills and webhook endpoints.

use serde_json::{json, Value};

use super::objects::Kind;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

static EVAL: Kind = Kind::new("eval", "eval_", "eval");
static RUN: Kind = Kind::new("eval.run", "evalrun_", "run").with_statuses("queued", "completed");
static SKILL: Kind = Kind::new("skill", "skill_", "skill");
static ENDPOINT: Kind = Kind::new("webhook_endpoint", "whe_", "webhook endpoint");

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
