//! Clients' keys.

use std::io;

use render::yaml::quoted;
use render::Key;

/// The length of a key in random bytes. Nobody can guess such a key.
const BYTES: usize = 32;

/// A file with a new key for each client, and these keys.
///
/// # Errors
/// When the system gives no random numbers.
pub fn keys(clients: &[String]) -> io::Result<(String, Vec<Key>)> {
    let keys = clients.iter().map(|client| {
        Ok(Key {
            client: client.clone(),
            key: key()?,
        })
    });
    let keys = keys.collect::<io::Result<Vec<_>>>()?;
    Ok((render::keys_file(render::CLIENT_HEADER, &keys), keys))
}

/// One line for each client: its name and its key.
pub fn key_lines(keys: &[Key]) -> String {
    let lines = keys.iter();
    lines
        .map(|Key { client, key }| format!("{client} {key}\n"))
        .collect()
}

/// A request with the first of these keys, to a listener on this machine with the default port.
pub fn trial(keys: &[Key]) -> String {
    let Some(Key { client, key }) = keys.first() else {
        return String::new();
    };
    format!(
        "\
Try the key of {client} when Envoy runs:
  curl 'http://localhost:10000/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21' \\
    -H 'api-key: {key}' -H 'content-type: application/json' \\
    -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'
"
    )
}

/// The keys file `text` with a new key for `client`, and that key. All other lines stay unchanged.
///
/// # Errors
/// When [`keys`] does not make such a file, the file already has the client, or the system gives no random numbers.
pub fn add_key(text: &str, client: &str) -> Result<(String, String), String> {
    const LIST: &str = "    credentials:";
    const FORM: &str = "use a file that `azure-openai-balancer keys` made";
    let entry = format!("    - client: {}", quoted(client));
    if text.lines().any(|line| line == entry) {
        return Err(format!(
            "{client:?} has a key already; use another name, or remove its entry first"
        ));
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let list = lines.iter().position(|line| line.trim_end() == LIST);
    let list = list.ok_or_else(|| format!("no line is {LIST:?}; {FORM}"))?;
    let in_list = |line: &&str| line.starts_with("    - ") || line.starts_with("      ");
    let end = list
        + 1
        + lines
            .iter()
            .skip(list + 1)
            .take_while(|line| in_list(line))
            .count();
    let key = key().map_err(|error| format!("no random numbers: {error}"))?;
    let secret = format!("      key: {}", quoted(&key));
    lines.splice(end..end, [entry.as_str(), secret.as_str()]);
    Ok((lines.join("\n") + "\n", key))
}

fn key() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_client_gets_a_key_and_the_others_keep_theirs() {
        let (before, _) = keys(&["app-1".to_owned()]).unwrap();
        let (after, key) = add_key(&before, "app-2").unwrap();
        let added = format!("    - client: \"app-2\"\n      key: \"{key}\"\n");
        assert_eq!(after.replacen(&added, "", 1), before);
        let again = add_key(&after, "app-2").unwrap_err();
        assert!(again.contains("has a key already"), "{again}");
        // Envoy reads the file like one that was made at once.
        let at = |text: &str, part: &str| text.find(part).unwrap();
        assert!(at(&after, "app-1") < at(&after, "app-2"));
        assert!(at(&after, "app-2") < at(&after, "key_sources:"));
    }

    #[test]
    fn keys_are_added_to_a_file_of_keys_alone() {
        for text in ["", "backends: []\n"] {
            let refused = add_key(text, "app-1").unwrap_err();
            assert!(refused.contains("use a file that"), "{refused}");
        }
    }

    #[test]
    fn every_client_has_a_key_of_its_own() {
        let (file, new) = keys(&["app-1".to_owned(), "app-2".to_owned()]).unwrap();
        let keys: Vec<&str> = file
            .lines()
            .filter_map(|line| line.trim().strip_prefix("key: "))
            .collect();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1]);
        let new: Vec<_> = new.iter().map(|key| quoted(&key.key)).collect();
        assert_eq!(keys, new);
        assert!(
            keys.iter().all(|key| key.len() == 2 * BYTES + 2),
            "{keys:?}"
        );
    }
}
