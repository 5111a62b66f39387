//! Forms: `multipart/form-data`, as uploads and transcriptions use it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{stream, FutureExt};
use multer::Multipart;

use super::errors;
use crate::behaviour::Failure;

/// The parts of a form in their order.
pub(crate) struct Form(Vec<Part>);

/// One part of a form.
pub(crate) struct Part {
    name: String,
    /// The name of a file; `None` for other parts.
    pub(crate) file_name: Option<String>,
    pub(crate) content: Bytes,
}

impl Form {
    pub(crate) fn read(content_type: &str, body: Bytes) -> Result<Self, Failure> {
        let bad = |error: multer::Error| {
            errors::bad_request(&format!("We could not read the form: {error}"))
        };
        let boundary = multer::parse_boundary(content_type).map_err(bad)?;
        let body = stream::iter([Ok::<_, Infallible>(body)]);
        let parts = async {
            let mut form = Multipart::new(body, boundary);
            let mut parts = Vec::new();
            while let Some(field) = form.next_field().await? {
                parts.push(Part {
                    name: field.name().unwrap_or_default().to_owned(),
                    file_name: field.file_name().map(ToOwned::to_owned),
                    content: field.bytes().await?,
                });
            }
            Ok(parts)
        };
        // The whole body is there, so the future is ready.
        let parts = parts.now_or_never();
        let parts = parts.unwrap_or(Err(multer::Error::IncompleteStream));
        parts.map(Self).map_err(bad)
    }

    /// The text of the first part with this name that is not a file.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let mut parts = self.0.iter();
        let part = parts.find(|part| part.name == name && part.file_name.is_none())?;
        std::str::from_utf8(&part.content).ok()
    }

    /// The first file with this name.
    pub(crate) fn file(&self, name: &str) -> Result<&Part, Failure> {
        let mut parts = self.0.iter();
        parts
            .find(|part| part.name == name && part.file_name.is_some())
            .ok_or_else(|| errors::bad_request(&format!("The form has no file {name:?}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n\
        --x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\r\n--\r\n\r\n--x--\r\n";

    #[test]
    fn a_form_is_read_by_its_names() {
        let form = Form::read("multipart/form-data; boundary=\"x\"", BODY.into()).unwrap();
        assert_eq!(form.text("model"), Some("whisper"));
        assert_eq!(form.text("file"), None);
        assert_eq!(&form.file("file").unwrap().content[..], b"\r\n--\r\n");
        assert!(form.file("model").is_err());
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for (content_type, body) in [
            ("application/json", BODY),
            ("multipart/form-data", BODY),
            ("multipart/form-data; boundary=x", &BODY[..80]),
        ] {
            let read = Form::read(content_type, body.to_owned().into());
            assert_eq!(
                read.err().map(|failure| failure.status),
                Some(400),
                "{content_type}"
            );
        }
    }
}
