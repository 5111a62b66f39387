//! Audio and images: what was sent is answered by its digest.

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Call, Reply, Resource};
use crate::audit::hex;
use crate::tokens::now;

/// The smallest PNG: one transparent pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

impl Resource {
    pub(super) fn transcription(&self, call: &Call<'_>) -> Reply {
        let digest = hex(&Sha256::digest(&call.body));
        Reply::json(&json!({ "text": format!("{} sha256 {digest}", self.greeting()) }))
    }

    pub(super) fn speech(&self) -> Reply {
        let frame = b"\xff\xfb\x90\x00"
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, 413));
        Reply::Whole("audio/mpeg", frame.collect::<Bytes>())
    }

    pub(super) fn images(&self, call: &Call<'_>) -> Reply {
        let digest = hex(&Sha256::digest(&call.body));
        Reply::json(&json!({
            "created": now(),
            "data": [{ "b64_json": PIXEL, "revised_prompt": format!("{} sha256 {digest}", self.greeting()) }],
        }))
    }
}
