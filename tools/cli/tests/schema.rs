//! The schema of the plugin configuration and the module's parser accept the same values.
//!
//! Both come from the descriptions in `core/config/fields.rs`, except the patterns of texts, and objects and lists,
//! which have readers of their own. The test walks the schema from its root, and gives every field values of every
//! type.

use azure_openai_balancer::core::config::{ConfigError, Plugin};
use cli::list::OWN;
use cli::Form;
use serde_json::{json, Value};

fn parse(value: &Value) -> Result<Plugin, ConfigError> {
    let any = |name: &str| {
        let is_url = !name.starts_with("AZURE_");
        Some(if is_url { "http://set" } else { "set" }.to_owned())
    };
    Plugin::from_bytes(value.to_string().as_bytes(), &any)
}

/// A place in a configuration, and the schema of its value.
struct Field {
    path: String,
    pointer: String,
    /// The schema as written.
    raw: Value,
    /// The schema with references resolved.
    schema: Value,
    required: bool,
}

/// The smallest configuration in which the field at `pointer` is allowed. Some fields are for one token service only.
fn base(source: &str) -> Value {
    let mut base = json!({
        "backends": [{"name": "east", "cluster": "aoai_east", "host": "east.openai.azure.com"}],
        "identity": {"source": source, "cluster": "imds"},
    });
    if source == "workload_identity" {
        base["identity"]["token_file_cluster"] = json!("token_file");
    }
    base
}

/// The smallest configuration in which this field is allowed.
fn base_of(field: &Field) -> Value {
    let mut base = base(source(&field.schema));
    if field.path.starts_with("affinity.") {
        base["affinity"] = json!({"by": "prompt_cache_key"});
    }
    if field.path.starts_with("limits.") {
        base["headers"] = json!({"client": "x-client"});
    }
    base
}

/// The first token service to which the field applies.
fn source(field: &Value) -> &str {
    let only = &field["x-source"];
    only.as_str().or(only[0].as_str()).unwrap_or("imds")
}

/// Whether the field applies to this token service.
fn is_for(field: &Value, source: &str) -> bool {
    match &field["x-source"] {
        Value::Null => true,
        Value::Array(sources) => sources.contains(&json!(source)),
        only => only == source,
    }
}

/// `config` with `value` at `pointer`. Missing objects on the way are made.
fn with(mut config: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut config;
    let mut steps = pointer.split('/').skip(1).peekable();
    while let Some(step) = steps.next() {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
        if steps.peek().is_none() {
            *at = value;
            break;
        }
        if at.is_null() {
            *at = json!({});
        }
    }
    config
}

/// Resolves `$ref`s, also within alternatives with `null`.
fn resolve(root: &Value, schema: &Value) -> Value {
    let mut merged = schema.clone();
    let target = schema["$ref"].as_str().or_else(|| {
        let choices = schema["anyOf"].as_array()?;
        choices.iter().find_map(|choice| choice["$ref"].as_str())
    });
    if let Some(target) = target {
        let found = root
            .pointer(target.trim_start_matches('#'))
            .expect("a definition");
        for (key, value) in found.as_object().expect("an object") {
            merged[key] = value.clone();
        }
    }
    merged
}

fn fields(root: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    let mut to_see = vec![(String::new(), String::new(), root.clone())];
    while let Some((path, pointer, object)) = to_see.pop() {
        let required: Vec<&str> = object["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, schema) in object["properties"].as_object().expect("properties") {
            let raw = schema.clone();
            let schema = resolve(root, schema);
            let path = match path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            let pointer = format!("{pointer}/{name}");
            if schema.get("properties").is_some() {
                to_see.push((path.clone(), pointer.clone(), schema.clone()));
            }
            if let Some(item) = schema["items"]["$ref"].as_str() {
                let item = resolve(root, &json!({"$ref": item}));
                to_see.push((format!("{path}[0]"), format!("{pointer}/0"), item));
            }
            let required = required.contains(&name.as_str());
            found.push(Field {
                path,
                pointer,
                raw,
                schema,
                required,
            });
        }
    }
    found
}

/// The parser's problem with this value of the field; `None` if it is valid.
fn problem(field: &Field, value: &Value) -> Option<String> {
    let config = with(base_of(field), &field.pointer, value.clone());
    parse(&config).err().map(|error| error.to_string())
}

