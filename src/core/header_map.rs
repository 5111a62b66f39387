//! A header map in the host's serialized form, read in place.

use crate::prelude::*;

/// A serialized header map: the number of pairs, the sizes of all names and values, then the names and values. A zero
/// byte follows each name and value. All numbers are 32-bit little-endian.
///
/// Source: proxy-wasm ABI 0.2.1.
#[derive(Debug, Default)]
pub struct HeaderMap(Vec<u8>);

impl HeaderMap {
    /// The map with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The pairs in order, with names in lower case. Ends early if the bytes are shorter than the sizes.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (sizes, mut texts) = self.parts().unwrap_or_default();
        sizes.chunks_exact(8).map_while(move |mut sizes| {
            let name = take_u32(&mut sizes)?;
            let value = take_u32(&mut sizes)?;
            Some((take_text(&mut texts, name)?, take_text(&mut texts, value)?))
        })
    }

    /// The bytes of the sizes, and the bytes of the names and values.
    #[inline]
    fn parts(&self) -> Option<(&[u8], &[u8])> {
        let mut rest = self.0.as_slice();
        let count = take_u32(&mut rest)?;
        rest.split_at_checked(count.checked_mul(8)?)
    }

    /// Whether every name and value is UTF-8.
    pub fn is_utf8(&self) -> bool {
        // Checking all texts at once suffices, because no character continues after a zero byte.
        let parts = self.parts();
        parts.is_none_or(|(_, texts)| core::str::from_utf8(texts).is_ok())
    }

    /// The pairs whose values are UTF-8.
    pub fn iter_utf8(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|(name, value)| {
            let name = core::str::from_utf8(name).ok()?;
            Some((name, core::str::from_utf8(value).ok()?))
        })
    }

    /// The first value of `name`, if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self
            .iter()
            .filter(|(candidate, _)| *candidate == name.as_bytes());
        values.find_map(|(_, value)| core::str::from_utf8(value).ok())
    }

    /// The map with only the first value of `name`, if that is UTF-8.
    #[must_use]
    pub fn only(&self, name: &str) -> Self {
        let value = self.get(name);
        value.map_or_else(Self::default, |value| {
            Self::new(Self::encode(&[(name.as_bytes(), value.as_bytes())]))
        })
    }

    /// Serializes `pairs` for the host.
    pub fn encode(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let text: usize = pairs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        let mut bytes = Vec::with_capacity(4 + pairs.len() * 8 + text);
        let mut push_u32 = |number: usize| {
            // WebAssembly's memory is 32-bit, so no size is larger.
            bytes.extend_from_slice(&(number as u32).to_le_bytes());
        };
        push_u32(pairs.len());
        for (name, value) in pairs {
            push_u32(name.len());
            push_u32(value.len());
        }
        for (name, value) in pairs {
            for text in [name, value] {
                bytes.extend_from_slice(text);
                bytes.push(0);
            }
        }
        bytes
    }
}

#[inline]
fn take_u32(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number) as usize)
}

#[inline]
fn take_text<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (text, rest) = bytes.split_at_checked(size)?;
    *bytes = rest.get(1..)?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_headers_are_read_back() {
        let pairs: [(&[u8], &[u8]); 3] = [
            (b":path", b"/openai"),
            (b"x-empty", b""),
            (b"x-odd", b"caf\xe9"),
        ];
        let map = HeaderMap::new(HeaderMap::encode(&pairs));
        assert_eq!(map.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(map.get(":path"), Some("/openai"));
        assert_eq!(map.get("x-odd"), None);
        assert_eq!(map.iter_utf8().count(), 2);
        assert!(!map.is_utf8());
        let pairs: [(&[u8], &[u8]); 2] = [(b"x-caf\xc3", b"\xa9"), (b"x", b"")];
        assert!(!HeaderMap::new(HeaderMap::encode(&pairs)).is_utf8());
        let pairs: [(&[u8], &[u8]); 2] = [(b"x-caf", "é".as_bytes()), (b"x", b"")];
        assert!(HeaderMap::new(HeaderMap::encode(&pairs)).is_utf8());
    }

    #[test]
    fn truncated_bytes_never_panic() {
        let whole = HeaderMap::encode(&[(b"name", b"value"), (b"other", b"")]);
        for cut in 0..whole.len() {
            let map = HeaderMap::new(whole[..cut].to_vec());
            assert!(map.iter().count() < 2 && map.is_utf8());
        }
        assert_eq!(HeaderMap::new(vec![0xff; 64]).iter().count(), 0);
    }
}
