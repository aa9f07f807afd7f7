//! Arguments that are written as bare text get the types that a tool's schema has for them.

use super::ToolSpec;
use serde_json::{Number, Value};

/// The schema of an argument, if the tool and the argument are known.
pub(super) fn schema<'a>(tools: &'a [ToolSpec], tool: &str, argument: &str) -> Option<&'a Value> {
    let tool = tools.iter().find(|known| known.name == tool)?;
    tool.parameters.get("properties")?.get(argument)
}

/// The types that a schema allows, in its order; all if it names none.
fn types(schema: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    match &schema["type"] {
        Value::String(one) => found.push(one.as_str()),
        Value::Array(several) => found.extend(several.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        found.extend(schema[key].as_array().into_iter().flatten().flat_map(types));
    }
    found
}

/// The value of a text that stands where a value of this schema belongs. Without a schema, and where the text is none of what is
/// allowed, JSON is what it says and anything else a string.
pub(super) fn typed(text: &str, schema: Option<&Value>) -> Value {
    let types = schema.map(types).unwrap_or_default();
    let trimmed = text.trim();
    let allowed = |name: &str| types.contains(&name);
    if allowed("null") && ["null", "None", "nil", "none"].contains(&trimmed) {
        return Value::Null;
    }
    for name in &types {
        let value = match *name {
            "string" => Some(Value::from(text)),
            "boolean" => match trimmed {
                "true" | "True" => Some(Value::Bool(true)),
                "false" | "False" => Some(Value::Bool(false)),
                _ => None,
            },
            "integer" => trimmed.parse::<i64>().ok().map(Value::from).or_else(|| whole(trimmed)),
            "number" => number(trimmed),
            "object" | "array" => serde_json::from_str::<Value>(trimmed)
                .ok()
                .filter(|value| if *name == "object" { value.is_object() } else { value.is_array() }),
            _ => None,
        };
        if let Some(value) = value {
            return value;
        }
    }
    if allowed("string") {
        return text.into();
    }
    serde_json::from_str(trimmed).unwrap_or_else(|_| text.into())
}

/// `3.0` where a whole number is wanted.
fn whole(text: &str) -> Option<Value> {
    let x: f64 = text.parse().ok()?;
    (x.fract() == 0.0 && x.abs() < 9e15).then_some(Value::from(x as i64))
}

fn number(text: &str) -> Option<Value> {
    match text.parse::<i64>() {
        Ok(n) => Some(n.into()),
        Err(_) => Number::from_f64(text.parse().ok()?).map(Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::typed;
    use serde_json::json;

    #[test]
    fn a_text_has_the_type_that_the_schema_says() {
        let cases = [
            ("12", json!({ "type": "string" }), json!("12")),
            ("12", json!({ "type": "integer" }), json!(12)),
            ("12.0", json!({ "type": "integer" }), json!(12)),
            ("12", json!({ "type": "number" }), json!(12)),
            ("1e3", json!({ "type": "number" }), json!(1000.0)),
            ("True", json!({ "type": "boolean" }), json!(true)),
            ("maybe", json!({ "type": "boolean" }), json!("maybe")),
            ("None", json!({ "type": ["integer", "null"] }), json!(null)),
            ("None", json!({ "type": "string" }), json!("None")),
            ("[1, 2]", json!({ "type": "array" }), json!([1, 2])),
            ("{\"a\": 1}", json!({ "anyOf": [{ "type": "object" }, { "type": "null" }] }), json!({ "a": 1 })),
            ("[1", json!({ "type": "array" }), json!("[1")),
            ("5", json!({ "type": ["string", "integer"] }), json!("5")),
            ("5", json!({ "type": ["integer", "string"] }), json!(5)),
            (" a ", json!({ "type": "string" }), json!(" a ")),
            ("5", json!({}), json!(5)),
        ];
        for (text, schema, wanted) in cases {
            assert_eq!(typed(text, Some(&schema)), wanted, "{text} as {schema}");
        }
        assert_eq!(typed("plain words", None), json!("plain words"));
        assert_eq!(typed("{\"a\": [1]}", None), json!({ "a": [1] }));
    }
}
