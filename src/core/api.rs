//! The APIs of an Azure OpenAI resource.

use super::hash::fingerprint;

/// One of the APIs of an Azure OpenAI resource. Not every region has every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// Chat completions and completions.
    Chat,
    /// Responses and conversations.
    Responses,
    /// Embeddings.
    Embeddings,
    /// Images: generations, edits, variations.
    Images,
    /// Audio: transcriptions, translations, speech.
    Audio,
    /// Videos.
    Videos,
    /// Files, uploads, vector stores and containers.
    Files,
    /// Batches.
    Batches,
    /// Realtime sessions.
    Realtime,
    /// Assistants and threads.
    Assistants,
    /// Fine-tuning jobs.
    FineTuning,
    /// Anthropic's Messages API, below `/anthropic`, which resources of Foundry have for [Claude].
    ///
    /// [Claude]: https://learn.microsoft.com/azure/ai-foundry/foundry-models/how-to/use-foundry-models-claude
    Messages,
}

impl Api {
    /// Every API.
    pub const ALL: [Self; 12] = [
        Self::Chat,
        Self::Responses,
        Self::Embeddings,
        Self::Images,
        Self::Audio,
        Self::Videos,
        Self::Files,
        Self::Batches,
        Self::Realtime,
        Self::Assistants,
        Self::FineTuning,
        Self::Messages,
    ];

    /// The name in the configuration and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Videos => "videos",
            Self::Files => "files",
            Self::Batches => "batches",
            Self::Realtime => "realtime",
            Self::Assistants => "assistants",
            Self::FineTuning => "fine_tuning",
            Self::Messages => "messages",
        }
    }

    /// The API of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }

    /// The number of the API in shared records.
    pub fn id(self) -> ApiId {
        // No deployment's name has a space.
        ApiId(fingerprint(["api ", self.name()].into_iter()))
    }
}

/// The number of an API in shared records. It differs from the id of every deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiId(u64);

impl ApiId {
    /// The id as a number.
    pub const fn number(self) -> u64 {
        self.0
    }
}
