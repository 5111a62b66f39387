//! Patches, carried out as Istio, its agent and Envoy Gateway do.

use std::fs;
use std::path::Path;

use serde_json::{json, Value};
use tempfile::TempDir;

/// Istio's agent: it fetches the image of an extension, and replaces the image by a file.
pub fn fetched(extension: &Value, module: &Path) -> Value {
    let mut extension = extension.clone();
    let code = &mut extension["typed_config"]["config"]["vm_config"]["code"];
    let remote = &code["remote"];
    let uri = remote["http_uri"]["uri"].as_str().expect("a URI");
    assert!(uri.starts_with("oci://"), "{uri}");
    assert_eq!(remote["sha256"], "nil", "Istio's word for no checksum");
    *code = json!({"local": {"filename": module}});
    extension
}

/// Istio: it serves an extension by its name. Here that is a file.
pub fn hand_out(folder: &TempDir, extension: &Value) {
    let mut resource = extension.clone();
    resource["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
    let name = extension["name"].as_str().expect("a name");
    let file = folder.path().join(format!("{name}.yaml"));
    fs::write(file, json!({"resources": [resource]}).to_string()).expect("write the extension");
}

/// The value, with filters that find their configuration in the files of [`hand_out`] and not at Istio.
pub fn discovering(value: &Value, folder: &TempDir) -> Value {
    let mut value = value.clone();
    discover(&mut value, folder);
    value
}

fn discover(value: &mut Value, folder: &TempDir) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| discover(item, folder)),
        Value::Object(fields) => {
            let name = fields.get("name").cloned();
            let source = fields.get_mut("config_discovery");
            let source = source.map(|discovery| &mut discovery["config_source"]);
            if let (Some(name), Some(source)) = (name, source) {
                let source = source.as_object_mut().expect("fields");
                assert_eq!(source.remove("ads"), Some(json!({})));
                let name = name.as_str().expect("a name");
                let file = folder.path().join(format!("{name}.yaml"));
                source.insert("path_config_source".to_owned(), json!({"path": file}));
            }
            fields
                .values_mut()
                .for_each(|field| discover(field, folder));
        }
        _ => {}
    }
}

/// Envoy Gateway: one operation `add` of JSON Patch, at every place that its JSONPath finds. Without a `path`, the
/// place is an item of a list, and the value is inserted before it.
///
/// This supports fields, `[*]` and `[?(@.name=='...')]` of JSONPath.
pub fn apply(resource: &mut Value, operation: &Value) {
    assert_eq!(operation["op"], "add");
    let path = operation["jsonPath"].as_str().expect("a JSONPath");
    let steps = path.strip_prefix("$.").expect("a path from the root");
    let Some(field) = operation["path"].as_str() else {
        let (list, name) = steps.rsplit_once("[?(@.name=='").expect("an item");
        let name = name.strip_suffix("')]").expect("the path's end");
        let lists = places(vec![resource], list);
        assert!(!lists.is_empty(), "{path} is nowhere");
        for list in lists {
            let items = list.as_array_mut().expect("a list");
            let at = items.iter().position(|item| item["name"] == name);
            items.insert(at.expect("the item"), operation["value"].clone());
        }
        return;
    };
    let field = field.strip_prefix('/').expect("a field");
    assert!(!field.contains('/'), "{field} is one field");
    let places = places(vec![resource], steps);
    assert!(!places.is_empty(), "{path} is nowhere");
    for place in places {
        place[field] = operation["value"].clone();
    }
}

/// The values that the steps lead to, below these values.
fn places<'v>(mut values: Vec<&'v mut Value>, steps: &str) -> Vec<&'v mut Value> {
    let mut rest = steps;
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        values = values
            .into_iter()
            .filter_map(|value| value.get_mut(field))
            .collect();
        rest = after;
        if let Some(selector) = after.strip_prefix('[') {
            let (selector, after) = selector
                .split_once(']')
                .filter(|(s, _)| *s == "*")
                .unwrap_or_else(|| {
                    let (selector, after) = selector.split_once(")]").expect("a selector");
                    (selector, after)
                });
            let name = selector
                .strip_prefix("?(@.name=='")
                .and_then(|name| name.strip_suffix('\''));
            assert!(selector == "*" || name.is_some(), "{selector}");
            let items = values
                .into_iter()
                .flat_map(|value| value.as_array_mut().expect("a list"));
            values = items
                .filter(|item| name.is_none_or(|name| item["name"] == name))
                .collect();
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    values
}
