//! A file of YAML or JSON, with the place of every value.

use std::collections::HashMap;
use std::fmt;

use azure_openai_balancer::core::config::{redacted, without_secrets};
use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};
use serde_json::{Map, Number, Value};

use crate::Problem;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Position {
    fn of(marker: Marker) -> Self {
        Self {
            line: marker.line().max(1),
            column: marker.col() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The place of a field.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: Position,
    value: Position,
}

/// The values of a file, and their places.
#[derive(Clone, Debug)]
pub struct Document {
    /// The whole value.
    pub value: Value,
    places: HashMap<String, Place>,
}

impl Document {
    /// Reads one document of YAML, of which JSON is a part.
    ///
    /// # Errors
    /// The first error in the YAML, or the first value that JSON cannot express.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let documents = MarkedYaml::load_from_str(text).map_err(|error| {
            let at = Position::of(*error.marker());
            Problem::new(at, "", not_yaml(text, at, error.info()))
        })?;
        let [document] = &documents[..] else {
            let problem = match documents.len() {
                0 => format!("the file is empty; use {LIST}"),
                many => format!("{many} documents are not allowed; use one"),
            };
            return Err(Problem::new(Position::START, "", problem));
        };
        let mut places = HashMap::new();
        let value = convert(document, None, "", &mut places)?;
        Ok(Self { value, places })
    }

    /// The place of the value at `path`, or else of the innermost existing value around it. Paths are those of the
    /// module's problems.
    pub fn position(&self, path: &str) -> Position {
        self.place(path)
            .map_or(Position::START, |place| place.value)
    }

    /// The place of the key of the value at `path`.
    pub fn key_position(&self, path: &str) -> Position {
        self.place(path).map_or(Position::START, |place| place.key)
    }

    /// Whether there is a value at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    fn place(&self, mut path: &str) -> Option<&Place> {
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = path.get(..path.rfind(['.', '[']).unwrap_or_default())?;
            if path.is_empty() {
                return self.places.get("");
            }
        }
    }
}

/// A complete list of backends, for an error about an empty file.
pub(crate) const LIST: &str =
    "a list such as `backends: [{host: contoso-eastus.openai.azure.com}]`";

/// The parser's message, with advice about the most probable cause.
fn not_yaml(text: &str, at: Position, info: &str) -> String {
    if info.contains("duplicated key") {
        let line = text.lines().nth(at.line - 1).unwrap_or_default();
        let rest = line.chars().skip(at.column - 1).collect::<String>();
        let key = rest.split(':').next().unwrap_or_default();
        return format!(
            "{} is given twice; use it once",
            redacted(&Value::from(key))
        );
    }
    let hints = [
        ("tabs disallowed", "use spaces to indent"),
        (
            "mapping values are not allowed",
            "check the indentation, and put a text with \": \" in quotes",
        ),
        ("did not find expected key", "check the indentation"),
        (
            "unknown anchor",
            "put a text that begins with \"*\" in quotes",
        ),
        ("unexpected character", "put the text in quotes"),
        (
            "expected ',' or",
            "close the bracket, and put a text with brackets in quotes",
        ),
        ("unexpected end of stream", "close the quotes"),
        (
            "expected node content",
            "close the bracket, or write a value",
        ),
    ];
    let hint = hints.iter().find(|(words, _)| info.contains(words));
    let hint = hint.map_or(String::new(), |(_, hint)| format!("; {hint}"));
    format!("this is not YAML: {info}{hint}")
}

/// A scalar that is not text, as files write it.
fn written(scalar: &Scalar<'_>) -> String {
    match scalar {
        Scalar::Null => "null".to_owned(),
        Scalar::Boolean(boolean) => boolean.to_string(),
        Scalar::Integer(integer) => integer.to_string(),
        Scalar::FloatingPoint(number) => number.0.to_string(),
        Scalar::String(text) => text.to_string(),
    }
}

