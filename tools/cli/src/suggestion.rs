//! Suggestions for unknown fields.

use std::collections::VecDeque;

use serde_json::Value;
use strsim::osa_distance;

use crate::schema::schema;
use crate::Form;

/// The probable meaning of the unknown field at `path`, as a clause with its punctuation: the known field with the most
/// similar spelling, or the place where the field belongs.
pub(crate) fn suggestion(path: &str, known: &[&str]) -> Option<String> {
    let (parent, written) = path.rsplit_once('.').unwrap_or(("", path));
    match closest(written, known) {
        Some(meant) => Some(format!("did you mean {meant}?")),
        None => elsewhere(parent, written).map(|place| format!("{place}.")),
    }
}

/// The place of a field that belongs to another object.
fn elsewhere(parent: &str, written: &str) -> Option<String> {
    let schema = schema(Form::Backends);
    if parent == "identity" || parent.starts_with("identities.") {
        let field = &schema["$defs"]["Identity"]["properties"][written];
        let sources = match &field["x-source"] {
            Value::Array(sources) => sources.iter().filter_map(Value::as_str).collect(),
            source => Vec::from_iter(source.as_str()),
        };
        let sources = sources.join("\" or \"");
        return (!sources.is_empty()).then(|| format!("it needs the source \"{sources}\""));
    }
    if !parent.is_empty() {
        return None;
    }
    // Among several objects with such a field, the most common ones come first.
    let often = ["backends", "listener", "retry", "cooldown", "identity"];
    let mut objects: Vec<_> = schema["properties"].as_object()?.iter().collect();
    objects.sort_by_key(|(name, _)| {
        often
            .iter()
            .position(|often| often == name)
            .unwrap_or(often.len())
    });
    let mut objects: VecDeque<_> = objects
        .into_iter()
        .map(|(name, field)| (name.clone(), field))
        .collect();
    while let Some((path, field)) = objects.pop_front() {
        let choices = field["anyOf"].as_array().into_iter().flatten();
        let reference = std::iter::once(field)
            .chain(choices)
            .chain([&field["items"]])
            .find_map(|part| part["$ref"].as_str());
        let object = match reference {
            Some(reference) => schema.pointer(reference.trim_start_matches('#'))?,
            None => field,
        };
        let Some(fields) = object["properties"].as_object() else {
            continue;
        };
        if fields.contains_key(written) {
            return Some(match path.as_str() {
                "backends" => "it belongs to an entry of `backends`".to_owned(),
                path => format!("it belongs to `{path}`"),
            });
        }
        let inner = fields.iter();
        objects.extend(inner.map(|(name, field)| (format!("{path}.{name}"), field)));
    }
    None
}

/// The candidate that differs from `written` by the fewest mistakes, at most one in three letters. Otherwise the only
/// candidate that contains `written`. Case does not count.
fn closest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let most = (written.chars().count() / 3).clamp(1, 3);
    let written = written.to_ascii_lowercase();
    let spelled = known
        .iter()
        .map(|candidate| (osa_distance(&written, candidate), *candidate))
        .filter(|(mistakes, _)| *mistakes <= most)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, candidate)| candidate);
    // Only one name contains it.
    let mut containing = known
        .iter()
        .filter(|candidate| written.len() > 3 && candidate.contains(&written));
    spelled.or_else(|| {
        containing
            .next()
            .filter(|_| containing.next().is_none())
            .copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_field_gets_the_closest_known_one() {
        for (written, meant) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("weigt", Some("weight")),
            ("prioritty", Some("priority")),
            ("hosts", Some("host")),
            ("url", None),
            ("api_key", Some("api_key_env")),
            ("env", None),
            ("", None),
        ] {
            let known = ["host", "weight", "priority", "api_key_env"];
            assert_eq!(closest(written, &known), meant, "{written}");
        }
    }

    #[test]
    fn the_right_place_of_a_misplaced_field_is_suggested() {
        for (path, place) in [
            ("port", Some("it belongs to `listener`")),
            ("weight", Some("it belongs to an entry of `backends`")),
            (
                "identity.tenant_id",
                Some("it needs the source \"workload_identity\" or \"client_secret\""),
            ),
            ("certificate", Some("it belongs to `listener.tls`")),
            ("percent", Some("it belongs to `retry.budget`")),
            ("wait_timeout", Some("it belongs to `cooldown`")),
            ("hots", None),
            ("headers.port", None),
        ] {
            let suggested = suggestion(path, &["one", "two"]);
            assert_eq!(suggested, place.map(|place| format!("{place}.")), "{path}");
        }
    }

    #[test]
    fn a_misspelled_field_is_asked_about() {
        assert_eq!(
            suggestion("admin.prot", &["address", "port"]).as_deref(),
            Some("did you mean port?")
        );
    }
}
