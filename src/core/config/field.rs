//! A field of the configuration, described once: its name, the values that it takes, its default and its meaning.
//!
//! [`fields`](super::fields) has one description per field. The parser reads a field by its description. The tool makes the JSON
//! Schemas and the tables of `docs/configuration.md` from all of them. The module never asks for [`Description`]s, so the linker
//! leaves the texts for people out of it.

use core::marker::PhantomData;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::forms::VARIABLE_FORM;
use crate::prelude::*;

/// A whole number.
pub(super) struct Integer {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) default: u64,
}

/// A whole number within `range`.
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

/// A number with at most two digits behind the point, in hundredths.
pub(super) struct Hundredths {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) default: u64,
    /// The range as people read it: no other message writes a fraction, and the code that writes one is large.
    pub(super) form: &'static str,
}

/// `true` or `false`.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) default: bool,
}

/// A duration or a size, read as a `T`. The bounds are texts as people write them, so that messages can repeat them.
pub(super) struct Quantity<T> {
    pub(super) name: &'static str,
    pub(super) range: RangeInclusive<&'static str>,
    /// The default; empty: the field has none.
    pub(super) default: &'static str,
    unit: PhantomData<T>,
}

/// A number with a unit within `range`.
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

/// One of a few words, each with what it stands for. The first is the default, and so is `T`'s.
pub(super) struct Choice<T: 'static> {
    pub(super) name: &'static str,
    pub(super) values: &'static [(&'static str, T)],
}

/// A text.
pub(super) struct Text {
    pub(super) name: &'static str,
    pub(super) form: &'static str,
    pub(super) accept: fn(&str) -> bool,
    /// The default; empty: the field has none.
    pub(super) default: &'static str,
    pub(super) is_required: bool,
}

/// A text of this form, which may be left out.
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

/// The name of an environment variable.
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The variable's name by default; empty: there is none.
    pub(super) default: &'static str,
}

/// An object, a list, or anything else that has a reader of its own.
pub(super) struct Own {
    pub(super) name: &'static str,
    pub(super) form: &'static str,
    pub(super) is_required: bool,
}

/// A field with a reader of its own. The form is empty where the reader's messages have more to say.
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

/// The values that a field takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// A whole number.
    Integer {
        /// The least and the most.
        range: RangeInclusive<u64>,
        /// The default.
        default: u64,
    },
    /// A number with two digits behind the point, in hundredths.
    Hundredths {
        /// The least and the most.
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
        /// The least and the most.
        range: RangeInclusive<&'static str>,
        /// The default; empty: there is none.
        default: &'static str,
    },
    /// A size in bytes.
    Size {
        /// The least and the most.
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
        /// The default; empty: there is none.
        default: &'static str,
        /// Whether it must be given.
        is_required: bool,
    },
    /// The values of [`Description::schema`].
    Own {
        /// The form of the values, for error messages; may be empty.
        form: &'static str,
        /// Whether it must be given.
        is_required: bool,
    },
}

/// A field as people see it.
#[derive(Clone, Debug)]
pub struct Description {
    /// The name.
    pub name: &'static str,
    /// The values that it takes.
    pub values: Values,
    /// The meaning, in Markdown. Links lead from `docs/`.
    pub meaning: &'static str,
    /// The object that it holds, alone, in a list or in a map.
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
    /// The values that it takes.
    fn values(&self) -> Values;
}

/// Implements [`Field`] by the values of each kind of field.
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

/// Declares an object of the configuration: a module with a constant per field, for the parser, and the function `group`, which
/// describes them all. A doc comment is a field's meaning. After the field come the object that it holds (`=>`) and further keys
/// of its schema (`with`).
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
