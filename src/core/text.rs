//! Cutting short texts, such as the parts of a path.
//!
//! The standard library's searches are made for long texts: up to some dozen bytes, a look at each of them is several times faster.

/// What is in front of the first byte that is `at`, an ASCII character, and what is behind it.
pub(super) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = text.bytes().position(|byte| byte == at)?;
    let (front, rest) = text.split_at_checked(place)?;
    Some((front, rest.get(1..)?))
}

/// The parts of `text` between the bytes that are `at`, an ASCII character; at least one.
pub(super) fn split(text: &str, at: u8) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, behind) = match split_once(text, at) {
            Some((part, behind)) => (part, Some(behind)),
            None => (text, None),
        };
        rest = behind;
        Some(part)
    })
}

/// Whether there is this byte.
pub(super) fn contains(text: &str, byte: u8) -> bool {
    text.bytes().any(|other| other == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_as_the_standard_library_cuts_them() {
        for text in ["", "/", "a", "a/b", "/a//b/", "ü/é", "a&b", "///"] {
            assert_eq!(split_once(text, b'/'), text.split_once('/'), "{text}");
            assert!(split(text, b'/').eq(text.split('/')), "{text}");
            assert_eq!(contains(text, b'/'), text.contains('/'), "{text}");
        }
    }
}
