//! The known field that an unknown one was probably meant to be.

use strsim::osa_distance;

/// The start of the text that tells an unknown field, up to the list of known ones.
const UNKNOWN: &str = "unknown field; use one of ";

/// `text` with the known field that is spelled most like the last field of `path`, if `text` is about an unknown field.
pub(crate) fn with_suggestion(path: &str, text: String) -> String {
    let Some(known) = text.strip_prefix(UNKNOWN) else {
        return text;
    };
    let (parent, written) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(meant) = closest(written, known.split(", ")) {
        return format!("unknown field, did you mean {meant}? Use one of {known}");
    }
    match elsewhere(parent, written) {
        Some(place) => format!("unknown field, {place}. Use one of {known}"),
        None => text,
    }
}

/// The place of fields that often stand in another one.
fn elsewhere(parent: &str, written: &str) -> Option<&'static str> {
    let is_identity = parent == "identity" || parent.starts_with("identities.");
    Some(match written {
        "tenant_id" | "authority_host" if is_identity => {
            "it needs the source \"workload_identity\" or \"client_secret\""
        }
        "token_file" | "token_socket" | "token_file_cluster" if is_identity => {
            "it needs the source \"workload_identity\""
        }
        "client_secret_env" if is_identity => "it needs the source \"client_secret\"",
        _ if !parent.is_empty() => return None,
        "host" | "name" | "weight" | "priority" | "deployments" | "api_key_env" | "api_version"
        | "base_path" | "apis" | "endpoint" => "it belongs to an entry of `backends`",
        "port" | "address" | "certificate" => "it belongs to `listener`",
        "max_attempts" | "statuses" | "budget" | "per_try_timeout" => "it belongs to `retry`",
        "throttled" | "failing" | "wait_timeout" => "it belongs to `cooldown`",
        "source" | "client_id" | "tenant_id" | "token_file" => "it belongs to `identity`",
        "keys_file" | "entra_id" => "it belongs to `clients`",
        "trusted_ca" => "it belongs to `tls`",
        "namespace" | "image" | "gateway" | "tls_secret" => "it belongs to `kubernetes`",
        _ => return None,
    })
}

/// The candidate that takes the fewest mistakes to become `written`, at most one in three letters, or else the only one that has
/// `written` in it. Case does not count.
fn closest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = (written.chars().count() / 3).clamp(1, 3);
    let written = written.to_ascii_lowercase();
    let known: Vec<&str> = known.collect();
    let spelled = known
        .iter()
        .map(|candidate| (osa_distance(&written, candidate), *candidate))
        .filter(|(mistakes, _)| *mistakes <= most)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, candidate)| candidate);
    // A part of one name alone.
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
            assert_eq!(closest(written, known.into_iter()), meant, "{written}");
        }
    }

    #[test]
    fn a_field_in_the_wrong_place_is_told_the_right_one() {
        for (path, place) in [
            ("port", Some("it belongs to `listener`")),
            ("weight", Some("it belongs to an entry of `backends`")),
            (
                "identity.tenant_id",
                Some("it needs the source \"workload_identity\" or \"client_secret\""),
            ),
            ("headers.port", None),
        ] {
            let told = with_suggestion(path, format!("{UNKNOWN}one, two"));
            let expected = match place {
                Some(place) => format!("unknown field, {place}. Use one of one, two"),
                None => format!("{UNKNOWN}one, two"),
            };
            assert_eq!(told, expected, "{path}");
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
