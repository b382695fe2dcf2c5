//! Values of configuration keys: read from TOML or from the environment, shown as TOML.

use toml::de::DeValue;

/// A value as somebody wrote it.
pub enum Written<'a> {
    /// In a TOML file.
    Toml(&'a DeValue<'a>),
    /// In an environment variable or on the command line.
    Text(&'a str),
}

impl Written<'_> {
    /// What was found, for an error.
    fn found(&self) -> String {
        match self {
            Self::Toml(value) => match value {
                DeValue::String(text) => format!("the text {:?}", shortened(text)),
                DeValue::Integer(number) => format!("the number {}", shortened(number.as_str())),
                DeValue::Boolean(value) => format!("`{value}`"),
                other => format!("a TOML {}", other.type_str()),
            },
            Self::Text(text) => format!("{:?}", shortened(text)),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A type that a key may have.
pub trait Setting: Sized {
    /// Its name for people.
    const KIND: &'static str;

    /// Reads it; the error says what was expected and found.
    fn read(value: Written<'_>) -> Result<Self, String>;

    /// As it would be written in TOML.
    fn show(&self) -> String;
}

impl Setting for String {
    const KIND: &'static str = "text";

    fn read(value: Written<'_>) -> Result<Self, String> {
        match value {
            Written::Toml(DeValue::String(text)) => Ok(text.to_string()),
            Written::Text(text) => Ok(text.to_owned()),
            other => Err(format!("expected a text in quotes, found {}", other.found())),
        }
    }

    fn show(&self) -> String {
        toml::Value::from(self.as_str()).to_string()
    }
}

impl Setting for u64 {
    const KIND: &'static str = "integer";

    fn read(value: Written<'_>) -> Result<Self, String> {
        let number = match &value {
            Written::Toml(DeValue::Integer(number)) => Self::from_str_radix(number.as_str(), number.radix()).ok(),
            Written::Text(text) => text.trim().parse().ok(),
            Written::Toml(_) => None,
        };
        number.ok_or_else(|| format!("expected an integer of 0 or more, found {}", value.found()))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Vec<String> {
    const KIND: &'static str = "list of texts";

    fn read(value: Written<'_>) -> Result<Self, String> {
        let expected = || "expected a list of texts, such as [\"a:1883\", \"b:1883\"]";
        match value {
            Written::Toml(DeValue::Array(items)) => {
                let text = |item: &toml::Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
                let texts: Option<Self> = items.iter().map(text).collect();
                texts.ok_or_else(|| format!("{}, found something else in it", expected()))
            }
            Written::Text(text) => {
                Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
            }
            other => Err(format!("{}, found {}", expected(), other.found())),
        }
    }

    fn show(&self) -> String {
        toml::Value::from(self.clone()).to_string()
    }
}
