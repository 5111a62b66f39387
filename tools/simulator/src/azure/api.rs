//! APIs that some regions lack.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An API that a resource may lack because its region does not offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Chat completions and the older completions.
    Chat,
    /// Responses, and the conversations they can belong to.
    Responses,
    /// Embeddings.
    Embeddings,
    /// Images.
    Images,
    /// Transcriptions, translations, speech.
    Audio,
    /// Files, uploads, vector stores, containers.
    Files,
    /// Batches.
    Batches,
    /// Realtime sessions.
    Realtime,
    /// Assistants and threads.
    Assistants,
    /// Fine-tuning jobs.
    FineTuning,
}

impl Api {
    /// The API of an operation: the path after `/openai/`, `v1/` and the deployment.
    pub(super) fn of(operation: &str) -> Option<Self> {
        Some(match operation.split('/').next()? {
            "chat" | "completions" => Self::Chat,
            "responses" | "conversations" => Self::Responses,
            "embeddings" => Self::Embeddings,
            "images" => Self::Images,
            "audio" => Self::Audio,
            "files" | "uploads" | "vector_stores" | "containers" => Self::Files,
            "batches" => Self::Batches,
            "realtime" => Self::Realtime,
            "assistants" | "threads" => Self::Assistants,
            "fine_tuning" => Self::FineTuning,
            _ => return None,
        })
    }
}

impl FromStr for Api {
    type Err = String;

    /// The name as in JSON, such as `fine_tuning`.
    fn from_str(name: &str) -> Result<Self, String> {
        serde_json::from_value(name.into()).map_err(|error| error.to_string())
    }
}
