//! The fields of the plugin configuration, as JSON Schema and as tables for people. They come from the descriptions by
//! which the module's parser reads them.
//!
//! There are four keywords in addition to JSON Schema's own. `x-minimum` and `x-maximum` bound quantities with a unit,
//! `x-nullable` marks a field that accepts `null`, and `x-source` names the token services of an identity's field.

use azure_openai_balancer::core::config::{described, Description, Group, Values};
use serde_json::{json, Map, Value};

/// The JSON Schema of the plugin configuration.
pub(crate) fn schema() -> Value {
    let mut definitions = Map::new();
    let mut schema = of_group(&described(), &mut definitions);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$defs"] = Value::Object(definitions);
    schema
}

fn of_group(group: &Group, definitions: &mut Map<String, Value>) -> Value {
    let fields = group.fields.iter();
    let properties: Map<_, _> = fields
        .map(|field| (field.name.to_owned(), of_field(field, definitions)))
        .collect();
    let is_required = |field: &&Description| is_required(field, &properties[field.name]);
    let required = group.fields.iter().filter(is_required);
    let required: Vec<_> = required.map(|field| field.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": group.meaning,
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Whether the field is required. A field of one token service is never required in general.
fn is_required(field: &Description, schema: &Value) -> bool {
    let is_required = match field.values {
        Values::Text { is_required, .. } | Values::Own { is_required, .. } => is_required,
        _ => false,
    };
    is_required && schema.get("x-source").is_none()
}

fn of_field(field: &Description, definitions: &mut Map<String, Value>) -> Value {
    let hundredths = |number: u64| match number % 100 {
        0 => json!(number / 100),
        _ => json!(number as f64 / 100.0),
    };
    let mut schema = match &field.values {
        Values::Integer { range, default } => json!({
            "type": "integer", "minimum": range.start(), "maximum": range.end(), "default": default,
        }),
        Values::Hundredths { range, default } => json!({
            "type": "number",
            "minimum": hundredths(*range.start()),
            "maximum": hundredths(*range.end()),
            "multipleOf": 0.01,
            "default": hundredths(*default),
        }),
        Values::Flag { default } => json!({"type": "boolean", "default": default}),
        Values::Duration { range, .. } => json!({
            "type": "string", "pattern": "^[0-9.]+(ms|s|m|h)$", "x-minimum": range.start(), "x-maximum": range.end(),
        }),
        Values::Size { range, .. } => json!({
            "type": "string", "pattern": "^[0-9.]+(B|KiB|MiB|GiB)$", "x-minimum": range.start(), "x-maximum": range.end(),
        }),
        Values::Choice(names) => json!({"type": "string", "enum": names, "default": names.first()}),
        Values::Text { .. } => json!({"type": "string"}),
        Values::Own { .. } => json!({}),
    };
    if let Values::Duration { default, .. }
    | Values::Size { default, .. }
    | Values::Text { default, .. } = &field.values
    {
        if !default.is_empty() {
            schema["default"] = json!(default);
        }
    }
    for further in &field.schema {
        let further: Map<String, Value> = serde_json::from_str(further).unwrap_or_default();
        for (key, value) in further {
            schema[key] = value;
        }
    }
    if let Some(object) = field.object {
        let object = object();
        if !definitions.contains_key(object.title) {
            let definition = of_group(&object, definitions);
            definitions.insert(object.title.to_owned(), definition);
        }
        refer(&mut schema, &format!("#/$defs/{}", object.title));
    }
    if schema.get("x-nullable").is_some() && schema["type"].is_string() {
        schema["type"] = json!([schema["type"], "null"]);
    }
    schema["description"] = json!(without_links(field.meaning));
    schema
}

/// Puts the reference to an object in its place: for an element, for the values of a map, among alternatives, or for
/// the field itself.
fn refer(schema: &mut Value, target: &str) {
    let reference = json!({"$ref": target});
    if let Some(choices) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.push(reference);
    } else if schema["type"] == "array" {
        schema["items"] = reference;
    } else if schema["type"] == "object" {
        schema["additionalProperties"] = reference;
    } else if schema.get("x-nullable").is_some() {
        schema["anyOf"] = json!([reference, {"type": "null"}]);
    } else {
        schema["$ref"] = json!(target);
    }
}

/// A Markdown text with each link replaced by its words.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, (words, after))) = rest.split_once('[').and_then(|(before, link)| {
        let (words, target) = link.split_once("](")?;
        Some((before, (words, target.split_once(')')?.1)))
    }) {
        // A bracket in code is not a link.
        if words.contains([']', '`']) {
            let (code, after) = rest.split_at(before.len() + 1);
            plain.push_str(code);
            rest = after;
            continue;
        }
        plain.extend([before, words]);
        rest = after;
    }
    plain + rest
}

/// The default of the field at this path, such as `retry.max_attempts`; `null` if it has none.
pub(crate) fn default(path: &str) -> Value {
    let mut group = described();
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let Some(field) = group.fields.into_iter().find(|field| field.name == step) else {
            break;
        };
        if steps.peek().is_none() {
            return of_field(&field, &mut Map::new())["default"].clone();
        }
        let Some(object) = field.object else { break };
        group = object();
    }
    Value::Null
}

