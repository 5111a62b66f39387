//! How the identity endpoint answers, as tests and the admin endpoint say it.

use serde::{Deserialize, Serialize};

use crate::script::Scripted;

/// What the identity endpoint does with a request. The default is to answer as the real one would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImdsBehaviour {
    /// It applies to this many requests and then falls away; `None` means for good, and once in a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Milliseconds to wait before anything is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The answer.
    pub answer: ImdsAnswer,
}

/// The kinds of answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImdsAnswer {
    /// A token, if the request is right.
    Normal {
        /// Which fields tell when it runs out.
        #[serde(default)]
        expires: Expires,
        /// Times as numbers, where the real service sends strings.
        #[serde(default)]
        as_numbers: bool,
    },
    /// An error, whatever the request was.
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
    /// An error of Entra ID's with this code, whatever the request was.
    Aadsts {
        /// The HTTP status.
        status: u16,
        /// The code, without `AADSTS`.
        code: u32,
    },
    /// Never answers.
    Hang,
    /// A TCP reset before any byte of an answer.
    Reset,
    /// 200 with this body.
    Garbage {
        /// The body.
        body: String,
    },
    /// 200 in the right shape, but without `access_token`.
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

/// Which fields of a token answer tell when the token runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expires {
    /// Both from IMDS, `expires_on` from App Service, as the real services do.
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
    /// As the real service would answer.
    pub fn normal() -> Self {
        Self::default()
    }

    /// A token whose times are told like this.
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

    /// An error of Entra ID's with this code, whose status is 400 or 401.
    pub fn aadsts(status: u16, code: u32) -> Self {
        ImdsAnswer::Aadsts { status, code }.into()
    }

    /// Never answers.
    pub fn hang() -> Self {
        ImdsAnswer::Hang.into()
    }

    /// Resets the connection.
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

    /// The same for the next `count` requests only.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.remaining = Some(count);
        self
    }

    /// The same after a delay in milliseconds.
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
