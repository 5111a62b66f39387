//! The tag at the end of an id, which names the resource of the object.

use core::fmt;

use crate::hash::{fingerprint, scatter};
use crate::prelude::*;

/// The start of every tag. No id of Azure OpenAI contains a dot, so a tag is never mistaken for a part of an id.
const MARK: [u8; 2] = *b".b";

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// An Azure resource that has objects: a host, or one of the projects on it, each with its own base path.
///
/// Several backends may share a resource. A renamed backend keeps its objects, and so does one that moves to another
/// cluster or place in the list.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The name of the host.
    pub host: &'a str,
    /// The prefix of paths before `/openai`.
    pub base_path: Option<&'a str>,
}

impl<'a> From<&'a str> for Resource<'a> {
    fn from(host: &'a str) -> Self {
        Self {
            host,
            base_path: None,
        }
    }
}

/// Compares both parts without regard to case.
impl PartialEq for Resource<'_> {
    fn eq(&self, other: &Self) -> bool {
        let base_path = |resource: &Self| resource.base_path.unwrap_or_default().as_bytes();
        self.host.eq_ignore_ascii_case(other.host)
            && base_path(self).eq_ignore_ascii_case(base_path(other))
    }
}

/// Names a resource in the ids of its objects: `.b` and six characters of `[0-9a-z]`, derived from the resource's host
/// and base path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag([u8; Tag::LENGTH]);

impl Tag {
    /// The length of a tag in bytes.
    pub const LENGTH: usize = 8;

    /// The tag of the resource. Case is ignored.
    pub fn of<'a>(resource: impl Into<Resource<'a>>) -> Self {
        let Resource { host, base_path } = resource.into();
        let parts = [Some(host), base_path].map(|part| Some(part?.to_ascii_lowercase()));
        let mut number = scatter(fingerprint(parts.iter().flatten().map(String::as_str)));
        let mut bytes = [b'0'; Self::LENGTH];
        for (slot, byte) in bytes.iter_mut().zip(MARK) {
            *slot = byte;
        }
        for slot in bytes.iter_mut().skip(MARK.len()) {
            let digit = usize::try_from(number % 36).unwrap_or_default();
            *slot = DIGITS.get(digit).copied().unwrap_or(b'0');
            number /= 36;
        }
        Self(bytes)
    }

    /// Reads bytes that are exactly one tag, of any backend.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = bytes.try_into().ok()?;
        let digits = bytes.strip_prefix(&MARK)?;
        digits
            .iter()
            .all(|byte| DIGITS.contains(byte))
            .then_some(Self(bytes))
    }

    /// The tag as in an id, with the dot.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The client's id of the object that the backend calls `id`.
    #[must_use]
    pub fn append_to(self, id: &str) -> String {
        [id, self.as_str()].concat()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Splits an id into the backend's id and the tag. `None` without a tag. Only the last tag is split off, so this undoes
/// exactly one [`Tag::append_to`].
pub fn split(id: &str) -> Option<(&str, Tag)> {
    let (id, tag) = id.split_at_checked(id.len().checked_sub(Tag::LENGTH)?)?;
    Some((id, Tag::parse(tag.as_bytes())?))
}

/// The tags of the configured backends. Backends of one resource share their tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// The tags of the backends with these resources, in the order of the configuration. Resources may repeat.
    ///
    /// # Errors
    /// Two different resources have the same tag. With 36^6 tags this affects one configuration in millions. It must be
    /// refused, because each of the two would get requests for the other's objects.
    pub fn new<'a, R: Into<Resource<'a>>>(
        resources: impl IntoIterator<Item = R>,
    ) -> Result<Self, Collision> {
        let resources: Vec<Resource<'a>> = resources.into_iter().map(Into::into).collect();
        let tags: Vec<_> = resources.iter().map(|one| Tag::of(*one)).collect();
        Self::checked(tags, |one, other| {
            resources.get(one) == resources.get(other)
        })
    }

    fn checked(tags: Vec<Tag>, are_same: impl Fn(usize, usize) -> bool) -> Result<Self, Collision> {
        for (second, tag) in tags.iter().enumerate() {
            let earlier = tags.iter().take(second).enumerate();
            for (first, _) in earlier.filter(|(_, earlier)| *earlier == tag) {
                if !are_same(first, second) {
                    return Err(Collision { first, second });
                }
            }
        }
        Ok(Self(tags))
    }

    /// The first backend of the resource that the tag names. `None` if no configured backend has it.
    pub fn backend_of(&self, tag: Tag) -> Option<usize> {
        self.0.iter().position(|known| *known == tag)
    }

    /// The tag of a backend.
    pub fn of_backend(&self, backend: usize) -> Option<Tag> {
        self.0.get(backend).copied()
    }
}

