//! The forms of texts in the configuration, and the reading of environment variables.

use super::field::Variable;
use super::reader::Object;
use super::redact::is_variable_name;
use crate::prelude::*;

/// The name of a cluster, for error messages.
pub(super) const CLUSTER_FORM: &str = "the name of an Envoy cluster";

/// The name of a backend, an identity or a client, for error messages.
pub(super) const NAME_FORM: &str = "1 to 64 letters, digits, '-' or '_'";

/// The name of a header, for error messages.
pub(super) const HEADER_FORM: &str = "the name of a header in lower case";

/// The name of an environment variable, for error messages.
pub(super) const VARIABLE_FORM: &str =
    "the name of an environment variable: letters, digits and '_', such as EAST_API_KEY";

/// The content of the environment variable that `field` names. No message contains a wrong name, because it may be the
/// secret itself.
pub(super) fn read_variable(
    object: &mut Object<'_>,
    field: &Variable,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let name = match object.value(field.name) {
        None => field.default,
        Some(given) => match given.as_str().filter(|text| is_variable_name(text)) {
            Some(name) => name,
            None => {
                let problem = format!(
                    "*** (not shown, it may be a secret) is not allowed; use {VARIABLE_FORM}"
                );
                object.problem(field.name, problem);
                return None;
            }
        },
    };
    let value = environment(name).filter(|value| is_header_text(value) && !value.is_empty());
    if value.is_none() {
        object.problem(
            field.name,
            format_args!(
                "the variable {name:?} is not set or not printable; set it in vm_config.environment_variables"
            ),
        );
    }
    value
}

/// Whether a header can contain `text`.
pub(super) fn is_header_text(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether a text can name a backend, an identity or a client.
pub(super) fn is_name(text: &str) -> bool {
    // The name becomes a part of statistics' names, where a dot would be a separator.
    text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Whether a text is a host, with or without a port.
pub(super) fn is_host(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_' | b'[' | b']'))
}

/// Whether a text is the name of a header in lower case.
pub(super) fn is_header_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}
