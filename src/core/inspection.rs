//! Reads a held request's body for the facts that decide its backend.

use super::config::Config;
use super::json::scan::Scan;
use super::multipart::Scanner;
use super::request::{BodyForm, Found, Need, Request};
use crate::prelude::*;

/// The reader of one body.
#[derive(Debug, Default)]
pub enum Inspection {
    /// Nothing is left to read.
    #[default]
    Done,
    /// A JSON document. Its last value of a key counts, so it is read to its end.
    Json(Box<Scan>),
    /// A form, which is read up to the value.
    Form(Box<Scanner>),
}

/// The error that a body must be read but is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl Inspection {
    /// The reader of the facts that `request`, which has a body, [needs](Request::needs).
    ///
    /// # Errors
    /// The body is encoded.
    pub fn of(request: &Request, config: &Config, models_matter: bool) -> Result<Self, Unreadable> {
        Ok(
            match (request.needs(config, models_matter), &request.form) {
                (Need::Nothing, _) => Self::Done,
                (Need::Unreadable, _) => return Err(Unreadable),
                (_, BodyForm::Json) => Self::Json(Box::default()),
                (need, BodyForm::Multipart(content_type)) => {
                    let scanner = match need {
                        Need::Purpose => Scanner::before_files(content_type, "purpose"),
                        _ => Scanner::new(content_type, "model"),
                    };
                    scanner.map_or(Self::Done, |scanner| Self::Form(Box::new(scanner)))
                }
            },
        )
    }

    /// Whether more of the body has to be read.
    pub fn is_under_way(&self) -> bool {
        !matches!(self, Self::Done)
    }

    /// Reads the next chunk. `end` marks the last one. Returns the facts once all are found.
    pub fn push(&mut self, chunk: &[u8], end: bool) -> Option<Found> {
        let over = match self {
            Self::Done => return None,
            Self::Json(scan) => {
                scan.push(chunk);
                end
            }
            Self::Form(scanner) => {
                scanner.push(chunk);
                end || scanner.is_done()
            }
        };
        if !over {
            return None;
        }
        Some(match core::mem::take(self) {
            Self::Done => Found::Nothing,
            Self::Json(scan) => scan.finish().map_or(Found::Nothing, Found::Json),
            Self::Form(scanner) => scanner.value().cloned().map_or(Found::Nothing, Found::Form),
        })
    }

    /// Stops reading.
    pub fn give_up(&mut self) {
        *self = Self::Done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plugin;
    use crate::operation::Deployment;
    use crate::request::{Objects, Place};
    use crate::state::ids::Tag;

    fn config(more: &str) -> Config {
        let json = format!(
            r#"{{"backends": [
                    {{"name": "a", "cluster": "a", "host": "a", "deployments": {{"gpt": "own"}}}},
                    {{"name": "b", "cluster": "b", "host": "b", "apis": ["files"]}}
                ],
                "identity": {{"cluster": "imds"}}{more}}}"#
        );
        match Plugin::from_bytes(json.as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn request(config: &Config, path: &str, content_type: &str) -> Request {
        encoded_request(config, path, content_type, "identity")
    }

    fn encoded_request(config: &Config, path: &str, content_type: &str, encoding: &str) -> Request {
        let headers = [
            (":method", "POST"),
            (":path", path),
            ("content-type", content_type),
            ("content-encoding", encoding),
        ];
        let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Request::of(headers.into_iter(), &config.tags())
    }

    /// The request after its body was read in two parts.
    fn read(config: &Config, path: &str, content_type: &str, body: &str) -> Request {
        let mut request = request(config, path, content_type);
        let mut inspection = Inspection::of(&request, config, false).unwrap();
        let (one, other) = body.as_bytes().split_at(body.len() / 2);
        for (chunk, end) in [(one, false), (other, true)] {
            if let Some(found) = inspection.push(chunk, end) {
                request.learn(found, &config.tags());
            }
        }
        assert!(!inspection.is_under_way());
        request
    }

    fn only(backend: usize) -> Place {
        Place::Only([backend].into_iter().collect())
    }

    const JSON: &str = "application/json";
    const FORM: &str = "Multipart/Form-Data; boundary=B";
    const CHAT: &str = "/openai/v1/chat/completions";
    const RESPONSES: &str = "/openai/v1/responses";

    #[test]
    fn bodies_are_read_only_if_they_decide() {
        let (aliased, mut plain) = (config(""), config(""));
        plain.backends[0].deployments = Default::default();
        let mut alone = config("");
        alone.backends.truncate(1);
        alone.backends[0].deployments = Default::default();
        for (path, content_type, of_aliased, of_plain, of_one) in [
            (CHAT, JSON, true, false, false),
            (RESPONSES, JSON, true, true, true),
            ("/openai/v1/audio/transcriptions", FORM, true, false, false),
            ("/openai/v1/files", FORM, true, true, false),
            (
                "/openai/v1/uploads/upload_1/parts",
                FORM,
                false,
                false,
                false,
            ),
            ("/openai/v1/batches", JSON, true, true, true),
            (
                "/openai/deployments/gpt/chat/completions",
                JSON,
                false,
                false,
                false,
            ),
            ("/openai/v1/novelties", JSON, false, false, false),
        ] {
            for (config, expected) in [(&aliased, of_aliased), (&plain, of_plain), (&alone, of_one)]
            {
                let request = request(config, path, content_type);
                let reads = |models_matter| {
                    let inspection = Inspection::of(&request, config, models_matter);
                    inspection.unwrap().is_under_way()
                };
                assert_eq!(reads(false), expected, "{path} {content_type}");
                let if_models_matter = reads(true);
                let names_one = request.operation.deployment == Deployment::InBody;
                assert_eq!(
                    if_models_matter,
                    expected || names_one,
                    "{path} {content_type}"
                );
            }
        }
        let plain_ids = config(r#", "state": {"ids": "plain"}"#);
        let request = request(&plain_ids, "/openai/v1/batches", JSON);
        let inspection = Inspection::of(&request, &plain_ids, false).unwrap();
        assert!(!inspection.is_under_way());
    }

    #[test]
    fn encoded_bodies_are_refused_if_they_decide() {
        let (aliased, mut plain) = (config(""), config(r#", "state": {"ids": "plain"}"#));
        plain.backends[0].deployments = Default::default();
        let tagged = config("");
        const SPEECH: &str = "/openai/v1/audio/transcriptions";
        const DATED: &str = "/openai/deployments/gpt/chat/completions?api-version=1";
        for (config, path, content_type, refused) in [
            (&aliased, CHAT, JSON, true),
            (&aliased, SPEECH, FORM, true),
            (&aliased, DATED, JSON, false),
            (&aliased, "/openai/v1/files", FORM, false),
            (&aliased, "/openai/v1/novelties", JSON, false),
            (&tagged, RESPONSES, JSON, true),
            (&tagged, RESPONSES, "text/plain", true),
            (&tagged, "/openai/v1/batches", JSON, true),
            (&plain, CHAT, JSON, false),
            (&plain, RESPONSES, JSON, false),
            (&plain, SPEECH, FORM, false),
        ] {
            for encoding in ["gzip", "br"] {
                let request = encoded_request(config, path, content_type, encoding);
                for models_matter in [false, true] {
                    let inspection = Inspection::of(&request, config, models_matter);
                    match inspection {
                        Err(Unreadable) => assert!(refused, "{path} {content_type}"),
                        // The same holds if only the deployment is useful, because other backends may have it.
                        Ok(inspection) => {
                            assert!(
                                !refused && !inspection.is_under_way(),
                                "{path} {content_type}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn facts_in_the_body_are_learned() {
        let config = config("");
        let (a, b) = (Tag::of("a"), Tag::of("b"));
        let place = |body: &str| {
            let request = read(&config, RESPONSES, JSON, body);
            (request.objects, request.place(&config))
        };
        let tagged = |tag: Tag| format!(r#"{{"previous_response_id":"resp_1{}"}}"#, tag.as_str());
        assert_eq!(place("{}"), (Objects::None, Place::Anywhere));
        assert_eq!(place(&tagged(b)), (Objects::On(1), only(1)));
        assert_eq!(
            place(&tagged(Tag::of("c"))),
            (Objects::None, Place::Anywhere)
        );
        let untagged = r#"{"previous_response_id":"resp_1"}"#;
        assert_eq!(place(untagged), (Objects::Unsaid, only(0)));
        let both = format!(
            r#"{{"file_ids":["file-1{}","file-2{}"]}}"#,
            a.as_str(),
            b.as_str()
        );
        assert_eq!(place(&both), (Objects::Apart, Place::Nowhere));
        let mixed = format!(r#"{{"file_ids":["file-1","file-2{}"]}}"#, b.as_str());
        assert_eq!(place(&mixed), (Objects::On(1), only(1)));
    }

    #[test]
    fn names_and_tags_are_edited_together() {
        let config = config("");
        let tag = Tag::of("a");
        let body = format!(
            r#"{{"previous_response_id":"resp_1{}","model":"gpt"}}"#,
            tag.as_str()
        );
        let request = read(&config, RESPONSES, JSON, &body);
        let whole = request.splices(&config.backends[0]).apply(body.as_bytes());
        assert_eq!(whole, br#"{"previous_response_id":"resp_1","model":"own"}"#);
        let cut = request.cuts.apply(body.as_bytes());
        assert_eq!(request.renaming(&config.backends[0]).apply(&cut), whole);
        assert!(request.renaming(&config.backends[1]).is_empty());
        assert_eq!(
            request.wanted(RESPONSES, crate::outcome::Outcome::DeploymentNotFound),
            r#"deployment "gpt""#
        );
    }

    #[test]
    fn malformed_bodies_have_no_facts() {
        let config = config("");
        let request = read(&config, CHAT, JSON, r#"{"model":"gpt""#);
        assert_eq!((request.model, request.deployment), (None, None));
        let request = read(
            &config,
            "/openai/v1/audio/transcriptions",
            FORM,
            "--B\r\nmodel",
        );
        assert_eq!(request.model, None);
        // A form without a boundary cannot be read.
        let headers = request_without_boundary(&config);
        let inspection = Inspection::of(&headers, &config, false).unwrap();
        assert!(!inspection.is_under_way());
    }

    fn request_without_boundary(config: &Config) -> Request {
        request(
            config,
            "/openai/v1/audio/transcriptions",
            "multipart/form-data",
        )
    }

    #[test]
    fn creations_are_not_repeatable() {
        let mut config = config("");
        for (path, body, repeatable) in [
            (CHAT, "{}", true),
            (RESPONSES, "{}", true),
            (RESPONSES, r#"{"background":true}"#, false),
            ("/openai/v1/batches", "{}", false),
        ] {
            let request = read(&config, path, JSON, body);
            assert_eq!(request.is_repeatable(&config), repeatable, "{path} {body}");
        }
        config.retry.repeat_creations = true;
        assert!(read(&config, "/openai/v1/batches", JSON, "{}").is_repeatable(&config));
    }

    #[test]
    fn files_are_made_at_home_except_for_batches() {
        let tagged = config(r#", "state": {"home": "b"}"#);
        let plain = config(r#", "state": {"home": "b", "ids": "plain"}"#);
        let part = |name: &str, value: &str| {
            format!("--B\r\ncontent-disposition: form-data; name={name}\r\n\r\n{value}\r\n")
        };
        let file = part("file; filename=batch", "purpose");
        let json = |purpose: &str| format!(r#"{{"purpose":"{purpose}"}}"#);
        for (path, form, body, place) in [
            (
                "files",
                FORM,
                part("purpose", "batch") + &file,
                Place::Anywhere,
            ),
            (
                "files",
                FORM,
                part("purpose", "assistants") + &file,
                only(1),
            ),
            ("files", FORM, part("purpose", "Batch") + &file, only(1)),
            (
                "files",
                FORM,
                file.clone() + &part("purpose", "batch"),
                only(1),
            ),
            ("files", FORM, file.clone(), only(1)),
            ("uploads", JSON, json("batch"), Place::Anywhere),
            ("uploads", JSON, json("fine-tune"), only(1)),
            ("vector_stores", JSON, json("batch"), only(1)),
        ] {
            let path = format!("/openai/v1/{path}");
            let request = read(&tagged, &path, form, &body);
            assert_eq!(request.place(&tagged), place, "{path} {body}");
            assert!(!request.is_repeatable(&tagged));
            assert_eq!(read(&plain, &path, form, &body).place(&plain), only(1));
        }
    }

    #[test]
    fn an_object_is_on_every_backend_of_its_resource() {
        let json = r#"{"backends": [
                {"name": "a", "cluster": "a", "host": "h.example", "priority": 0},
                {"name": "b", "cluster": "b", "host": "other.example"},
                {"name": "c", "cluster": "c", "host": "H.example", "priority": 1},
                {"name": "d", "cluster": "d", "host": "h.example", "base_path": "/p"}
            ],
            "identity": {"cluster": "imds"}}"#;
        let Ok(Plugin::Balancer(config)) = Plugin::from_bytes(json.as_bytes(), &|_| None) else {
            panic!("the configuration");
        };
        let place = |tag: Tag| {
            let body = format!(r#"{{"previous_response_id":"resp_1{}"}}"#, tag.as_str());
            read(&config, RESPONSES, JSON, &body).place(&config)
        };
        let both = Place::Only([0, 2].into_iter().collect());
        assert_eq!(place(Tag::of("h.example")), both);
        assert_eq!(place(Tag::of("other.example")), only(1));
        assert_eq!(place(config.tags().of_backend(3).unwrap()), only(3));
        let untagged = r#"{"previous_response_id":"resp_1"}"#;
        assert_eq!(
            read(&config, RESPONSES, JSON, untagged).place(&config),
            both
        );
    }

    #[test]
    fn ids_are_tagged_with_several_resources() {
        let json = |hosts: [&str; 2]| {
            let backends = hosts.map(|host| {
                let name = host.replace('/', "");
                let (host, path) = host.split_once('/').unwrap_or((host, ""));
                let path = match path {
                    "" => String::new(),
                    path => format!(r#", "base_path": "/{path}""#),
                };
                format!(
                    r#"{{"name": "{name}", "cluster": "{name}", "host": "{}"{path}}}"#,
                    host.trim_end_matches(char::is_numeric)
                )
            });
            format!(
                r#"{{"backends": [{}], "identity": {{"cluster": "imds"}}}}"#,
                backends.join(",")
            )
        };
        for (hosts, tagged) in [
            (["a", "b"], true),
            (["a1", "a2"], false),
            (["a1", "A2"], false),
            (["a", "a/p"], true),
            (["a1/p", "a2/p"], false),
        ] {
            let Ok(Plugin::Balancer(config)) =
                Plugin::from_bytes(json(hosts).as_bytes(), &|_| None)
            else {
                panic!("{hosts:?}");
            };
            let request = request(&config, RESPONSES, JSON);
            assert_eq!(request.tags_answer(&config), tagged, "{hosts:?}");
            assert!(!read(&config, CHAT, JSON, "{}").tags_answer(&config));
        }
    }

    #[test]
    fn home_is_a_backend_with_the_api() {
        let config = config(r#", "state": {"home": "b"}"#);
        for (path, home) in [("/openai/v1/files", 1), ("/openai/v1/responses/resp_1", 0)] {
            let headers = [(":method", "GET"), (":path", path)];
            let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let request = Request::of(headers.into_iter(), &config.tags());
            assert_eq!(request.place(&config), only(home), "{path}");
        }
    }
}
