//! Reads JSON into types and collects every problem, each with the path of its field.
//!
//! `serde`'s derive stops at the first mistake; a person who has three to mend wants to see three.

use core::cell::RefCell;
use core::time::Duration;

use serde_json::{Map, Value};

use super::problem::{ConfigError, Fault, Problem};
use super::shown::shown;
use super::units;
use crate::prelude::*;

/// The form of a value that has fields of its own.
pub const OBJECT: &str = "an object";

/// Collects problems while a configuration is read to its end.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, path: &str, fault: impl Into<Fault>) {
        self.push(path.to_owned(), fault.into());
    }

    #[inline(never)]
    fn push(&self, path: String, fault: Fault) {
        // Only ever borrowed for this push, so this cannot fail; a panic here would still be worse than a lost line.
        if let Ok(mut problems) = self.0.try_borrow_mut() {
            problems.push(Problem { path, fault });
        }
    }

    /// `value` if nothing was wrong, all problems otherwise.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        let problems = self.0.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError { problems }),
        }
    }
}

/// An object being read field by field.
///
/// Every reader method returns `None` when it has recorded a problem, or when an optional field is absent; callers carry on
/// with a placeholder so that the other fields are read too, and [`Problems::into_result`] refuses the whole at the end.
pub(super) struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Object<'a> {
    /// Reads `value` as an object found at `path`.
    #[inline(never)]
    pub(super) fn new(path: String, value: &'a Value, problems: &'a Problems) -> Option<Self> {
        let Some(fields) = value.as_object() else {
            problems.add(&path, refused(value, OBJECT));
            return None;
        };
        Some(Self {
            path,
            fields,
            known: Vec::new(),
            problems,
        })
    }

    /// The path of the field `key` of this object.
    #[inline(never)]
    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// Records a problem of the field `key`.
    pub(super) fn problem(&self, key: &str, fault: impl Into<Fault>) {
        self.problems.push(self.path_of(key), fault.into());
    }

    /// The field's value. `null` counts as given: it switches off what can be switched off.
    #[inline(never)]
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.fields.get(key)
    }

    /// Whether the field is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// The field's value; a problem if it is absent.
    #[inline(never)]
    pub(super) fn required(&mut self, key: &'static str, form: &str) -> Option<&'a Value> {
        let value = self.value(key);
        if value.is_none() {
            self.problem(key, Fault::missing(form));
        }
        value
    }

    /// A non-empty string that `accept` finds right.
    pub(super) fn string(
        &self,
        key: &str,
        value: &'a Value,
        form: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Option<String> {
        self.accepted(key, value, form, &accept)
    }

    /// [`Self::string`], once for all that is acceptable.
    #[inline(never)]
    fn accepted(
        &self,
        key: &str,
        value: &Value,
        form: &str,
        accept: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        match value.as_str() {
            Some(text) if !text.is_empty() && accept(text) => Some(text.to_owned()),
            _ => {
                self.problem(key, refused(value, form));
                None
            }
        }
    }

    /// A required string.
    pub(super) fn required_string(
        &mut self,
        key: &'static str,
        form: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = self.required(key, form)?;
        self.string(key, value, form, accept)
    }

    /// An optional string.
    pub(super) fn optional_string(
        &mut self,
        key: &'static str,
        form: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = self.value(key)?;
        self.string(key, value, form, accept)
    }

    /// A whole number within `range`, or `default`.
    #[inline(never)]
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(value) = self.value(key) else {
            return default;
        };
        match whole_number(value) {
            Some(number) if range.contains(&number) => number,
            _ => {
                let form = format!("a whole number from {} to {}", range.start(), range.end());
                self.problem(key, refused(value, &form));
                default
            }
        }
    }

    /// A number with at most two digits behind the point, in hundredths, within a `range` of such. The form is given as people
    /// read it: no other message writes a fraction, and what writes one is large.
    #[inline(never)]
    pub(super) fn hundredths(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<u64>,
        default: u64,
        form: &str,
    ) -> u64 {
        let Some(value) = self.value(key) else {
            return default;
        };
        let number = value.as_f64().map(|number| number * 100.0);
        // No decimal fraction is exact in binary.
        let whole = number.map(|number| (number + 0.5) as u64);
        match (number, whole) {
            (Some(number), Some(whole))
                if range.contains(&whole) && (number - whole as f64).abs() < 1e-6 =>
            {
                whole
            }
            _ => {
                self.problem(key, refused(value, form));
                default
            }
        }
    }

    /// `true` or `false`, or `default`.
    #[inline(never)]
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else {
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            self.problem(key, refused(value, "true or false"));
            default
        })
    }

    /// A duration within `range`, or `default`.
    #[inline(never)]
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<&str>,
        default: &str,
    ) -> Duration {
        self.quantity(key, range, default, units::duration, units::DURATION_FORM)
    }

    /// A duration within `range`, if there is one.
    pub(super) fn optional_duration(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<&str>,
    ) -> Option<Duration> {
        let given = self.has(key);
        let duration = self.duration(key, range, "0s");
        given.then_some(duration)
    }

    /// A size in bytes within `range`, or `default`.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<&str>,
        default: &str,
    ) -> usize {
        self.quantity(key, range, default, units::size, units::SIZE_FORM)
    }

    // The bounds are given as people write them, so that the message can repeat them.
    fn quantity<T: PartialOrd + Default>(
        &mut self,
        key: &'static str,
        range: core::ops::RangeInclusive<&str>,
        default: &str,
        parse: impl Fn(&str) -> Option<T>,
        form: &str,
    ) -> T {
        let default = parse(default).unwrap_or_default();
        let Some(value) = self.value(key) else {
            return default;
        };
        let (least, most) = (parse(range.start()), parse(range.end()));
        match value.as_str().and_then(&parse) {
            Some(quantity)
                if Some(&quantity) >= least.as_ref() && Some(&quantity) <= most.as_ref() =>
            {
                quantity
            }
            parsed => {
                let form = match parsed {
                    Some(_) => format!("{} to {}", range.start(), range.end()),
                    None => form.to_owned(),
                };
                self.problem(key, refused(value, &form));
                default
            }
        }
    }

    /// The elements of a list, each with its path; a problem if it is no list.
    pub(super) fn list(
        &self,
        key: &str,
        value: &'a Value,
        form: &str,
    ) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let elements = match value {
            Value::Array(elements) if !elements.is_empty() => elements.as_slice(),
            _ => {
                self.problem(key, refused(value, form));
                &[]
            }
        };
        let path = self.path_of(key);
        elements
            .iter()
            .enumerate()
            .map(move |(i, value)| (format!("{path}[{i}]"), value))
    }

    /// Ends the reading: every field that was never asked for is unknown.
    #[inline(never)]
    pub(super) fn finish(self) {
        for field in self.fields.keys() {
            if !self.known.contains(&field.as_str()) {
                let known = self.known.clone();
                self.problem(field, Fault::Unknown { known });
            }
        }
    }
}

/// A whole number. A protobuf Struct holds doubles only, so `3.0` is one too.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        ((0.0..1e15).contains(&number) && number as u64 as f64 == number).then_some(number as u64)
    })
}

/// `VALUE is not allowed; use FORM`.
#[inline(never)]
pub(super) fn refused(value: &Value, form: &str) -> Fault {
    Fault::Refused {
        value: shown(value),
        form: form.to_owned(),
    }
}
