//! Header maps, and their form at the module's boundary.

use std::fmt;

/// A header map: pairs in order, names in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of `name`, if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_slice()))
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a pair, and keeps other values of `name`.
    pub fn add(&mut self, name: impl AsRef<str>, value: impl Into<Vec<u8>>) {
        let name = name.as_ref().to_ascii_lowercase();
        self.0.push((name, value.into()));
    }

    /// The map with one more pair.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<str>, value: impl Into<Vec<u8>>) -> Self {
        self.add(name, value);
        self
    }

    /// The map with this as the only value of `name`.
    #[must_use]
    pub fn replaced(mut self, name: &str, value: &str) -> Self {
        self.replace(name, value.as_bytes());
        self
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    pub(crate) fn replace(&mut self, name: &str, value: &[u8]) {
        let slot = self
            .0
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        match slot {
            Some((name, first)) => {
                *first = value.to_vec();
                let (name, mut seen) = (name.clone(), false);
                self.0
                    .retain(|(n, _)| *n != name || !std::mem::replace(&mut seen, true));
            }
            None => self.add(name, value),
        }
    }

    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        let pair = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(&pair.1)
    }

    /// The count, the sizes, then the texts, each followed by a zero byte. Without pairs there are no bytes, as in
    /// Envoy.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.0.is_empty() {
            return bytes;
        }
        let mut number = |n: usize| bytes.extend_from_slice(&(n as u32).to_le_bytes());
        number(self.0.len());
        for (name, value) in &self.0 {
            number(name.len());
            number(value.len());
        }
        for (name, value) in &self.0 {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(value);
            bytes.push(0);
        }
        bytes
    }

    /// The map that the module serialized; empty if the bytes do not match the sizes.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self::try_decode(bytes).unwrap_or_default()
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes) as usize)
        };
        let count = number(0)?;
        let mut at = 4 + count.checked_mul(8)?;
        let mut text = |size: usize| {
            let text = bytes.get(at..at + size)?;
            at += size + 1;
            Some(text)
        };
        let mut headers = Self::default();
        for index in 0..count {
            let name = text(number(4 + index * 8)?)?;
            let value = text(number(8 + index * 8)?)?;
            headers.add(String::from_utf8_lossy(name), value);
        }
        Some(headers)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value| String::from_utf8_lossy(value).into_owned();
        f.debug_list()
            .entries(self.iter().map(|(n, v)| format!("{n}: {}", text(v))))
            .finish()
    }
}

impl<N: AsRef<str>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name, value);
        }
        headers
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<&[(&str, &str)]> for Headers {
    fn from(pairs: &[(&str, &str)]) -> Self {
        pairs.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let headers = Headers::from([(":path", "/"), ("x-empty", "")]).with("x-odd", *b"\xff");
        assert_eq!(Headers::decode(&headers.encode()), headers);
        assert_eq!(Headers::default().encode(), b"");
        assert_eq!(Headers::decode(b"\x09\0\0\0"), Headers::default());
    }

    #[test]
    fn replacing_leaves_one_value_in_the_first_place() {
        let mut headers = Headers::from([("a", "1"), ("b", "2"), ("A", "3")]);
        headers.replace("a", b"4");
        headers.replace("c", b"5");
        assert_eq!(headers, [("a", "4"), ("b", "2"), ("c", "5")].into());
        headers.remove("B");
        assert_eq!(headers, [("a", "4"), ("c", "5")].into());
    }
}
