//! The compact binary form of the values that workers share.
//!
//! Every value begins with a version byte. A value of an unknown version counts as absent and is overwritten, so that
//! newer and older modules can replace each other.

use super::time::Timestamp;
use crate::prelude::*;

/// Reads the fields of a binary value in order. Each method returns `None` if too few bytes are left.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields after the version byte, if it equals `version`.
    pub(super) fn new(bytes: &'a [u8], version: u8) -> Option<Self> {
        match bytes.split_first()? {
            (first, rest) if *first == version => Some(Self(rest)),
            _ => None,
        }
    }

    /// The fields of a part of a value, which has no version of its own.
    pub(super) fn of_part(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp::from_millis)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// A text of at most 255 bytes.
    pub(super) fn short_text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        core::str::from_utf8(text).ok()
    }

    /// The remaining bytes as text.
    pub(super) fn text(self) -> Option<&'a str> {
        core::str::from_utf8(self.0).ok()
    }
}

/// Writes the fields of a binary value in order, for [`Fields`] to read.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A writer of a value with this version.
    pub(super) fn new(version: u8) -> Self {
        // Enough for most records.
        let mut bytes = Vec::with_capacity(256);
        bytes.push(version);
        Self(bytes)
    }

    // Not inlined: a record has many fields, and the inlined code is larger than a call.
    #[inline(never)]
    pub(super) fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    #[inline(never)]
    pub(super) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    #[inline(never)]
    pub(super) fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn time(&mut self, time: Timestamp) {
        self.u64(time.as_millis());
    }

    /// The length of a list of at most 255 entries.
    pub(super) fn length(&mut self, length: usize) {
        self.u8(u8::try_from(length).unwrap_or(u8::MAX));
    }

    /// A text, of which at most 255 bytes are written.
    pub(super) fn short_text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..usize::from(u8::MAX)).unwrap_or(bytes);
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
