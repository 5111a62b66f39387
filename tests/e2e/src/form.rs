//! Forms, as SDKs send files.

/// A `multipart/form-data` body, whose parts are in the order of their addition.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<u8>);

impl Form {
    /// The boundary between the parts.
    const BOUNDARY: &str = "5f0c7c5e-form";

    /// The `content-type` of a form.
    pub const CONTENT_TYPE: (&str, &str) = (
        "content-type",
        "multipart/form-data; boundary=5f0c7c5e-form",
    );

    /// A form without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The form with one more value.
    pub fn text(self, name: &str, value: &str) -> Self {
        self.part(&format!("name=\"{name}\""), "", value.as_bytes())
    }

    /// The form with one more file.
    pub fn file(self, name: &str, file_name: &str, content: &[u8]) -> Self {
        let attributes = format!("name=\"{name}\"; filename=\"{file_name}\"");
        self.part(
            &attributes,
            "content-type: application/octet-stream\r\n",
            content,
        )
    }

    fn part(mut self, attributes: &str, headers: &str, content: &[u8]) -> Self {
        let head = format!(
            "--{}\r\ncontent-disposition: form-data; {attributes}\r\n{headers}\r\n",
            Self::BOUNDARY
        );
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// The body's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let end = format!("--{}--\r\n", Self::BOUNDARY);
        [&self.0, end.as_bytes()].concat()
    }
}
