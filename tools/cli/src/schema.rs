//! The JSON Schemas of the plugin configuration and of the list of backends.

use schemars::generate::SchemaSettings;
use schemars::JsonSchema;
use serde_json::{json, Map, Value};

use crate::limits::{LimitService, SERVICE};
use crate::list::{Endpoint, FilePath, Own, ENDPOINT, TOKEN_FILE, TOKEN_SOCKET};
use crate::Form;

/// A URL without a path.
const WITHOUT_PATH: &str = r"^https?://[A-Za-z0-9.-]+(:[0-9]+)?/?$";

/// The schema's text, as checked in.
pub fn text(form: Form) -> String {
    format!("{:#}\n", schema(form))
}

/// The schema of a file of this form.
pub fn schema(form: Form) -> Value {
    match form {
        Form::Plugin => plugin(),
        Form::Backends => list(),
    }
}

fn plugin() -> Value {
    let mut schema = crate::fields::schema();
    schema["title"] = json!("Plugin configuration of the Azure OpenAI balancer");
    schema
}

/// The plugin's schema, with fewer required fields, and with the list's own fields.
fn list() -> Value {
    let mut schema = plugin();
    let own = of::<Own>();
    schema["title"] = json!("Backends of the Azure OpenAI balancer");
    schema["description"] = json!("The list of backends: Azure OpenAI resources, from which a complete configuration is made.");
    move_fields(&own, "/properties", &mut schema);
    move_fields(&own, "/$defs", &mut schema);
    let endpoint = serde_json::to_value(Endpoint::json_schema(&mut settings().into_generator()))
        .unwrap_or_default();
    for (kind, required, what) in [
        ("Backend", &["host"][..], "The backend's address, if it is not `https://HOST`, such as that of a private endpoint."),
        ("Identity", &[], "The token service's address, if it is not the usual one of IMDS or the authority; with `app_service`, the address in IDENTITY_ENDPOINT."),
    ] {
        let Some(object) = schema.pointer_mut(&format!("/$defs/{kind}")) else {
            continue;
        };
        object["required"] = json!(required);
        let mut field = endpoint.clone();
        field["description"] = json!(what);
        if kind == "Backend" {
            field["pattern"] = json!(WITHOUT_PATH);
        }
        object["properties"][ENDPOINT] = field;
    }
    if let Some(limits) = schema.pointer_mut("/$defs/Limits/properties") {
        let mut service = of::<LimitService>();
        if let Some(service) = service.as_object_mut() {
            service.retain(|key, _| key != "$schema" && key != "title");
        }
        service["properties"][ENDPOINT]["pattern"] = json!(WITHOUT_PATH);
        limits[SERVICE] = service;
    }
    let path = serde_json::to_value(FilePath::json_schema(&mut settings().into_generator()))
        .unwrap_or_default();
    if let Some(identity) = schema.pointer_mut("/$defs/Identity/properties") {
        for (name, default, what) in [
            (TOKEN_FILE, crate::fleet::TOKEN_FILE, "The file that AZURE_FEDERATED_TOKEN_FILE names, as Envoy finds it; with source `workload_identity`."),
            (TOKEN_SOCKET, crate::fleet::TOKEN_SOCKET, "The unix socket by which Envoy hands that file to the module. Envoy makes it; each Envoy of a machine needs its own."),
        ] {
            let mut field = path.clone();
            field["description"] = json!(what);
            field["default"] = json!(default);
            field["x-source"] = json!("workload_identity");
            identity[name] = field;
        }
    }
    schema
}

fn move_fields(from: &Value, pointer: &str, to: &mut Value) {
    let fields = from.pointer(pointer).and_then(Value::as_object);
    let target = to.pointer_mut(pointer).and_then(Value::as_object_mut);
    if let (Some(fields), Some(target)) = (fields, target) {
        target.extend(fields.clone());
    }
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
}

fn of<T: JsonSchema>() -> Value {
    let schema = settings().into_generator().into_root_schema_for::<T>();
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    without_null(&mut schema);
    schema
}

/// An optional field is an `Option`, for which the library allows `null`. Here `null` is refused unless the field
/// allows it.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(fields) => {
            if fields.get("x-nullable").is_none() {
                remove_null(fields);
            }
            fields.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

fn remove_null(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(choices)) = fields.get_mut("anyOf") else {
        return;
    };
    choices.retain(|choice| choice.get("type") != Some(&json!("null")));
    if let [only] = &choices[..] {
        let only = only.clone();
        fields.remove("anyOf");
        if let Value::Object(only) = only {
            fields.extend(only);
        }
    }
}
