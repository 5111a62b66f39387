//! Audio and images. The answer has the digest of the request's data.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Call, Reply, Resource};
use crate::audit::hex;
use crate::behaviour::Failure;
use crate::tokens::now;

/// The smallest PNG: one transparent pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
}

impl Resource {
    pub(super) fn transcription(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let form = call.form()?;
        let model = self.model(call, form.text("model"))?;
        let file = form.file("file")?;
        let text = self.seen(model, &file.content);
        Ok(match form.text("response_format") {
            Some("text") => Reply::Whole("text/plain", text.into()),
            _ => Reply::json(&json!({ "text": text })),
        })
    }

    pub(super) fn speech(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        self.model(call, request.model.as_deref())?;
        let frame = b"\xff\xfb\x90\x00"
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, 413));
        Ok(Reply::Whole("audio/mpeg", frame.collect::<Bytes>()))
    }

    pub(super) fn images(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.model(call, request.model.as_deref())?;
        Ok(self.image(model, &call.body))
    }

    pub(super) fn edits(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let form = call.form()?;
        let model = self.model(call, form.text("model"))?;
        let image = form.file("image").or_else(|_| form.file("image[]"))?;
        Ok(self.image(model, &image.content))
    }

    fn image(&self, model: &str, sent: &[u8]) -> Reply {
        let mut answer = json!({
            "created": now(),
            "data": [{ "b64_json": PIXEL, "revised_prompt": self.seen(model, sent) }],
        });
        // Older models report no tokens.
        if model.starts_with("gpt-image") {
            let text = sent.len() / 4;
            answer["usage"] = json!({
                "input_tokens": text,
                "input_tokens_details": { "image_tokens": 0, "text_tokens": text },
                "output_tokens": 272,
                "total_tokens": text + 272,
            });
        }
        Reply::json(&answer)
    }

    /// A text that names the resource, the deployment and the digest of the data.
    fn seen(&self, model: &str, sent: &[u8]) -> String {
        let digest = hex(&Sha256::digest(sent));
        format!("{} as {model}, sha256 {digest}", self.greeting())
    }
}
