//! A request to the API: method, path, query, and a body that is JSON or a form.

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::errors;
use super::form::Form;
use crate::behaviour::Failure;

/// An authorized request with its whole body.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
    /// The deployment named in the path.
    pub(super) deployment: Option<String>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(head: &'a Parts, body: Bytes) -> Self {
        Self {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            body,
            deployment: None,
        }
    }

    /// The request, for the deployment in its path.
    pub(super) fn of_deployment(&self, deployment: String) -> Self {
        Self {
            deployment: Some(deployment),
            ..self.clone()
        }
    }

    /// The body as JSON, perhaps behind a byte order mark.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let json = self.body.strip_prefix(b"\xef\xbb\xbf");
        serde_json::from_slice(json.unwrap_or(&self.body)).map_err(|error| {
            errors::bad_request(&format!(
                "We could not parse the JSON body of your request: {error}"
            ))
        })
    }

    /// The fields of a JSON object; none without a body.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, Failure> {
        match self.body.is_empty() {
            true => Ok(Map::new()),
            false => self.json(),
        }
    }

    pub(super) fn form(&self) -> Result<Form, Failure> {
        let content_type = self.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        Form::read(content_type.unwrap_or_default(), self.body.clone())
    }

    pub(super) fn query(&self, name: &str) -> Option<String> {
        query(self.uri, name)
    }
}

/// One value of a query, percent-decoded. The name is compared in upper or lower case.
pub(crate) fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| decoded(key).eq_ignore_ascii_case(name))?;
    Some(decoded(value))
}

pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex
            .filter(|_| *first == b'%')
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
