//! Configuration files: TOML, one table of keys per role, environment variables on top.
//!
//! A mistake is answered with where it is and what was probably meant. A role's keys are the ones in its
//! commented [`TEMPLATE`](RoleConfig::TEMPLATE), which is also what `teamtalk config ROLE` prints, so the
//! documentation cannot lag behind the code.

mod nearest;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use self::nearest::nearest;

/// The configuration of a role.
pub trait RoleConfig: DeserializeOwned + Default {
    /// The role's name, as on the command line.
    const ROLE: &'static str;

    /// The default configuration as a commented TOML file. A key that has no default stands there commented
    /// out as `#key = value`, without a space.
    const TEMPLATE: &'static str;

    /// What types cannot say, such as that an address must not be 0.0.0.0.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A configuration that cannot be used. One line, for a person.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// Which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no TOML, or a value has the wrong type.
    #[error("{place}: {what}")]
    Bad {
        /// Where.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// A key that the role does not have.
    #[error("{place}: unknown key `{key}`{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// Where.
        place: Place,
        /// The key, with its tables.
        key: String,
        /// The known key that it resembles most.
        nearest: Option<String>,
    },
    /// The values do not fit together.
    #[error("{file}: {what}")]
    Refused {
        /// Which file.
        file: String,
        /// What does not fit.
        what: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line (from 1).
    Line(String, usize),
    /// In an environment variable.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Reads a role's configuration: `file`, or the defaults without one, with `TT_<ROLE>_<KEY>` from the
/// environment on top. Keys in tables are joined by `_`; lists are written in TOML.
pub fn load<C: RoleConfig>(file: Option<&Path>) -> Result<C, ConfigError> {
    let (name, text) = match file {
        Some(path) => {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => (name, text),
                Err(source) => return Err(ConfigError::Read { file: name, source }),
            }
        }
        None => (format!("default {} configuration", C::ROLE), String::new()),
    };
    let variables =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    parse(&name, &text, variables)
}

/// [`load`] from a text and given variables. `file` is the name in error messages.
pub fn parse<C: RoleConfig>(
    file: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<C, ConfigError> {
    let known = known_keys(C::TEMPLATE);
    let mut table: Table = text.parse().map_err(|error| bad_toml(file, text, &error))?;
    for key in keys_of(&table) {
        if !known.contains_key(&key) && !is_table(&key, &known) {
            let place = Place::Line(file.to_owned(), line_of(text, &key));
            let nearest = nearest(&key, known.keys());
            return Err(ConfigError::Unknown { place, key, nearest });
        }
    }
    // Typed once from the text, because only that knows the line of a wrong value.
    let mut config: C = toml::from_str(text).map_err(|error| bad_toml(file, text, &error))?;
    for (name, key, text) in overrides::<C>(&known, environment)? {
        let bad = |what: String| ConfigError::Bad { place: Place::Variable(name.clone()), what };
        let value = value_like(&known[&key], &text).map_err(bad)?;
        put(&mut table, &key, value);
        config = table.clone().try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
    }
    config.check().map_err(|what| ConfigError::Refused { file: file.to_owned(), what })?;
    Ok(config)
}

/// The variables that concern this role: their name, their key, their text.
fn overrides<C: RoleConfig>(
    known: &BTreeMap<String, Value>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<(String, String, String)>, ConfigError> {
    let prefix = format!("TT_{}_", C::ROLE).to_uppercase().replace('-', "_");
    let variable = |key: &str| format!("{prefix}{}", key.to_uppercase().replace(['.', '-'], "_"));
    let mut found = Vec::new();
    for (name, text) in environment {
        if !name.starts_with(&prefix) {
            continue;
        }
        let Some(key) = known.keys().find(|key| variable(key) == name) else {
            let names: Vec<String> = known.keys().map(|key| variable(key)).collect();
            let nearest = nearest(&name, names.iter());
            return Err(ConfigError::Unknown { place: Place::Variable(name.clone()), key: name, nearest });
        };
        found.push((name, key.clone(), text));
    }
    Ok(found)
}

/// Every key of the template with its value, tables joined by dots; those without a default included.
fn known_keys(template: &str) -> BTreeMap<String, Value> {
    let uncommented: Vec<&str> = template.lines().map(without_default).collect();
    let table: Table = uncommented.join("\n").parse().expect("a role's template is TOML; its test parses it");
    let mut keys = BTreeMap::new();
    collect(&table, "", &mut keys);
    keys
}

/// `#key = value` is a key without a default; `# text` is a comment.
fn without_default(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest,
        _ => line,
    }
}

fn keys_of(table: &Table) -> Vec<String> {
    let mut keys = BTreeMap::new();
    collect(table, "", &mut keys);
    keys.into_keys().collect()
}

/// Whether `key` is a table of known keys. A file may have it with nothing in it: all keys commented out.
fn is_table(key: &str, known: &BTreeMap<String, Value>) -> bool {
    known.keys().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

fn collect(table: &Table, prefix: &str, keys: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Value::Table(inner) if !inner.is_empty() => collect(inner, &format!("{key}."), keys),
            value => drop(keys.insert(key, value.clone())),
        }
    }
}

/// Reads a variable's text as the kind of value that the key has.
fn value_like(example: &Value, text: &str) -> Result<Value, String> {
    if example.is_str() {
        return Ok(Value::String(text.to_owned()));
    }
    let table: Table = format!("value = {text}").parse().map_err(|_| format!("`{text}` is no TOML value"))?;
    match table.get("value") {
        Some(value) if table.len() == 1 => Ok(value.clone()),
        _ => Err(format!("`{text}` is no TOML value")),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((outer, rest)) => {
            let inner = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn bad_toml(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    // Bytes, because an offset may stand in the middle of a character.
    let line = text.as_bytes()[..offset].split(|byte| *byte == b'\n').count();
    let what = error.message().lines().collect::<Vec<_>>().join(", ");
    ConfigError::Bad { place: Place::Line(file.to_owned(), line), what }
}

/// The line (from 1) that sets `key`, as good as it can be told from the text.
fn line_of(text: &str, key: &str) -> usize {
    let last = key.rsplit('.').next().unwrap_or(key);
    let table = key.strip_suffix(last).unwrap_or("").trim_end_matches('.');
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if let Some(header) = line.strip_prefix('[') {
            header.split(']').next().unwrap_or("").trim().clone_into(&mut current);
            if current == key {
                return index + 1;
            }
        }
        let name = line.split('=').next().unwrap_or("").trim().trim_matches('"');
        if (current == table && name == last) || (current.is_empty() && name == key) {
            return index + 1;
        }
    }
    1
}

#[cfg(test)]
mod tests;
