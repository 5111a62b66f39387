//! The known field that an unknown one was probably meant to be.

use strsim::osa_distance;

/// The start of the text that tells an unknown field, up to the list of known ones.
const UNKNOWN: &str = "unknown field; use one of ";

/// `text` with the known field that is spelled most like the last field of `path`, if `text` is about an unknown field.
pub(crate) fn with_suggestion(path: &str, text: String) -> String {
    let Some(known) = text.strip_prefix(UNKNOWN) else {
        return text;
    };
    let written = path.rsplit('.').next().unwrap_or(path);
    match closest(written, known.split(", ")) {
        Some(meant) => format!("unknown field, did you mean {meant}? Use one of {known}"),
        None => text,
    }
}

/// The candidate that takes the fewest mistakes to become `written`: at most one in three letters. Case does not count.
fn closest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = (written.chars().count() / 3).clamp(1, 3);
    let written = written.to_ascii_lowercase();
    known
        .map(|candidate| (osa_distance(&written, candidate), candidate))
        .filter(|(mistakes, _)| *mistakes <= most)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, candidate)| candidate)
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
            ("api_key", None),
            ("", None),
        ] {
            let known = ["host", "weight", "priority", "api_key_env"];
            assert_eq!(closest(written, known.into_iter()), meant, "{written}");
        }
    }

    #[test]
    fn only_unknown_fields_get_a_suggestion() {
        let text = "0 is not allowed; use 1 to 100".to_owned();
        assert_eq!(with_suggestion("backends[0].weight", text.clone()), text);
        assert_eq!(
            with_suggestion(
                "admin.prot",
                "unknown field; use one of address, port".to_owned()
            ),
            "unknown field, did you mean port? Use one of address, port"
        );
    }
}
