//! The subprotocols that a WebSocket client offers. A browser cannot set headers, so it sends its key among them.

use crate::prelude::*;

/// The key for a realtime session, without its prefix, among the subprotocols in these header lines.
#[inline(never)]
pub(super) fn session_key_in<'a>(lines: &[&'a [u8]]) -> Option<&'a [u8]> {
    let offered = lines
        .iter()
        .flat_map(|line| line.split(|byte| *byte == b','));
    let mut offered = offered.map(<[u8]>::trim_ascii);
    offered.find_map(|it| it.strip_prefix(b"openai-insecure-api-key.ek_"))
}

/// The subprotocols in these header lines without a client's key, if one is among them. OpenAI's clients in browsers
/// send the key as `openai-insecure-api-key.KEY`.
#[inline(never)]
pub(super) fn without_key(lines: &[&[u8]]) -> Option<String> {
    const KEY: &str = "openai-insecure-api-key.";
    let is_key = |protocol: &str| {
        let start = protocol.get(..KEY.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(KEY))
    };
    let (mut kept, mut is_clean) = (String::new(), true);
    for line in lines {
        // A line that is not text has no usable subprotocols, and may hide a key.
        let Ok(line) = core::str::from_utf8(line) else {
            is_clean = false;
            continue;
        };
        for protocol in line.split(',').map(str::trim) {
            if is_key(protocol) {
                is_clean = false;
            } else if !protocol.is_empty() {
                if !kept.is_empty() {
                    kept.push_str(", ");
                }
                kept.push_str(protocol);
            }
        }
    }
    (!is_clean).then_some(kept)
}
