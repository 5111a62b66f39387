//! Errors in Azure's words.

use bytes::Bytes;
use serde_json::json;

use crate::behaviour::Failure;
use crate::tokens::TokenCheck;

/// The body of an error answer.
pub(crate) fn body(failure: &Failure) -> Bytes {
    if let Some(raw) = &failure.body {
        return raw.clone().into();
    }
    let code = failure
        .code
        .clone()
        .unwrap_or_else(|| failure.status.to_string());
    let message = failure.message.clone();
    let message =
        message.unwrap_or_else(|| format!("The simulator was told to answer {}.", failure.status));
    json!({ "error": { "code": code, "message": message } })
        .to_string()
        .into()
}

/// The body of an error answer in Anthropic's shape.
pub(crate) fn body_for_anthropic(failure: &Failure) -> Bytes {
    if failure.body.is_some() {
        return body(failure);
    }
    let kind = match failure.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    let message = failure.message.clone();
    let message =
        message.unwrap_or_else(|| format!("The simulator was told to answer {}.", failure.status));
    let code = failure.code.clone();
    json!({ "type": "error", "error": { "type": kind, "message": message, "code": code } })
        .to_string()
        .into()
}

pub(crate) fn bad_request(message: &str) -> Failure {
    Failure::coded(400, "BadRequest", message)
}

/// A parameter that the model's own server does not know, as Mistral's servers report it.
pub(crate) fn extra_input(parameter: &str) -> Failure {
    let body = json!({
        "detail": [{
            "type": "extra_forbidden",
            "loc": ["body", parameter],
            "msg": "Extra inputs are not permitted",
        }]
    });
    Failure {
        body: Some(body.to_string()),
        ..Failure::new(422)
    }
}

/// An unknown path, method or api-version.
pub(crate) fn resource_not_found() -> Failure {
    Failure::coded(404, "404", "Resource not found")
}

pub(crate) fn deployment_not_found() -> Failure {
    Failure::coded(
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, \
         please wait a moment and try again.",
    )
}

/// A stored object that is not on this resource.
pub(crate) fn object_not_found(kind: &str, id: &str) -> Failure {
    let message = format!("No {kind} found with id '{id}'.");
    let body = json!({
        "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null }
    });
    Failure {
        body: Some(body.to_string()),
        ..Failure::new(404)
    }
}

/// A part of the API that the resource's region does not offer.
pub(crate) fn not_enabled_in_region() -> Failure {
    Failure::coded(
        404,
        "NotFound",
        "The requested API is not enabled in this region.",
    )
}

/// A refused credential.
pub(crate) fn unauthorized(check: TokenCheck) -> Failure {
    let message = match check {
        TokenCheck::NoRole => return permission_denied(),
        TokenCheck::WrongKey => {
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an \
             active subscription and use a correct regional API endpoint for your resource."
        }
        _ => {
            "Unauthorized. Access token is missing, invalid, audience is incorrect \
             (https://cognitiveservices.azure.com), or have expired."
        }
    };
    Failure::coded(401, "401", message)
}

/// An identity that lacks the role on the resource.
pub(crate) fn permission_denied() -> Failure {
    Failure::coded(
        401,
        "PermissionDenied",
        "The principal lacks the data action needed to complete this operation.",
    )
}

pub(crate) fn content_filter() -> Failure {
    let safe = json!({ "filtered": false, "severity": "safe" });
    let body = json!({
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. \
                Please modify your prompt and retry.",
            "type": null,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {
                    "hate": safe,
                    "self_harm": safe,
                    "sexual": safe,
                    "violence": { "filtered": true, "severity": "medium" },
                },
            },
        }
    });
    Failure {
        code: Some("content_filter".to_owned()),
        body: Some(body.to_string()),
        ..Failure::new(400)
    }
}

pub(crate) fn context_length() -> Failure {
    let body = json!({
        "error": {
            "message": "This model's maximum context length is 128000 tokens. However, your messages resulted in 128001 \
                tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    });
    Failure {
        code: Some("context_length_exceeded".to_owned()),
        body: Some(body.to_string()),
        ..Failure::new(400)
    }
}

/// A conversation that began on another resource.
pub(crate) fn previous_response_not_found(id: &str) -> Failure {
    let body = json!({
        "error": {
            "message": format!("Previous response with id '{id}' not found."),
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }
    });
    Failure {
        code: Some("previous_response_not_found".to_owned()),
        body: Some(body.to_string()),
        ..Failure::new(400)
    }
}

/// An item that is not stored on this resource.
pub(crate) fn item_not_found(id: &str) -> Failure {
    let message = format!(
        "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` set to \
         true, or remove this item from your input."
    );
    invalid_input(404, message, "input", None)
}

/// An id that the service never makes for an item.
pub(crate) fn invalid_item_id(at: usize, id: &str) -> Failure {
    let message = format!(
        "Invalid 'input[{at}].id': '{id}'. Expected an ID that contains letters, numbers, underscores, or dashes, but this \
         value contained additional characters."
    );
    invalid_input(
        400,
        message,
        &format!("input[{at}].id"),
        Some("invalid_value"),
    )
}

/// Content that another resource encrypted.
pub(crate) fn invalid_encrypted_content(id: Option<&str>) -> Failure {
    let item = id.map_or(String::new(), |id| format!(" for item {id}"));
    let message = format!(
        "The encrypted content{item} could not be verified. Reason: Encrypted content could not be decrypted or parsed."
    );
    invalid_input(400, message, "input", Some("invalid_encrypted_content"))
}

fn invalid_input(status: u16, message: String, param: &str, code: Option<&str>) -> Failure {
    let body = json!({
        "error": { "message": message, "type": "invalid_request_error", "param": param, "code": code }
    });
    Failure {
        code: code.map(ToOwned::to_owned),
        body: Some(body.to_string()),
        ..Failure::new(status)
    }
}