/// Values of every type, and texts of every kind.
fn probes() -> Vec<Value> {
    let texts = [
        "",
        " ",
        "a",
        "A",
        "a b",
        "a.b",
        "a/b",
        "a_b-1",
        "/",
        "/x",
        "/x/",
        "/x/y",
        "/x?y",
        "/x#y",
        "x-name",
        "X-Name",
        "ä",
        "https://h",
        "https://h/",
        "https://h:8443/x",
        "[::1]:443",
        "a\n",
        "10s",
        "0s",
        "5m",
        "1MiB",
        "5",
        "s",
        "-1s",
        "round_robin",
        "router",
        "pass",
        "imds",
    ];
    let mut probes: Vec<Value> = texts.iter().map(|text| json!(text)).collect();
    probes.push(json!("x".repeat(64)));
    probes.push(json!("x".repeat(65)));
    probes.extend([
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(5),
        json!(6),
        json!(100),
        json!(101),
        json!(255),
        json!(256),
        json!(1000),
        json!(1001),
        json!(10_000),
        json!(10_001),
        json!(-1),
        json!(1.5),
        json!([]),
        json!({}),
        json!([400]),
        json!([599]),
        json!([399]),
        json!([600]),
        json!([401]),
        json!(["429"]),
        json!({"a": "b"}),
        json!({"a b": "c"}),
        json!({"a": "b/c"}),
        json!({"a": 1}),
        json!({"unknown": 1}),
        // The other forms that serde accepts for a struct and for a name.
        json!(["a", "b"]),
        json!(["a", "b", null, null, null]),
        json!({"router": null}),
        json!(["router"]),
    ]);
    probes
}

fn validator(root: &Value, schema: &Value) -> jsonschema::Validator {
    let mut schema = schema.clone();
    schema["$defs"] = root["$defs"].clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

#[test]
fn the_parser_and_the_schema_agree() {
    let root = cli::schema::schema(Form::Plugin);
    let mut probed = 0;
    for field in fields(&root) {
        let validator = validator(&root, &field.raw);
        for probe in probes() {
            // JSON Schema has no bounds of quantities and no token services of fields. Tests below cover them.
            if field.schema.get("x-minimum").is_some()
                && probe.is_string()
                && validator.is_valid(&probe)
            {
                continue;
            }
            // JSON Schema cannot compare a name with another field.
            let names = ["state.home", "backends[0].identity"].contains(&field.path.as_str());
            if names && validator.is_valid(&probe) {
                continue;
            }
            if matches!(field.path.as_str(), "backends" | "identity.source") {
                continue;
            }
            let problem = problem(&field, &probe);
            assert_eq!(
                problem.is_none(),
                validator.is_valid(&probe),
                "{} = {probe}: {problem:?}",
                field.path
            );
            probed += 1;
        }
    }
    assert!(probed > 1500, "{probed}");
}

/// The tool's problem with a list of backends in which the field has this value; `None` if it is valid.
fn problem_of_list(field: &Field, value: &Value) -> Option<String> {
    let mut list = base_of(field);
    list["identity"]["endpoint"] = json!("http://127.0.0.1:42356");
    // Other required fields beside the field.
    if field.path.starts_with("listener.tls.") {
        list["listener"] = json!({"tls": {"certificate": "a", "key": "b"}});
    }
    if field.path.starts_with("clients.entra_id.") {
        list["clients"] = json!({"entra_id": {"tenant": "a", "audience": "b"}});
    }
    if field.path.starts_with("limits.service.") {
        list["limits"] = json!({"service": {"endpoint": "http://ratelimit:8081"}});
    }
    let list = with(list, &field.pointer, value.clone());
    let problems = cli::check(&list.to_string(), Some(Form::Backends)).err()?;
    let message: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Some(message.join("\n"))
}

#[test]
fn the_list_of_backends_and_its_schema_agree() {
    let root = cli::schema::schema(Form::Backends);
    let mut own = 0;
    for field in fields(&root) {
        let validator = validator(&root, &field.raw);
        for probe in probes() {
            let is_valid = validator.is_valid(&probe);
            // JSON Schema cannot check addresses, nor the fields that are left out above.
            let is_address = field.path.ends_with(".address");
            let names = ["state.home", "backends[0].identity"].contains(&field.path.as_str());
            if is_valid && (is_address || names || field.schema.get("x-minimum").is_some())
                || ["backends", "identity.source"].contains(&field.path.as_str())
            {
                continue;
            }
            let message = problem_of_list(&field, &probe);
            assert_eq!(
                message.is_none(),
                is_valid,
                "{} = {probe}: {message:?}",
                field.path
            );
            if let Some(message) = message.filter(|_| !probe.is_object()) {
                let place = format!(": {}", field.path);
                assert!(
                    message.contains(&place) && message.contains("; use "),
                    "{message}"
                );
            }
            own += usize::from(OWN.iter().any(|name| field.path.starts_with(name)));
        }
    }
    assert!(own > 500, "{own}");
}

#[test]
fn every_object_has_the_fields_that_the_parser_knows() {
    let root = cli::schema::schema(Form::Plugin);
    let mut objects = vec![("".to_owned(), "/unknown".to_owned(), root.clone(), "imds")];
    for field in fields(&root) {
        if field.schema.get("properties").is_some() {
            for source in ["imds", "app_service", "workload_identity", "client_secret"] {
                let pointer = format!("{}/unknown", field.pointer);
                objects.push((field.path.clone(), pointer, field.schema.clone(), source));
            }
        }
        if let Some(item) = field.schema["items"]["$ref"].as_str() {
            let item = resolve(&root, &json!({"$ref": item}));
            objects.push((
                field.path.clone(),
                format!("{}/0/unknown", field.pointer),
                item,
                "imds",
            ));
        }
    }
    assert!(objects.len() > 8);
    for (path, pointer, schema, source) in objects {
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let message = parse(&with(base(source), &pointer, json!(1)))
            .expect_err("unknown")
            .to_string();
        let line = message
            .lines()
            .find(|line| line.contains("unknown field"))
            .expect("a line");
        let (_, known) = line.split_once("use one of ").expect("with what is known");
        let mut known: Vec<&str> = known.split(", ").collect();
        let properties = schema["properties"].as_object().expect("properties");
        let mut named: Vec<&str> = properties
            .iter()
            .filter(|(_, field)| is_for(field, source))
            .map(|(name, _)| name.as_str())
            .collect();
        known.sort_unstable();
        named.sort_unstable();
        assert_eq!(known, named, "{path:?} with {source}");
    }
}

#[test]
fn every_default_is_the_parsers() {
    let root = cli::schema::schema(Form::Plugin);
    let mut defaults = 0;
    for field in fields(&root) {
        let Some(default) = field.schema.get("default") else {
            continue;
        };
        let base = base_of(&field);
        let parsed = parse(&with(base.clone(), &field.pointer, default.clone()));
        let left_out = parse(&base).expect("right");
        assert_eq!(
            format!("{:?}", parsed.expect("right")),
            format!("{left_out:?}"),
            "{}",
            field.path
        );
        defaults += 1;
    }
    assert!(defaults >= 20, "{defaults}");
}

#[test]
fn missing_required_fields_are_reported() {
    let root = cli::schema::schema(Form::Plugin);
    let required: Vec<Field> = fields(&root)
        .into_iter()
        .filter(|field| field.required)
        .collect();
    let paths: Vec<&str> = required.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths.len(), 6, "{paths:?}");
    for field in &required {
        let mut config = base_of(field);
        let (parent, name) = field.pointer.rsplit_once('/').expect("a pointer");
        config
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .expect("an object")
            .remove(name);
        let message = parse(&config).expect_err("missing").to_string();
        assert!(
            message.contains(&format!("{}: is missing", field.path)),
            "{message}"
        );
    }
}

