//! Properties of the filter's readers over random bodies, cut at random. The result does not depend on the cuts, tags
//! put into an answer are removed from the next request, and no bytes cause a panic.
//!
//! Everything follows from a seed, which a failure prints. `AOAI_SEED` runs one seed alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod random;

use azure_openai_balancer::core::config::Plugin;
use azure_openai_balancer::core::inspection::Inspection;
use azure_openai_balancer::core::json::scan::{Findings, Scan};
use azure_openai_balancer::core::json::tagger::{insert, Tagger};
use azure_openai_balancer::core::multipart::{Scanner, Value};
use azure_openai_balancer::core::request::{Place, Request};
use azure_openai_balancer::core::splices::Splices;
use azure_openai_balancer::core::state::ids::{split, Tag, Tags};
use azure_openai_balancer::core::state::objects::is_object_id;
use serde_json::{json, Map, Value as Json};

use self::random::{seeds, Random};

const SEEDS: u64 = 2000;

/// Pieces that together lead a reader through all its states.
const PIECES: [&str; 38] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u",
    "\\u0065",
    "\n",
    "\r\n",
    " ",
    "data: ",
    "event: x\n",
    "true",
    "false",
    "null",
    "1",
    "\"id\":",
    "\"model\":",
    "\"file_ids\":[",
    "\"metadata\":{",
    "\"parameters\":{",
    "\"encrypted_content\":",
    "\"rs_1\"",
    "\"store\":",
    "\"background\":",
    "\"resp_1\"",
    "\"file-1.b123456\"",
    "--b1",
    "\r\n--b1\r\n",
    "--",
    "content-disposition: form-data; name=\"model\"\r\n\r\n",
    "ü",
    "\u{1f600}",
    "\u{feff}",
    "x",
];

const ID_KEYS: [&str; 8] = [
    "id",
    "file_id",
    "previous_response_id",
    "file_ids",
    "vector_store_ids",
    "training_file",
    "container",
    "file",
];
const OTHER_KEYS: [&str; 10] = [
    "model",
    "text",
    "metadata",
    "attributes",
    "parameters",
    "schema",
    "encrypted_content",
    "custom_id",
    "ids",
    "größe",
];
const STRINGS: [&str; 14] = [
    "resp_68a1",
    "file-abc_DEF-1",
    "assistant-1",
    "batch_6f7fcbb9-2c4e-4d8b-8f7b-1d4a7c9b0f11",
    "vs_1",
    "msg_1",
    "rs_1",
    "resp_",
    "resp_ü",
    "resp_1 said \"resp_2\"",
    "",
    "\\",
    "{\"id\":\"resp_1\"}",
    "line\nbreak",
];

fn one_of<'a>(random: &mut Random, list: &[&'a str]) -> &'a str {
    list[random.below(list.len() as u64) as usize]
}

fn document(random: &mut Random, depth: u64) -> Json {
    match random.below(if depth < 5 { 6 } else { 3 }) {
        0 => json!(random.below(1000)),
        1 => json!(random.one_in(2)),
        2 | 3 => json!(one_of(random, &STRINGS)),
        4 => (0..random.below(5))
            .map(|_| document(random, depth + 1))
            .collect(),
        _ => object(random, depth + 1),
    }
}

fn object(random: &mut Random, depth: u64) -> Json {
    let mut members = Map::new();
    for _ in 0..random.below(6) {
        let keys = if random.one_in(2) {
            &ID_KEYS[..]
        } else {
            &OTHER_KEYS[..]
        };
        members.insert(one_of(random, keys).to_owned(), document(random, depth));
    }
    Json::Object(members)
}

/// The document as JSON: on one line, on several, behind a byte order mark, or as an event stream.
fn written(random: &mut Random, document: &Json) -> String {
    match random.below(4) {
        0 => document.to_string(),
        1 => format!("\u{feff}{document}"),
        2 => serde_json::to_string_pretty(document).unwrap(),
        _ => format!("event: response.created\r\ndata: {document}\r\n\r\ndata: {document}\n\ndata: [DONE]\n\n"),
    }
}

/// `bytes` in chunks of random lengths.
fn chunks<'b>(random: &mut Random, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let longest = [2, 10, 100][random.below(3) as usize];
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let length = random.below(longest) as usize;
        let (chunk, rest) = bytes.split_at(length.min(bytes.len()));
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

