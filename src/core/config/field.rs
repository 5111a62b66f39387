//! A field of the configuration, described once: its name, values, default and meaning.
//!
//! [`fields`](super::fields) has one description per field. The parser reads a field by its description. The tool
//! generates the JSON Schemas and the tables of `docs/configuration.md` from the descriptions. The module never uses
//! [`Description`]s, so the linker drops their texts from it.

use core::marker::PhantomData;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::forms::VARIABLE_FORM;
use crate::prelude::*;

/// A field with a whole number.
pub(super) struct Integer {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) default: u64,
}

/// A field with a whole number within `range`.
pub(super) const fn integer(
    name: &'static str,
    range: RangeInclusive<u64>,
    default: u64,
) -> Integer {
    Integer {
        name,
        range,
        default,
    }
}

/// A field with a number of at most two decimal places, in hundredths.
pub(super) struct Hundredths {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) default: u64,
    /// The range as text. No other message formats a fraction, and the code that formats one is large.
    pub(super) form: &'static str,
}

/// `true` or `false`.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) default: bool,
}

/// A field with a duration or a size, read as a `T`. The bounds are texts as users write them, so that messages can
/// repeat them.
pub(super) struct Quantity<T> {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<&'static str>,
    /// The default. Empty if the field has none.
    pub(super) default: &'static str,
    unit: PhantomData<T>,
}

/// A field with a number and a unit, within `range`.
pub(super) const fn quantity<T>(
    name: &'static str,
    range: RangeInclusive<&'static str>,
    default: &'static str,
) -> Quantity<T> {
    Quantity {
        name,
        range,
        default,
        unit: PhantomData,
    }
}

/// A field with one of a few words, each with its value. The first word is the default, and has `T`'s default value.
pub(super) struct Choice<T: 'static> {
    pub(super) name: &'static str,
    pub(super) values: &'static [(&'static str, T)],
}

/// A field with a text.
pub(super) struct Text {
    pub(super) name: &'static str,
    pub(super) form: &'static str,
    pub(super) accept: fn(&str) -> bool,
    /// The default. Empty if the field has none.
    pub(super) default: &'static str,
    pub(super) is_required: bool,
}

/// An optional field with a text of this form.
pub(super) const fn text(name: &'static str, form: &'static str, accept: fn(&str) -> bool) -> Text {
    Text {
        name,
        form,
        accept,
        default: "",
        is_required: false,
    }
}

impl Text {
    /// Makes the text a required field.
    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// Gives the text a default.
    pub(super) const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

/// A field with the name of an environment variable.
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The default name of the variable. Empty if the field has none.
    pub(super) default: &'static str,
}

/// A field with its own reader, such as an object or a list.
pub(super) struct Own {
    pub(super) name: &'static str,
    pub(super) form: &'static str,
    pub(super) is_required: bool,
}

/// A field with its own reader. The form is empty if the reader's messages say more.
pub(super) const fn own(name: &'static str, form: &'static str) -> Own {
    Own {
        name,
        form,
        is_required: false,
    }
}

impl Own {
    /// Makes the field a required one.
    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }
}

/// The values that a field accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// A whole number.
    Integer {
        /// The smallest and the largest value.
        range: RangeInclusive<u64>,
        /// The default.
        default: u64,
    },
    /// A number with at most two decimal places, in hundredths.
    Hundredths {
        /// The smallest and the largest value.
        range: RangeInclusive<u64>,
        /// The default.
        default: u64,
    },
    /// `true` or `false`.
    Flag {
        /// The default.
        default: bool,
    },
    /// A duration.
    Duration {
        /// The smallest and the largest value.
        range: RangeInclusive<&'static str>,
        /// The default. Empty if the field has none.
        default: &'static str,
    },
    /// A size in bytes.
    Size {
        /// The smallest and the largest value.
        range: RangeInclusive<&'static str>,
        /// The default.
        default: &'static str,
    },
    /// One of these words; the first is the default.
    Choice(Vec<&'static str>),
    /// A text.
    Text {
        /// The form of the text, for error messages.
        form: &'static str,
        /// The default. Empty if the field has none.
        default: &'static str,
        /// Whether the field is required.
        is_required: bool,
    },
    /// The values of [`Description::schema`].
    Own {
        /// The form of the values, for error messages. May be empty.
        form: &'static str,
        /// Whether the field is required.
        is_required: bool,
    },
}