/// The page of Markdown with current tables. A table follows each comment `<!-- fields: NAME, NAME -->`, with a row for
/// each of these fields and all fields below it.
///
/// # Errors
/// A name that is not a field, or a field that no table has.
pub fn with_tables(page: &str) -> Result<String, String> {
    const START: &str = "<!-- fields: ";
    let mut missing: Vec<_> = described().fields;
    let mut out = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        out.extend([line, "\n"]);
        let names = line.strip_prefix(START);
        let Some(names) = names.and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        out.push_str("\n| field | default | values | meaning |\n|---|---|---|---|\n");
        for name in names.split(", ") {
            let index = missing.iter().position(|field| field.name == name);
            let index =
                index.ok_or_else(|| format!("{name} is no field, or has a table already"))?;
            add_rows(&missing.remove(index), "", &mut out);
        }
        out.push('\n');
        // The old table, and the empty lines around it.
        let is_old = |line: &&str| line.is_empty() || line.starts_with('|');
        while lines.next_if(is_old).is_some() {}
    }
    match missing.first() {
        None => Ok(out),
        Some(field) => Err(format!("no table has the field {}", field.name)),
    }
}

fn add_rows(field: &Description, parent: &str, out: &mut String) {
    let path = format!("{parent}{}", field.name);
    let schema = of_field(field, &mut Map::new());
    let group = field.object.map(|object| object());
    let default = match schema.get("default") {
        _ if is_required(field, &schema) => "required".to_owned(),
        Some(default) => format!("`{}`", default.to_string().replace(',', ", ")),
        // The default of an object follows from its fields, unless one of them has none.
        None => match group.as_ref().map(|group| of_group(group, &mut Map::new())) {
            Some(object) if object.get("required").is_none() => "as below".to_owned(),
            _ => "none".to_owned(),
        },
    };
    let values = match &field.values {
        Values::Integer { range, .. } => format!("{} to {}", range.start(), range.end()),
        Values::Hundredths { .. } => format!("{} to {}", schema["minimum"], schema["maximum"]),
        Values::Flag { .. } => "`true`, `false`".to_owned(),
        Values::Duration { range, .. } | Values::Size { range, .. } => {
            format!("{} to {}", range.start(), range.end())
        }
        Values::Choice(names) => format!("`\"{}\"`", names.join("\"`, `\"")),
        Values::Text { form, .. } => (*form).to_owned(),
        Values::Own { form: "", .. } => match schema["type"].as_str() {
            Some("array") => "a list".to_owned(),
            _ => "an object".to_owned(),
        },
        Values::Own { form, .. } => (*form).to_owned(),
    };
    let null = match schema.get("x-nullable") {
        Some(_) => ", `null`",
        None => "",
    };
    out.push_str(&format!(
        "| `{path}` | {default} | {values}{null} | {} |\n",
        field.meaning
    ));
    let separator = match schema["type"].as_str() {
        // The fields of a map's objects have names in their paths.
        Some("object") => return,
        Some("array") => "[].",
        _ => ".",
    };
    for inner in group.iter().flat_map(|group| &group.fields) {
        add_rows(inner, &format!("{path}{separator}"), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_their_words() {
        for (text, plain) in [
            ("See [behaviour](behaviour.md#a-b).", "See behaviour."),
            ("`backends[].host` and [x](y)", "`backends[].host` and x"),
            (
                "`[\"timeout\"]`, see [a](b) or [c](d).",
                "`[\"timeout\"]`, see a or c.",
            ),
            ("none", "none"),
        ] {
            assert_eq!(without_links(text), plain);
        }
    }

    #[test]
    fn tables_have_every_field_and_replace_the_old_ones() {
        let names: Vec<_> = described().fields.iter().map(|field| field.name).collect();
        let page = format!(
            "# a\n\n<!-- fields: {} -->\n\n| old |\n|---|\n\nend\n",
            names.join(", ")
        );
        let page = with_tables(&page).unwrap();
        assert!(
            page.contains("| `retry.budget.percent` | `20` | 0 to 100 | "),
            "{page}"
        );
        assert!(
            !page.contains("| old |") && page.ends_with("|\n\nend\n"),
            "{page}"
        );
        assert_eq!(with_tables(&page).as_ref(), Ok(&page));
        let less = page.replace(", retry", "");
        assert_eq!(
            with_tables(&less),
            Err("no table has the field retry".to_owned())
        );
        let other = page.replace(", retry", ", retries");
        assert!(with_tables(&other)
            .unwrap_err()
            .starts_with("retries is no field"));
    }

    #[test]
    fn defaults_are_found_by_their_paths() {
        assert_eq!(default("retry.budget.percent"), 20);
        assert_eq!(default("backends.weight"), 1);
        assert_eq!(default("backends.host"), Value::Null);
        assert_eq!(default("nothing.at.all"), Value::Null);
    }
}
