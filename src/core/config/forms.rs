//! The forms that texts of the configuration have, and the reading of environment variables.

use super::reader::Object;
use super::shown::is_variable_name;
use crate::prelude::*;

/// What the name of a cluster looks like, for error messages.
pub(super) const CLUSTER_FORM: &str = "the name of an Envoy cluster";

/// What a name looks like, for error messages.
pub(super) const NAME_FORM: &str = "1 to 64 letters, digits, '-' or '_'";

/// What the name of an environment variable looks like, for error messages.
pub(super) const VARIABLE_FORM: &str =
    "the name of an environment variable: letters, digits and '_', such as EAST_API_KEY";

/// The content of the environment variable that the field `key` names. What stands in the place of a name is never shown: it may
/// be the secret itself.
pub(super) fn read_variable(
    object: &mut Object<'_>,
    key: &'static str,
    default: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let name = match object.value(key) {
        None => default,
        Some(given) => match given.as_str().filter(|text| is_variable_name(text)) {
            Some(name) => name,
            None => {
                let problem = format!(
                    "*** (not shown, it may be a secret) is not allowed; use {VARIABLE_FORM}"
                );
                object.problem(key, problem);
                return None;
            }
        },
    };
    let value = environment(name).filter(|value| is_header_text(value) && !value.is_empty());
    if value.is_none() {
        object.problem(
            key,
            format_args!(
                "the variable {name:?} is not set or not printable; set it in vm_config.environment_variables"
            ),
        );
    }
    value
}

/// Whether a text can stand in a header.
pub(super) fn is_header_text(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether a text is a name: of a backend, or an identity.
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
