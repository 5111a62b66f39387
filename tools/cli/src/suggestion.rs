//! The known field that an unknown one was probably meant to be.

use strsim::osa_distance;

/// What the unknown field at `path` was probably meant to be, as a clause with its sign at the end: the known field that is spelled most
/// like it, or the place where it belongs.
pub(crate) fn suggestion(path: &str, known: &[&str]) -> Option<String> {
    let (parent, written) = path.rsplit_once('.').unwrap_or(("", path));
    match closest(written, known) {
        Some(meant) => Some(format!("did you mean {meant}?")),
        None => elsewhere(parent, written).map(|place| format!("{place}.")),
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
fn closest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let most = (written.chars().count() / 3).clamp(1, 3);
    let written = written.to_ascii_lowercase();
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
            assert_eq!(closest(written, &known), meant, "{written}");
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
            let told = suggestion(path, &["one", "two"]);
            assert_eq!(told, place.map(|place| format!("{place}.")), "{path}");
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
