//! Keys for clients.

use std::io;

use render::Key;

/// How long a key is, in random bytes: none will be guessed.
const BYTES: usize = 32;

/// A file of keys, one new one for each client.
///
/// # Errors
/// The system gives no random numbers.
pub fn keys(clients: &[String]) -> io::Result<String> {
    let keys = clients.iter().map(|client| {
        Ok(Key {
            client: client.clone(),
            key: key()?,
        })
    });
    let keys = keys.collect::<io::Result<Vec<_>>>()?;
    Ok(render::keys_file("x-aoai-client", &keys))
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
    fn every_client_has_a_key_of_its_own() {
        let file = keys(&["app-1".to_owned(), "app-2".to_owned()]).unwrap();
        let keys: Vec<&str> = file
            .lines()
            .filter_map(|line| line.trim().strip_prefix("key: "))
            .collect();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1]);
        assert!(
            keys.iter().all(|key| key.len() == 2 * BYTES + 2),
            "{keys:?}"
        );
    }
}
