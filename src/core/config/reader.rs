//! Reads JSON into types and collects every problem, each with the path of its field.
//!
//! `serde`'s derive stops at the first problem. Users want to see all of their mistakes at once.

use core::cell::RefCell;
use core::time::Duration;

use serde_json::{Map, Value};

use super::field::{Choice, Flag, Hundredths, Integer, Own, Quantity, Text};
use super::problem::{ConfigError, Fault, Problem};
use super::redact::redacted;
use super::units;
use crate::prelude::*;

/// An object, for error messages.
pub const OBJECT: &str = "an object";

/// Collects the problems of a configuration. Reading continues after a problem.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, path: &str, fault: impl Into<Fault>) {
        self.push(path.to_owned(), fault.into());
    }

    #[inline(never)]
    fn push(&self, path: String, fault: Fault) {
        // Nothing else borrows the list, so this cannot fail. Losing a problem would be better than a panic.
        if let Ok(mut problems) = self.0.try_borrow_mut() {
            problems.push(Problem { path, fault });
        }
    }

    /// `value` if there is no problem, otherwise all problems.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        let problems = self.0.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError { problems }),
        }
    }
}

/// An object that is read field by field, by the descriptions in [`fields`](super::fields).
///
/// A reader method returns `None` if it has recorded a problem, or if an optional field is absent. Callers continue
/// with a placeholder, so that other fields are read too. [`Problems::into_result`] refuses the configuration at the
/// end.
pub(super) struct Object<'a> {
    path: String,
    /// The fields of the object. `None` if the object is omitted.
    fields: Option<&'a Map<String, Value>>,
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
            fields: Some(fields),
            known: Vec::new(),
            problems,
        })
    }

    /// The object in `field`, if the field is given.
    #[inline(never)]
    pub(super) fn object(&mut self, field: &Own) -> Option<Self> {
        let value = self.value(field.name)?;
        Self::new(self.path_of(field.name), value, self.problems)
    }

    /// The object in `field`, or an empty one.
    #[inline(never)]
    pub(super) fn object_or_empty(&mut self, field: &Own) -> Option<Self> {
        match self.value(field.name) {
            Some(value) => Self::new(self.path_of(field.name), value, self.problems),
            None => Some(Self {
                path: self.path_of(field.name),
                fields: None,
                known: Vec::new(),
                problems: self.problems,
            }),
        }
    }

    /// Whether `field` is `null`, which disables its feature.
    pub(super) fn is_null(&mut self, field: &Own) -> bool {
        self.value(field.name).is_some_and(Value::is_null)
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

    /// The field's value. `null` counts as given.
    #[inline(never)]
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.fields?.get(key)
    }

    /// Whether the field is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.is_some_and(|fields| fields.contains_key(key))
    }

    /// The value of a required field. Records a problem if the field is absent.
    #[inline(never)]
    pub(super) fn required(&mut self, key: &'static str, form: &str) -> Option<&'a Value> {
        let value = self.value(key);
        if value.is_none() {
            self.problem(key, Fault::missing(form));
        }
        value
    }

    /// The text in `field`, or its default.
    pub(super) fn text(&mut self, field: &Text) -> Option<String> {
        self.text_of(field, false)
    }

    /// The text in `field` or its default. `None` for `null`.
    pub(super) fn text_or_null(&mut self, field: &Text) -> Option<String> {
        self.text_of(field, true)
    }

    #[inline(never)]
    fn text_of(&mut self, field: &Text, is_nullable: bool) -> Option<String> {
        let value = match self.value(field.name) {
            None if field.is_required => {
                self.problem(field.name, Fault::missing(field.form));
                return None;
            }
            None => return (!field.default.is_empty()).then(|| field.default.to_owned()),
            Some(Value::Null) if is_nullable => return None,
            Some(value) => value,
        };
        let text = value.as_str().filter(|text| !text.is_empty());
        let text = text.filter(|text| (field.accept)(text));
        if text.is_none() {
            let null = if is_nullable {
                ", or null to disable it"
            } else {
                ""
            };
            self.problem(field.name, refused(value, &[field.form, null].concat()));
        }
        text.map(str::to_owned)
    }

    /// The value of the word in `field`, or the default.
    pub(super) fn choice<T: Copy + Default>(&mut self, field: &Choice<T>) -> T {
        let name = |index: usize| field.values.get(index).map(|(name, _)| *name);
        let chosen = self.choice_of(field.name, &name);
        let value = chosen.and_then(|index| field.values.get(index));
        value.map(|(_, value)| *value).unwrap_or_default()
    }

    /// The index of the given word. `name` returns the word of each index.
    #[inline(never)]
    fn choice_of(
        &mut self,
        key: &'static str,
        name: &dyn Fn(usize) -> Option<&'static str>,
    ) -> Option<usize> {
        let value = self.value(key)?;
        let names: Vec<&str> = (0..).map_while(name).collect();
        let text = value.as_str();
        let index = names.iter().position(|name| Some(*name) == text);
        if index.is_none() {
            let mut form = String::new();
            for (index, name) in names.iter().enumerate() {
                let before = match index {
                    0 => "",
                    _ if index + 1 == names.len() => " or ",
                    _ => ", ",
                };
                form.extend([before, "\"", name, "\""]);
            }
            self.problem(key, refused(value, &form));
        }
        index
    }

    /// The whole number in `field`, or the default.
    #[inline(never)]
    pub(super) fn integer(&mut self, field: &Integer) -> u64 {
        let Some(value) = self.value(field.name) else {
            return field.default;
        };
        let range = &field.range;
        match whole_number(value) {
            Some(number) if range.contains(&number) => number,
            _ => {
                let form = format!("a whole number from {} to {}", range.start(), range.end());
                self.problem(field.name, refused(value, &form));
                field.default
            }
        }
    }

    /// The number in `field` or the default, in hundredths. At most two decimal places are allowed.
    #[inline(never)]
    pub(super) fn hundredths(&mut self, field: &Hundredths) -> u64 {
        let Some(value) = self.value(field.name) else {
            return field.default;
        };
        let number = value.as_f64().map(|number| number * 100.0);
        // Most decimal fractions are inexact in binary.
        let whole = number.map(|number| (number + 0.5) as u64);
        match (number, whole) {
            (Some(number), Some(whole))
                if field.range.contains(&whole) && (number - whole as f64).abs() < 1e-6 =>
            {
                whole
            }
            _ => {
                self.problem(field.name, refused(value, field.form));
                field.default
            }
        }
    }

    /// The flag in `field`, or the default.
    #[inline(never)]
    pub(super) fn flag(&mut self, field: &Flag) -> bool {
        let Some(value) = self.value(field.name) else {
            return field.default;
        };
        value.as_bool().unwrap_or_else(|| {
            self.problem(field.name, refused(value, "true or false"));
            field.default
        })
    }

    /// The duration in `field`, or the default.
    #[inline(never)]
    pub(super) fn duration(&mut self, field: &Quantity<Duration>) -> Duration {
        self.quantity(field, units::duration, units::DURATION_FORM)
    }

    /// The duration in `field`, if the field is given.
    pub(super) fn optional_duration(&mut self, field: &Quantity<Duration>) -> Option<Duration> {
        let given = self.has(field.name);
        let duration = self.duration(field);
        given.then_some(duration)
    }

    /// The size in `field` or the default, in bytes.
    pub(super) fn size(&mut self, field: &Quantity<usize>) -> usize {
        self.quantity(field, units::size, units::SIZE_FORM)
    }

    fn quantity<T: PartialOrd + Default>(
        &mut self,
        field: &Quantity<T>,
        parse: impl Fn(&str) -> Option<T>,
        form: &str,
    ) -> T {
        let default = parse(field.default).unwrap_or_default();
        let Some(value) = self.value(field.name) else {
            return default;
        };
        let (start, end) = (field.range.start(), field.range.end());
        let (least, most) = (parse(start), parse(end));
        match value.as_str().and_then(&parse) {
            Some(quantity)
                if Some(&quantity) >= least.as_ref() && Some(&quantity) <= most.as_ref() =>
            {
                quantity
            }
            parsed => {
                let form = match parsed {
                    Some(_) => format!("{start} to {end}"),
                    None => form.to_owned(),
                };
                self.problem(field.name, refused(value, &form));
                default
            }
        }
    }

    /// The elements of a list, each with its path. Records a problem if `value` is not a list or is empty.
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

    /// Ends the reading. Records a problem for each field that no method has read.
    #[inline(never)]
    pub(super) fn finish(self) {
        for field in self.fields.into_iter().flat_map(Map::keys) {
            if !self.known.contains(&field.as_str()) {
                let known = self.known.clone();
                self.problem(field, Fault::Unknown { known });
            }
        }
    }
}

/// A whole number. A protobuf Struct has only doubles, so `3.0` counts too.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        ((0.0..1e15).contains(&number) && number as u64 as f64 == number).then_some(number as u64)
    })
}

/// The problem `VALUE is not allowed; use FORM`.
#[inline(never)]
pub(super) fn refused(value: &Value, form: &str) -> Fault {
    Fault::Refused {
        value: redacted(value),
        form: form.to_owned(),
    }
}
