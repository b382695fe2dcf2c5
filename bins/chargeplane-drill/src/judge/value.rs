//! Reading stored MessagePack without the node's types: fields by name, variants by name.

use rmpv::Value;

/// A field of a map.
pub fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let pairs = value.as_map()?;
    pairs.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

/// An integer field.
pub fn int(value: &Value, name: &str) -> Option<i64> {
    field(value, name)?.as_i64()
}

/// A text field.
pub fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    field(value, name)?.as_str()
}

/// The variant of an externally tagged enum and what it holds; `Nil` for a variant that holds nothing.
pub fn variant(value: &Value) -> Option<(&str, &Value)> {
    match value {
        Value::String(name) => Some((name.as_str()?, &Value::Nil)),
        Value::Map(pairs) => match pairs.as_slice() {
            [(name, inner)] => Some((name.as_str()?, inner)),
            _ => None,
        },
        _ => None,
    }
}

/// A variant of that name.
pub fn as_variant<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    variant(value).filter(|(found, _)| *found == name).map(|(_, inner)| inner)
}
