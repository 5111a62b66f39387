//! Embeddings, as numbers or in base64.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde::Deserialize;
use serde_json::{json, Value};

use super::{Call, Reply, Resource};
use crate::behaviour::Failure;

/// The default length of a vector, short to keep answers readable. `dimensions` overrides it.
const DIMENSIONS: usize = 8;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    input: Value,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
}

impl Resource {
    pub(super) fn embeddings(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.model(call, request.model.as_deref())?;
        let inputs = match &request.input {
            // A list of numbers is one text in tokens.
            Value::Array(inputs) if !inputs.iter().all(Value::is_number) => inputs.len(),
            _ => 1,
        };
        let base64 = request.encoding_format.as_deref() == Some("base64");
        let dimensions = request.dimensions.unwrap_or(DIMENSIONS).min(8192);
        let data: Vec<_> = (0..inputs)
            .map(|index| {
                let vector = vector(index, dimensions);
                let embedding = if base64 {
                    encoded(&vector)
                } else {
                    json!(vector)
                };
                json!({ "object": "embedding", "index": index, "embedding": embedding })
            })
            .collect();
        let tokens = call.body.len() / 4;
        Ok(Reply::json(&json!({
            "object": "list",
            "data": data,
            "model": model,
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        })))
    }
}

fn vector(seed: usize, dimensions: usize) -> Vec<f32> {
    let value = |index: usize| ((seed * 31 + index * 17) % 64) as f32 / 64.0;
    (0..dimensions).map(value).collect()
}

fn encoded(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Value::String(STANDARD.encode(bytes))
}
