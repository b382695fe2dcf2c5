//! JSON by hand: its numbers are written digit by digit, where a `f64` would round them.

/// An object that is being written.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Self("{".to_owned())
    }

    /// A field whose value is a text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.raw(name, &text_of(value));
    }

    /// A field whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&text_of(name));
        self.0.push(':');
        self.0.push_str(value);
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// An array of what is JSON already.
pub(super) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

/// A text in quotes, with its control characters escaped.
pub(super) fn text_of(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