fn tagged(tag: Tag, chunks: &[&[u8]]) -> Vec<u8> {
    let mut tagger = Tagger::default();
    let mut tagged = Vec::new();
    for chunk in chunks {
        insert(tag, chunk, tagger.push(chunk), &mut tagged);
    }
    tagged
}

fn scanned(chunks: &[&[u8]]) -> (Findings, Option<Findings>) {
    let mut scan = Scan::default();
    chunks.iter().for_each(|chunk| scan.push(chunk));
    (scan.so_far().clone(), scan.finish())
}

fn untagged(body: &[u8]) -> Vec<u8> {
    let mut splices = Splices::default();
    for found in scanned(&[body]).0.tags {
        assert!(splices.cut(found.range()));
    }
    splices.apply(body)
}

/// The ids of objects that the filter must find, in order, worked out on the whole document.
fn ids_in<'d>(document: &'d Json, of_ids: bool, ids: &mut Vec<&'d str>) {
    match document {
        Json::String(text) if of_ids && is_object_id(text.as_bytes()) => ids.push(text),
        Json::Array(items) => items.iter().for_each(|item| ids_in(item, of_ids, ids)),
        Json::Object(members) => {
            for (key, value) in members {
                let clients_own =
                    ["metadata", "attributes", "parameters", "schema"].contains(&key.as_str());
                match value.as_str() {
                    Some(content) if key == "encrypted_content" => {
                        ids.extend((!content.is_empty()).then_some(content));
                    }
                    _ if clients_own && (value.is_object() || value.is_array()) => {}
                    _ => ids_in(value, ID_KEYS.contains(&key.as_str()), ids),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn a_tag_and_its_removal_are_inverse_for_any_id() {
    let hosts = [
        "a.openai.azure.com",
        "b.openai.azure.com",
        "c.openai.azure.us",
    ];
    let tags = Tags::new(hosts).unwrap();
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        let mut id: String = (0..random.below(6))
            .map(|_| one_of(random, &PIECES))
            .collect();
        for backend in (0..random.from(1..4))
            .map(|_| random.below(3) as usize)
            .collect::<Vec<_>>()
        {
            let seen = tags.of_backend(backend).unwrap().append_to(&id);
            let (known, tag) = split(&seen).unwrap();
            assert_eq!(
                (known, tags.backend_of(tag)),
                (id.as_str(), Some(backend)),
                "seed {seed}"
            );
            id = seen;
        }
    }
}

#[test]
fn tagging_does_not_depend_on_how_a_body_is_cut() {
    let tag = Tag::of("host");
    let mut tags = 0;
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        let document = object(random, 0);
        let body = written(random, &document);
        let body = body.as_bytes();
        let whole = tagged(tag, &[body]);
        assert_eq!(tagged(tag, &chunks(random, body)), whole, "seed {seed}");
        assert_eq!(untagged(&whole), body, "seed {seed}");
        assert_eq!(tagged(tag, &[&whole]), whole, "seed {seed}");
        tags += (whole.len() - body.len()) / Tag::LENGTH;
    }
    assert!(tags > 0, "nothing was tagged");
}

/// The last string that begins before `at`, without its escapes.
fn value_before(json: &str, at: usize) -> String {
    let quotes = json[..at].match_indices('"').map(|(quote, _)| quote);
    let mut starts = quotes.rev().filter(|quote| {
        let before = json[..*quote].bytes().rev();
        before.take_while(|byte| *byte == b'\\').count() % 2 == 0
    });
    let start = starts.next().unwrap();
    serde_json::from_str(&format!("{}\"", &json[start..at])).unwrap()
}

const CONFIG: &str = r#"{
    "backends": [
        {"name": "a", "cluster": "a", "host": "a.openai.azure.com"},
        {"name": "b", "cluster": "b", "host": "b.openai.azure.com", "deployments": {"gpt": "own"}},
        {"name": "c", "cluster": "c", "host": "c.openai.azure.com"}
    ],
    "identity": {"cluster": "imds"}
}"#;

/// An item of a response, as a backend may write it.
fn item(random: &mut Random) -> String {
    let beginnings = [
        "rs_", "msg_", "fc_", "mcp_", "ig_", "cmp_", "file-", "resp_",
    ];
    let id = format!("{}{:x}", one_of(random, &beginnings), random.next());
    let space = one_of(random, &["", " ", "\t "]);
    let content = one_of(
        random,
        &[
            "gAAAA-_==",
            "gAAAA\\u002b\\u003d",
            "\\\"",
            "ü",
            "x.b12345",
            ".b",
        ],
    );
    let rest = one_of(
        random,
        &[
            "",
            ",\"arguments\":\"{\\\"id\\\":\\\"rs_1\\\"}\"",
            ",\"n\":1.50",
            ",\"encrypted_content\":null",
        ],
    );
    match random.below(4) {
        0 => format!(r#"{{"type":"item_reference",{space}"id":{space}"{id}"}}"#),
        1 => format!(r#"{{"encrypted_content":{space}"{content}"{rest}}}"#),
        2 => format!(r#"{{"id":"{id}","metadata":{{"id":"{id}"}}{rest}}}"#),
        _ => format!(r#"{{{space}"id":"{id}", "encrypted_content"{space}:"{content}"{rest}}}"#),
    }
}

/// Clients get answers of three backends, shuffle the items of each backend, and send them back.
#[test]
fn a_backend_gets_back_byte_for_byte_what_it_made() {
    let Ok(Plugin::Balancer(config)) = Plugin::from_bytes(CONFIG.as_bytes(), &|_| None) else {
        panic!("the configuration");
    };
    let tags = config.tags();
    let (mut led, mut apart) = (0, 0);
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        // The items of each backend: as it wrote them, and as its clients got them.
        let mut made: [Vec<(String, String)>; 3] = Default::default();
        for _ in 0..random.from(2..12) {
            let on = random.below(3) as usize;
            let own = item(random);
            let (before, after) = match random.one_in(2) {
                true => ("{\"output\":[", "]}"),
                false => ("event: x\r\ndata: {\"item\":", "}\n\n"),
            };
            let written = [before, &own, after].concat();
            let pieces = chunks(random, written.as_bytes());
            let got = tagged(tags.of_backend(on).unwrap(), &pieces);
            let got = String::from_utf8(got).unwrap();
            let got = got
                .strip_prefix(before)
                .and_then(|got| got.strip_suffix(after));
            made[on].push((own, got.unwrap().to_owned()));
        }
        let on = random.below(3) as usize;
        let mut sent: Vec<_> = made[on]
            .iter()
            .filter(|_| random.one_in(2))
            .cloned()
            .collect();
        let foreign = made.iter().enumerate().filter(|(other, _)| *other != on);
        let mut foreign = foreign.flat_map(|(_, made)| made);
        let is_mixed = random.one_in(4) && !sent.is_empty();
        let is_mixed = is_mixed && foreign.next().map(|item| sent.push(item.clone())).is_some();
        let body = |items: &mut dyn Iterator<Item = &String>| {
            let items: Vec<_> = items.map(String::as_str).collect();
            format!("{{\"model\":\"gpt\",\"input\":[{}]}}", items.join(","))
        };
        let (own, got) = (
            body(&mut sent.iter().map(|(own, _)| own)),
            body(&mut sent.iter().map(|(_, got)| got)),
        );
        let headers: [(&[u8], &[u8]); 2] =
            [(b":method", b"POST"), (b":path", b"/openai/v1/responses")];
        let mut request = Request::of(headers.into_iter(), &tags);
        let mut inspection = Inspection::of(&request, &config, false).unwrap();
        let pieces = chunks(random, got.as_bytes());
        for (at, piece) in pieces.iter().enumerate() {
            if let Some(found) = inspection.push(piece, at + 1 == pieces.len()) {
                request.learn(found, &tags);
            }
        }
        let place = request.place(&config);
        if is_mixed {
            apart += 1;
            assert_eq!(place, Place::Nowhere, "seed {seed}: {got}");
            continue;
        }
        if sent.is_empty() {
            assert_eq!(place, Place::Anywhere, "seed {seed}");
        } else {
            led += 1;
            assert_eq!(
                place,
                Place::Only([on].into_iter().collect()),
                "seed {seed}: {got}"
            );
        }
        let expected = match on {
            1 => own.replacen("\"gpt\"", "\"own\"", 1),
            _ => own,
        };
        let up = request.splices(&config.backends[on]).apply(got.as_bytes());
        assert_eq!(String::from_utf8(up).unwrap(), expected, "seed {seed}");
    }
    assert!(led > 100 && apart > 100, "{led} {apart}");
}

#[test]
fn exactly_the_ids_of_objects_are_tagged() {
    let tag = Tag::of("host");
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        let document = object(random, 0);
        let body = document.to_string();
        let mut expected = Vec::new();
        ids_in(&document, false, &mut expected);
        let tagged = String::from_utf8(tagged(tag, &[body.as_bytes()])).unwrap();
        let found: Vec<_> = tagged
            .match_indices(tag.as_str())
            .map(|(at, _)| value_before(&tagged, at))
            .collect();
        assert_eq!(found, expected, "seed {seed}: {body}");
    }
}

#[test]
fn a_request_is_read_alike_however_it_is_cut() {
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        let document = object(random, 0);
        let body = tagged(Tag::of("host"), &[document.to_string().as_bytes()]);
        let (so_far, found) = scanned(&[&body]);
        assert_eq!(found.as_ref(), Some(&so_far), "seed {seed}");
        assert_eq!(
            scanned(&chunks(random, &body)).1.as_ref(),
            Some(&so_far),
            "seed {seed}"
        );
        let name = so_far
            .model
            .as_ref()
            .and_then(|model| model.name.as_deref());
        assert_eq!(name, document["model"].as_str(), "seed {seed}");

        // The document differs only by a new model and the removed tags.
        let mut splices = Splices::default();
        for found in &so_far.tags {
            assert!(splices.cut(found.range()));
        }
        if let Some(model) = &so_far.model {
            assert!(splices.replace(model.range.clone(), b"spliced"));
        }
        let spliced = splices.apply(&body);
        assert_eq!(
            spliced.len() as isize,
            body.len() as isize + splices.delta()
        );
        let mut expected = document;
        if so_far.model.is_some() {
            expected["model"] = json!("spliced");
        }
        let read: Json = serde_json::from_slice(&spliced).unwrap();
        assert_eq!(read, expected, "seed {seed}");

        let mut out = Vec::new();
        let mut offset = 0;
        for chunk in chunks(random, &body) {
            splices.apply_chunk(offset, chunk, &mut out);
            offset += chunk.len();
        }
        assert_eq!(out, spliced, "seed {seed}");
    }
}

#[test]
fn any_bytes_pass_and_are_read_alike_however_they_are_cut() {
    let form = |chunks: &[&[u8]]| -> Option<Value> {
        let mut scanner = Scanner::new("multipart/form-data; boundary=b1", "model").unwrap();
        chunks.iter().for_each(|chunk| scanner.push(chunk));
        scanner.value().cloned()
    };
    let tag = Tag::of("host");
    for seed in seeds(0..10 * SEEDS) {
        let random = &mut Random(seed);
        let mut bytes = Vec::new();
        for _ in 0..random.below(60) {
            if random.one_in(8) {
                bytes.push(random.next() as u8);
            } else {
                bytes.extend_from_slice(one_of(random, &PIECES).as_bytes());
            }
        }
        let cut = chunks(random, &bytes);
        assert_eq!(scanned(&cut), scanned(&[&bytes]), "seed {seed}");
        assert_eq!(tagged(tag, &cut), tagged(tag, &[&bytes]), "seed {seed}");
        assert_eq!(form(&cut), form(&[&bytes]), "seed {seed}");
        // A tag to be removed stands before a closing quote, whatever surrounds it.
        let (so_far, _) = scanned(&[&bytes]);
        for found in so_far.tags {
            assert_eq!(bytes[found.range().end], b'"', "seed {seed}");
        }
    }
}

#[test]
fn every_document_is_read_as_valid() {
    for seed in seeds(0..SEEDS) {
        let random = &mut Random(seed);
        let mut document = document(random, 0);
        // Some documents are nested more deeply than the reader follows.
        for level in 0..random.below(50) {
            document = match level % 3 {
                0 => json!([document]),
                1 => json!({"metadata": document}),
                _ => json!({"x": [1, null], "y": document, "z": true}),
            };
        }
        let body = serde_json::to_string_pretty(&document).unwrap();
        assert!(
            scanned(&[body.as_bytes()]).1.is_some(),
            "seed {seed}: {body}"
        );
    }
}

#[test]
fn a_body_of_megabytes_is_read_like_a_small_one() {
    let text = "\\u00fc \\\"id\\\": \\\"resp_1\\\" ".repeat(100_000);
    let id = Tag::of("host").append_to("resp_1");
    let body = format!(r#"{{"input":"{text}","previous_response_id":"{id}","model":"a"}}"#);
    let pieces: Vec<_> = body.as_bytes().chunks(16_384).collect();
    let found = scanned(&pieces).1.unwrap();
    assert_eq!(&body[found.model.unwrap().range], "a");
    let tags: Vec<_> = found
        .tags
        .iter()
        .map(|found| &body[found.range()])
        .collect();
    assert_eq!(tags, [Tag::of("host").as_str()]);
}
