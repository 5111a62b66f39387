//! The reader of event streams, against the algorithm of the HTML standard on the whole text.

use azure_openai_balancer::core::sse::{Event, Events};

use super::same_for_all_cuts;

type Found = Vec<(String, String)>;

pub(crate) fn check(input: &[u8]) {
    let (found, is_too_long) = same_for_all_cuts(input, |chunks| read(chunks, usize::MAX));
    assert!(!is_too_long);
    assert_eq!(found, naive(input));

    // An event that is too long ends the list. The events before it are unchanged.
    let (short, _) = same_for_all_cuts(input, |chunks| read(chunks, 64));
    assert!(found.starts_with(&short));
}

fn read(chunks: &[&[u8]], limit: usize) -> (Found, bool) {
    let mut found = Vec::new();
    let mut hand_out = |event: Event<'_>| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.push((text(event.name()), text(&event.data())));
    };
    let mut events = Events::new(limit);
    let mut is_too_long = false;
    for chunk in chunks {
        is_too_long |= events.push(chunk, &mut hand_out).is_err();
    }
    events.finish(&mut hand_out);
    (found, is_too_long)
}

fn naive(input: &[u8]) -> Found {
    let text = String::from_utf8_lossy(input);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n") + "\n\n";
    let (mut found, mut name, mut data) = (Vec::new(), String::new(), Vec::new());
    for line in text.split('\n') {
        if line.is_empty() {
            if !data.is_empty() {
                found.push((name, data.join("\n")));
            }
            (name, data) = (String::new(), Vec::new());
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => data.push(value),
            _ => {}
        }
    }
    found
}