fn convert(
    node: &MarkedYaml<'_>,
    key: Option<Position>,
    path: &str,
    places: &mut HashMap<String, Place>,
) -> Result<Value, Problem> {
    let value = Position::of(node.span.start);
    let key = key.unwrap_or(value);
    places.insert(path.to_owned(), Place { key, value });
    let problem = |problem: &str| Err(Problem::new(value, path, problem.to_owned()));
    match &node.data {
        YamlData::Value(scalar) => Ok(match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(boolean) => Value::Bool(*boolean),
            Scalar::Integer(integer) => Value::from(*integer),
            Scalar::FloatingPoint(number) => match Number::from_f64(number.0) {
                Some(number) => Value::Number(number),
                None => return problem("a number without end is not allowed"),
            },
            Scalar::String(text) => Value::String(text.to_string()),
        }),
        YamlData::Sequence(nodes) => nodes
            .iter()
            .enumerate()
            .map(|(i, node)| convert(node, None, &format!("{path}[{i}]"), places))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        YamlData::Mapping(fields) => {
            let mut map = Map::new();
            for (key, node) in fields {
                let at = Position::of(key.span.start);
                let name = match &key.data {
                    YamlData::Value(Scalar::String(name)) => name.to_string(),
                    YamlData::Value(scalar) => {
                        let written = without_secrets(&written(scalar));
                        let problem = format!(
                            "{written} is not allowed as a name; put it in quotes: \"{written}\""
                        );
                        return Err(Problem::new(at, path, problem));
                    }
                    _ => {
                        let problem = "a name that begins with a bracket is not allowed; put a text that begins with one in quotes";
                        return Err(Problem::new(at, path, problem.to_owned()));
                    }
                };
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let value = convert(node, Some(at), &path, places)?;
                map.insert(name, value);
            }
            Ok(Value::Object(map))
        }
        YamlData::Tagged(..) => problem("a tag is not allowed; use a plain value"),
        _ => problem("this value cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn values_and_places() {
        let text = "\
# ä comment
backends:
- host: ä.example
  weight: 2
  deployments: {gpt-4.1: own}
on: yes
none: ~
";
        let document = Document::parse(text).unwrap();
        let expected = json!({
            "backends": [{"host": "ä.example", "weight": 2, "deployments": {"gpt-4.1": "own"}}],
            "on": "yes",
            "none": null,
        });
        assert_eq!(document.value, expected);
        assert_eq!(document.position("backends[0].weight"), at(4, 11));
        assert_eq!(document.key_position("backends[0].weight"), at(4, 3));
        assert_eq!(
            document.position("backends[0].deployments.gpt-4.1"),
            at(5, 26)
        );
        assert_eq!(document.position("backends[0].cluster"), at(3, 3));
        assert_eq!(document.position("nowhere.at.all"), at(2, 1));
    }

    #[test]
    fn json_is_read_too_tabs_and_all() {
        let document =
            Document::parse("{\n\t\"a\": [1.5,\n\t\t{\"b\": \"\\u00e4\"}]\n}\n").unwrap();
        assert_eq!(document.value, json!({"a": [1.5, {"b": "ä"}]}));
        assert_eq!(document.position("a[1].b").line, 3);
    }

    #[test]
    fn invalid_documents_are_reported_with_their_place() {
        for (text, problem) in [
            ("", "1:1: the file is empty; use a list such as `backends: [{host: contoso-eastus.openai.azure.com}]`"),
            (
                "a: 1\n---\nb: 2\n",
                "1:1: 2 documents are not allowed; use one",
            ),
            (
                "a: 1\na: 2\n",
                "2:1: \"a\" is given twice; use it once",
            ),
            (
                "a: {\n",
                "2:1: this is not YAML: while parsing a node, did not find expected node content; close the bracket, or write a value",
            ),
            (
                "a:\n- b: .inf\n",
                "2:6: a[0].b: a number without end is not allowed",
            ),
            (
                "? [a]\n: 1\n",
                "1:3: a name that begins with a bracket is not allowed; put a text that begins with one in quotes",
            ),
            ("1: 2\n", "1:1: 1 is not allowed as a name; put it in quotes: \"1\""),
            (
                "a: !env KEY\n",
                "1:4: a: a tag is not allowed; use a plain value",
            ),
        ] {
            assert_eq!(
                Document::parse(text).unwrap_err().to_string(),
                problem,
                "{text:?}"
            );
        }
    }
}