/// The documentation of a field.
#[derive(Clone, Debug)]
pub struct Description {
    /// The name.
    pub name: &'static str,
    /// The values that the field accepts.
    pub values: Values,
    /// The meaning, in Markdown. Links are relative to `docs/`.
    pub meaning: &'static str,
    /// The object in the field: as its value, in a list, or in a map.
    pub object: Option<fn() -> Group>,
    /// Keys of its JSON Schema that do not follow from [`Self::values`], as JSON objects.
    pub schema: Vec<String>,
}

/// An object of the configuration with its fields.
#[derive(Clone, Debug)]
pub struct Group {
    /// The name of its definition in the schema.
    pub title: &'static str,
    /// The meaning.
    pub meaning: &'static str,
    /// The fields.
    pub fields: Vec<Description>,
}

/// A field that can be described.
pub(super) trait Field {
    /// The name.
    fn name(&self) -> &'static str;
    /// The values that the field accepts.
    fn values(&self) -> Values;
}

/// Implements [`Field`] for each kind of field.
macro_rules! kinds {
    ($($kind:ty: |$field:ident| $values:expr;)*) => {$(
        impl Field for $kind {
            fn name(&self) -> &'static str {
                self.name
            }

            fn values(&self) -> Values {
                let $field = self;
                $values
            }
        }
    )*};
}

kinds! {
    Integer: |field| Values::Integer { range: field.range.clone(), default: field.default };
    Hundredths: |field| Values::Hundredths { range: field.range.clone(), default: field.default };
    Flag: |field| Values::Flag { default: field.default };
    Quantity<Duration>: |field| Values::Duration { range: field.range.clone(), default: field.default };
    Quantity<usize>: |field| Values::Size { range: field.range.clone(), default: field.default };
    Text: |field| Values::Text {
        form: field.form,
        default: field.default,
        is_required: field.is_required,
    };
    Variable: |field| Values::Text { form: VARIABLE_FORM, default: field.default, is_required: false };
    Own: |field| Values::Own { form: field.form, is_required: field.is_required };
}

impl<T> Field for Choice<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn values(&self) -> Values {
        Values::Choice(self.values.iter().map(|(name, _)| *name).collect())
    }
}

/// Declares an object of the configuration: a module with a constant per field, for the parser, and the function
/// `group`, which describes all fields. A field's doc comment is its meaning. After the field come the object in it
/// (`=>`) and further keys of its schema (`with`).
macro_rules! object {
    (
        $(#[doc = $about:literal])*
        $module:ident $title:literal {
            $($(#[doc = $doc:literal])*
            $name:ident: $kind:ty = $value:expr
            $(, => $object:ident)? $(, with $schema:expr)*;)*
        }
    ) => {
        $(#[doc = $about])*
        pub(super) mod $module {
            use super::*;

            $($(#[doc = $doc])*
            pub(in crate::config) const $name: $kind = $value;)*

            /// The description of the object and of its fields.
            pub fn group() -> Group {
                Group {
                    title: $title,
                    meaning: concat!($($about),*).trim_ascii(),
                    fields: vec![$(Description {
                        name: Field::name(&$name),
                        values: Field::values(&$name),
                        meaning: concat!($($doc),*).trim_ascii(),
                        object: [None, $(Some($object::group as fn() -> Group))?].into_iter().flatten().next(),
                        schema: vec![$(String::from($schema)),*],
                    }),*],
                }
            }
        }
    };
}

pub(super) use object;
