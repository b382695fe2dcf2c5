//! Reading the configuration and remembering where each value came from.

use super::keys::{Config, Key};
use super::value::Written;
use crate::exit::Failure;
use chargeplane_domain::catalogue_check::distance;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use toml::de::DeTable;

/// What environment variables of the configuration begin with.
pub const ENV_PREFIX: &str = "CHARGEPLANE__";

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The program.
    Default,
    /// A line of a file.
    File { file: String, line: usize },
    /// An environment variable.
    Environment(String),
    /// The command line.
    CommandLine(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => f.write_str(name),
            Self::CommandLine(option) => f.write_str(option),
        }
    }
}

/// A configuration and where its values come from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    origins: BTreeMap<(&'static str, &'static str), Origin>,
}

impl Loaded {
    /// Every key with its value and origin, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Key, String, Origin)> + '_ {
        Config::keys().into_iter().map(|key| {
            let value = self.config.show(key.section, key.name).unwrap_or_default();
            let origin = self.origins.get(&(key.section, key.name)).cloned().unwrap_or(Origin::Default);
            (key, value, origin)
        })
    }

    /// The configuration as a TOML file, each value with where it comes from.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, value, origin) in self.entries() {
            if key.section != section {
                section = key.section;
                text.push_str(&format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" }));
            }
            text.push_str(&format!("{} = {value} # {origin}\n", key.name));
        }
        text
    }

    /// Sets a key from the command line.
    pub fn set_by_option(
        &mut self,
        option: &'static str,
        section: &str,
        name: &str,
        value: &str,
    ) -> Result<(), Failure> {
        let key = known(section, name).ok_or_else(|| Failure::internal(format!("no key {section}.{name}")))?;
        let set = self.config.set(section, name, Written::Text(value));
        set.map_err(|e| Failure::usage(format!("{option}: {e}")))?;
        self.origins.insert((key.section, key.name), Origin::CommandLine(option));
        Ok(())
    }
}

fn known(section: &str, name: &str) -> Option<Key> {
    Config::keys().into_iter().find(|key| key.section == section && key.name == name)
}

/// Reads defaults, file and environment, and checks the result.
///
/// # Errors
///
/// Everything that is wrong, a line each, with file and line or the variable's name.
pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Loaded, Failure> {
    let mut loaded = Loaded { config: Config::default(), origins: BTreeMap::new() };
    let mut problems = Vec::new();
    if let Some(file) = file {
        let text = read(file)?;
        add_file(&mut loaded, &file.display().to_string(), &text, &mut problems);
    }
    let mut variables: Vec<(String, String)> = environment.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (name, value) in &variables {
        add_variable(&mut loaded, name, value, &mut problems);
    }
    if problems.is_empty() {
        problems = check(&loaded);
    }
    if problems.is_empty() { Ok(loaded) } else { Err(Failure::usage(problems.join("\n"))) }
}

/// What is wrong beyond types, each with where the value comes from.
pub fn check(loaded: &Loaded) -> Vec<String> {
    let found = loaded.config.check().err().unwrap_or_default();
    let with_origin = |line: String| {
        let (section, name) = line.split(':').next().and_then(|key| key.split_once('.')).unwrap_or_default();
        let origin = known(section, name).and_then(|key| loaded.origins.get(&(key.section, key.name)));
        match origin {
            Some(origin) => format!("{origin}: {line}"),
            None => line,
        }
    };
    found.into_iter().map(with_origin).collect()
}

fn read(file: &Path) -> Result<String, Failure> {
    let fail = |e: &dyn fmt::Display| Failure::usage(format!("cannot read the configuration {}: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| fail(&e))?.len();
    if size > MAX_FILE_BYTES {
        return Err(fail(&format!("{size} bytes are more than {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(file).map_err(|e| fail(&e))
}

fn add_file(loaded: &mut Loaded, file: &str, text: &str, problems: &mut Vec<String>) {
    let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(span.start));
            return problems.push(format!("{file}:{line}: not TOML: {}", error.message()));
        }
    };
    for (section, table) in document.get_ref() {
        let line = line_of(section.span().start);
        let name = section.get_ref();
        if !Config::keys().iter().any(|key| key.section == name.as_ref()) {
            problems.push(format!("{file}:{line}: unknown section [{name}]{}", nearest_section(name)));
            continue;
        }
        let Some(table) = table.get_ref().as_table() else {
            problems.push(format!("{file}:{line}: {name} is a section: write [{name}] and its keys below"));
            continue;
        };
        for (key, value) in table {
            let line = line_of(key.span().start);
            let Some(known) = known(name, key.get_ref()) else {
                let advice = nearest_key(name, key.get_ref());
                problems.push(format!("{file}:{line}: unknown key `{}` in [{name}]{advice}", key.get_ref()));
                continue;
            };
            match loaded.config.set(name, key.get_ref(), Written::Toml(value.get_ref())) {
                Ok(()) => {
                    let origin = Origin::File { file: file.to_owned(), line };
                    loaded.origins.insert((known.section, known.name), origin);
                }
                Err(error) => problems.push(format!("{file}:{line}: {name}.{}: {error}", key.get_ref())),
            }
        }
    }
}

fn add_variable(loaded: &mut Loaded, name: &str, value: &str, problems: &mut Vec<String>) {
    let path = name.trim_start_matches(ENV_PREFIX).to_ascii_lowercase();
    let (section, key) = path.split_once("__").unwrap_or((&path, ""));
    match known(section, key) {
        Some(known) => match loaded.config.set(section, key, Written::Text(value)) {
            Ok(()) => {
                loaded.origins.insert((known.section, known.name), Origin::Environment(name.to_owned()));
            }
            Err(error) => problems.push(format!("{name}: {error}")),
        },
        None => {
            let all = Config::keys();
            let written = all.iter().map(|k| format!("{ENV_PREFIX}{}__{}", k.section, k.name).to_ascii_uppercase());
            problems.push(format!("{name}: no key has this name{}", nearest(name, written)));
        }
    }
}

fn nearest_section(found: &str) -> String {
    nearest(found, Config::keys().into_iter().map(|key| key.section.to_owned()))
}

/// The nearest key of the section, else of another one.
fn nearest_key(section: &str, found: &str) -> String {
    let all = Config::keys();
    let here = all.iter().filter(|key| key.section == section).map(|key| key.name.to_owned());
    let advice = nearest(found, here);
    match all.iter().find(|key| key.name == found) {
        Some(key) if advice.is_empty() => format!("; `{found}` is a key of [{}]", key.section),
        _ => advice,
    }
}

fn nearest(found: &str, known: impl Iterator<Item = String>) -> String {
    let best = known.map(|name| (distance(found, &name), name)).min();
    match best {
        Some((edits, name)) if edits * 3 <= found.len().max(3) => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
