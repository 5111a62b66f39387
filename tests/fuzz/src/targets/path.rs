//! The cleaning of paths and of a WebSocket's subprotocols, and the names of headers with credentials, against plain
//! implementations. The input is a path, and on further lines names of headers or `sec-websocket-protocol: VALUE`.

use azure_openai_balancer::core::client_credentials::is_credential_header;
use azure_openai_balancer::core::operation::{surface, Path};
use azure_openai_balancer::core::request::{Objects, Request};
use azure_openai_balancer::core::state::ids::{Tag, Tags};

const HOSTS: [&str; 2] = ["west.example", "east.example"];

/// The last words of names with credentials.
const WORDS: [&str; 5] = [
    "authorization",
    "api-key",
    "apikey",
    "subscription-key",
    "access-token",
];

/// The beginning of a line with subprotocols.
const PROTOCOLS: &[u8] = b"sec-websocket-protocol: ";

pub(crate) fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    check_path(lines.next().unwrap_or_default());
    let (protocols, names): (Vec<&[u8]>, Vec<&[u8]>) =
        lines.partition(|line| line.starts_with(PROTOCOLS));
    let protocols = protocols.iter().map(|line| &line[PROTOCOLS.len()..]);
    check_protocols(&protocols.collect::<Vec<_>>());
    let is_lower = |name: &&[u8]| !name.iter().any(u8::is_ascii_uppercase);
    for name in names.into_iter().filter(is_lower) {
        let expected = name == b"cookie" || carries_credential(name);
        assert_eq!(
            is_credential_header(name),
            expected,
            "{}",
            String::from_utf8_lossy(name)
        );
    }
}

fn check_path(bytes: &[u8]) {
    let tags = Tags::new(HOSTS).expect("different tags");
    for method in ["GET", "POST"] {
        let headers = [(&b":method"[..], method.as_bytes()), (b":path", bytes)];
        let request = Request::of(headers.into_iter(), &tags);
        let Ok(path) = std::str::from_utf8(bytes) else {
            assert!(!request.has_path && request.clean_path.is_none());
            continue;
        };
        assert_eq!(request.has_path, !path.is_empty());
        let is_azures = is_of_azure(path);
        assert_eq!(surface(&Path::of(path)).is_some(), is_azures);
        assert_eq!(request.surface.is_some(), is_azures);

        let plain = without_credentials(path);
        let (clean, homes) = match is_azures {
            true => without_tags(&plain),
            false => (plain, Vec::new()),
        };
        assert_eq!(request.clean_path.as_deref().unwrap_or(path), clean);
        let objects = match homes[..] {
            [] => Objects::None,
            [first, ref others @ ..] if others.iter().all(|other| *other == first) => {
                Objects::On(first)
            }
            _ => Objects::Apart,
        };
        assert_eq!(request.objects, objects);
    }
}

fn check_protocols(lines: &[&[u8]]) {
    let headers = lines
        .iter()
        .map(|line| (&b"sec-websocket-protocol"[..], *line));
    let request = Request::of(headers, &Tags::default());
    let texts: Vec<_> = lines
        .iter()
        .flat_map(|line| std::str::from_utf8(line))
        .collect();
    let offered = texts.iter().flat_map(|line| line.split(',')).map(str::trim);
    let is_key = |offered: &&str| {
        let offered = offered.to_ascii_lowercase();
        offered.starts_with("openai-insecure-api-key.")
    };
    let offered = offered.filter(|offered| !offered.is_empty());
    let (keys, kept): (Vec<&str>, Vec<&str>) = offered.partition(is_key);
    let is_clean = keys.is_empty() && texts.len() == lines.len();
    assert_eq!(
        request.clean_protocols,
        (!is_clean).then(|| kept.join(", "))
    );
}

fn is_of_azure(path: &str) -> bool {
    let target = path
        .split('?')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let openai = target.strip_prefix("/openai/");
    let Some(rest) = openai.or_else(|| target.strip_prefix("/anthropic/")) else {
        return false;
    };
    let rest = rest
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace('\\', "/");
    let was_escaped = target.contains("%2f") || target.contains('\\');
    !was_escaped
        && !rest
            .split('/')
            .any(|segment| segment == "." || segment == "..")
}

fn without_credentials(path: &str) -> String {
    let Some((target, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let is_credential = |parameter: &&str| {
        let name = decoded(parameter.split('=').next().unwrap_or_default());
        carries_credential(&name) || name.eq_ignore_ascii_case(b"key")
    };
    let (removed, kept): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_credential);
    match (removed.is_empty(), kept.is_empty()) {
        (true, _) => path.to_owned(),
        (false, true) => target.to_owned(),
        (false, false) => format!("{target}?{}", kept.join("&")),
    }
}

fn without_tags(path: &str) -> (String, Vec<usize>) {
    let (mut clean, mut homes) = (String::new(), Vec::new());
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.find(['/', '?', '&', '=', '#']).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let tagged = HOSTS.iter().enumerate().find_map(|(home, host)| {
            let id = part.strip_suffix(Tag::of(*host).as_str())?;
            Some((home, id))
        });
        homes.extend(tagged.map(|(home, _)| home));
        clean.push_str(tagged.map_or(part, |(_, id)| id));
        let separator = after.chars().next();
        clean.extend(separator);
        rest = &after[separator.map_or(0, char::len_utf8)..];
    }
    (clean, homes)
}

fn carries_credential(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let name: Vec<u8> = name
        .iter()
        .map(|byte| if *byte == b'_' { b'-' } else { *byte })
        .collect();
    WORDS
        .iter()
        .any(|word| match name.strip_suffix(word.as_bytes()) {
            Some([.., before]) => !before.is_ascii_alphanumeric(),
            Some([]) => true,
            None => false,
        })
}

/// `text` with its percent-escapes decoded.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (bytes, mut at, mut decoded) = (text.as_bytes(), 0, Vec::new());
    while at < bytes.len() {
        match bytes[at..] {
            [b'%', ref high, ref low, ..] if digit(high).is_some() && digit(low).is_some() => {
                let value = digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0);
                decoded.push(value as u8);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}
