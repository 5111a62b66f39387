//! Behaviours of the identity endpoint, for tests and the admin endpoint.

use serde::{Deserialize, Serialize};

use crate::script::Scripted;

/// The identity endpoint's behaviour. The default is to answer as the real one would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImdsBehaviour {
    /// The number of requests for which it applies; `None` for all, and for one in a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// The delay in milliseconds before the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The answer.
    pub answer: ImdsAnswer,
}

/// Kinds of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImdsAnswer {
    /// A token, if the request is correct.
    Normal {
        /// The fields with the expiry.
        #[serde(default)]
        expires: Expires,
        /// Whether times are numbers. The real service sends strings.
        #[serde(default)]
        as_numbers: bool,
    },
    /// An error, for any request.
    Error {
        /// The HTTP status.
        status: u16,
        /// `error`.
        #[serde(default)]
        error: String,
        /// `error_description`.
        #[serde(default)]
        description: String,
        /// The `retry-after` header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
    },
    /// An error of Entra ID with this code, for any request.
    Aadsts {
        /// The HTTP status.
        status: u16,
        /// The code, without `AADSTS`.
        code: u32,
    },
    /// No answer.
    Hang,
    /// A TCP reset before any byte of an answer.
    Reset,
    /// 200 with this body.
    Garbage {
        /// The body.
        body: String,
    },
    /// A 200 in the right shape, but without `access_token`.
    MissingToken,
}

impl Default for ImdsAnswer {
    fn default() -> Self {
        Self::Normal {
            expires: Expires::Usual,
            as_numbers: false,
        }
    }
}

/// The fields of a token answer that state the expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expires {
    /// As the real services do: both fields from IMDS, and `expires_on` from App Service.
    #[default]
    Usual,
    /// `expires_on`, seconds of the epoch.
    ExpiresOn,
    /// `expires_in`, seconds from now.
    ExpiresIn,
    /// Both.
    Both,
}

impl From<ImdsAnswer> for ImdsBehaviour {
    fn from(answer: ImdsAnswer) -> Self {
        Self {
            answer,
            ..Self::default()
        }
    }
}

impl ImdsBehaviour {
    /// The answer of the real service.
    pub fn normal() -> Self {
        Self::default()
    }

    /// A token whose expiry is stated like this.
    pub fn expires(expires: Expires, as_numbers: bool) -> Self {
        ImdsAnswer::Normal {
            expires,
            as_numbers,
        }
        .into()
    }

    /// An error with this status.
    pub fn status(status: u16) -> Self {
        ImdsAnswer::Error {
            status,
            error: "simulated".to_owned(),
            description: format!("The simulator was told to answer {status}."),
            retry_after: None,
        }
        .into()
    }

    /// An error with this status and a `retry-after` header.
    pub fn status_retry_after(status: u16, retry_after: &str) -> Self {
        ImdsAnswer::Error {
            status,
            error: "simulated".to_owned(),
            description: format!("The simulator was told to answer {status}."),
            retry_after: Some(retry_after.to_owned()),
        }
        .into()
    }

    /// An error of Entra ID with this code. Its status is 400 or 401.
    pub fn aadsts(status: u16, code: u32) -> Self {
        ImdsAnswer::Aadsts { status, code }.into()
    }

    /// No answer.
    pub fn hang() -> Self {
        ImdsAnswer::Hang.into()
    }

    /// A reset of the connection.
    pub fn reset() -> Self {
        ImdsAnswer::Reset.into()
    }

    /// 200 with this body.
    pub fn garbage(body: &str) -> Self {
        ImdsAnswer::Garbage {
            body: body.to_owned(),
        }
        .into()
    }

    /// 200 without a token.
    pub fn missing_token() -> Self {
        ImdsAnswer::MissingToken.into()
    }

    /// The behaviour, for the next `count` requests only.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.remaining = Some(count);
        self
    }

    /// The behaviour, after a delay in milliseconds.
    #[must_use]
    pub fn after_ms(mut self, delay: u64) -> Self {
        self.delay_ms = Some(delay);
        self
    }
}

impl Scripted for ImdsBehaviour {
    fn remaining(&mut self) -> &mut Option<u32> {
        &mut self.remaining
    }

    fn applies_to(&self, _path: &str) -> bool {
        true
    }
}