/// Fields that the tool reads, and fields that it does not.
const EVERYTHING: &str = r#"{
    "backends": [{
        "name": "east", "cluster": "c", "host": "h", "priority": 1, "weight": 2, "first_byte_timeout": "1s",
        "deployments": {"a": "b"}, "unlisted_deployments": "refuse", "api_version": "v", "api_key_env": "K"
    }],
    "identity": {"source": "imds", "cluster": "imds", "resource": "r", "client_id": "i", "wait_timeout": "1s"},
    "state": {"home": "east", "ids": "plain"},
    "affinity": {"by": {"header": "session_id"}, "most": 1.5},
    "cooldown": null,
    "retry": {"engine": "router", "max_attempts": 1, "budget": null},
    "headers": {"cluster": "c", "backend": null, "client": "n"},
    "limits": {
        "default": {"tokens_per_minute": 1, "tokens_per_day": null},
        "clients": {"a": {"tokens_per_day": 3}, "b": null}
    },
    "left_to_envoy": ["host"]
}"#;

#[test]
fn the_tools_types_lose_no_field() {
    let everything: Value = serde_json::from_str(EVERYTHING).expect("JSON");
    let root = cli::schema::schema(Form::Plugin);
    assert!(jsonschema::is_valid(&root, &everything));
    parse(&everything).expect("right");
    let typed: cli::plugin::Plugin = serde_json::from_value(everything.clone()).expect("in types");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), everything);
}

#[test]
fn the_lists_schema_extends_the_plugins() {
    let schema = cli::schema::schema(Form::Backends);
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for (list, valid) in [
        (
            json!({"backends": [{"host": "contoso.openai.azure.com"}]}),
            true,
        ),
        (
            json!({"backends": [{"host": "h", "endpoint": "http://127.0.0.1:8080"}], "engine": "filter"}),
            true,
        ),
        (
            json!({"backends": [{"host": "h"}], "identity": {"endpoint": "http://a"}, "listener": {"port": 1}}),
            true,
        ),
        (
            json!({"backends": [{"host": "h"}], "clients": {"keys_file": "x"}, "cooldown": null}),
            true,
        ),
        (
            json!({"backends": [{"host": "h"}], "clients": {"entra_id": {"tenant": "t", "audience": "a"}}}),
            true,
        ),
        (json!({"backends": [{"name": "a"}]}), false),
        (json!({"backends": [{"host": "h", "wieght": 1}]}), false),
        (
            json!({"backends": [{"host": "h"}], "listener": {"port": 0}}),
            false,
        ),
        (
            json!({"backends": [{"host": "h"}], "clients": {"entra_id": {"tenant": "t"}}}),
            false,
        ),
        (json!({"backends": [{"host": "h"}], "unknown": 1}), false),
    ] {
        assert_eq!(validator.is_valid(&list), valid, "{list}");
        assert_eq!(
            cli::check(&list.to_string(), Some(Form::Backends)).is_ok(),
            valid,
            "{list}"
        );
    }
}