/// Two backends of different resources have the same tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The index of one backend in the configuration.
    pub first: usize,
    /// The index of the other backend.
    pub second: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_hosts_never_change() {
        // Clients keep ids for months. A change of the tags would lose their objects.
        assert_eq!(Tag::of("eastus.openai.azure.com").as_str(), ".brg4ty6");
        assert_eq!(
            Tag::of("EastUS.openai.azure.com"),
            Tag::of("eastus.openai.azure.com")
        );
        assert_ne!(
            Tag::of("westus.openai.azure.com"),
            Tag::of("eastus.openai.azure.com")
        );
    }

    #[test]
    fn projects_on_one_host_are_separate_resources() {
        let host = "eastus.services.ai.azure.com";
        let project = |base_path| Resource {
            host,
            base_path: Some(base_path),
        };
        let (a, b) = (project("/api/projects/a"), project("/api/projects/b"));
        assert_eq!(Tag::of(a), Tag::of(project("/API/projects/A")));
        assert_ne!(Tag::of(a), Tag::of(b));
        assert_ne!(Tag::of(a), Tag::of(host));
        let tags = Tags::new([host.into(), a, b, a]).unwrap();
        assert_eq!(tags.backend_of(Tag::of(b)), Some(2));
        assert_eq!(tags.backend_of(Tag::of(a)), Some(1));
    }

    #[test]
    fn ids_without_a_tag_are_not_split() {
        for id in [
            "",
            "resp_68a1",
            ".b12345",
            "resp_68a1.b12345",
            "resp_68a1.b1234567",
            "resp_68a1.b12345A",
            "resp_68a1.c123456",
            "resp_68a1.b123456 ",
            "resp_68a1xb123456",
            "ü123456",
            "aü234567",
        ] {
            assert_eq!(split(id), None, "{id}");
        }
    }

    #[test]
    fn only_the_last_tag_is_split_off() {
        let (a, b) = (Tag::of("a"), Tag::of("b"));
        let twice = b.append_to(&a.append_to("file-1"));
        let (once, tag) = split(&twice).unwrap();
        assert_eq!(tag, b);
        assert_eq!(split(once), Some(("file-1", a)));
        assert_eq!(split(a.as_str()), Some(("", a)));
    }

    #[test]
    fn a_tag_finds_its_backend() {
        let tags = Tags::new(["a.example", "b.example", "A.example"]).unwrap();
        assert_eq!(tags.backend_of(Tag::of("b.example")), Some(1));
        assert_eq!(tags.backend_of(Tag::of("a.example")), Some(0));
        assert_eq!(tags.backend_of(Tag::of("c.example")), None);
        assert_eq!(tags.of_backend(2), Some(Tag::of("a.example")));
        assert_eq!(tags.of_backend(3), None);
    }

    #[test]
    fn two_hosts_with_one_tag_are_reported() {
        let same = Tag::of("a");
        let tags = || vec![Tag::of("b"), same, Tag::of("c"), same];
        let collision = Collision {
            first: 1,
            second: 3,
        };
        assert_eq!(Tags::checked(tags(), |_, _| false), Err(collision));
        assert_eq!(Tags::checked(tags(), |_, _| true), Ok(Tags(tags())));
    }

    #[test]
    fn the_tags_of_many_hosts_differ() {
        let hosts: Vec<_> = (0..1000)
            .map(|n| format!("resource-{n}.openai.azure.com"))
            .collect();
        assert!(Tags::new(hosts.iter().map(String::as_str)).is_ok());
    }
}
