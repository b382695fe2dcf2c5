//! Printing answers: tables for people, JSON for programs.

use crate::cli::Output;
use crate::exit::Failure;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// A column: its heading, and the field of an item.
pub type Column = (&'static str, &'static str);

/// Writes to standard output. A reader that went away (`| head`) is no failure.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a list.
pub fn list(output: Output, items: &[Value], columns: &[Column]) -> Result<(), Failure> {
    match output {
        Output::Json => json(&Value::Array(items.to_vec())),
        Output::Table if items.is_empty() => write("(none)\n"),
        Output::Table => write(&list_table(items, columns)),
    }
}

/// Prints one item, a line for each field.
pub fn item(output: Output, item: &Value) -> Result<(), Failure> {
    match output {
        Output::Json => json(item),
        Output::Table => write(&item_table(item)),
    }
}

/// Prints JSON.
pub fn json(value: &Value) -> Result<(), Failure> {
    write(&format!("{value:#}\n"))
}

/// Prints a sentence, or for programs the document it tells of.
pub fn done(output: Output, sentence: &str, value: &Value) -> Result<(), Failure> {
    match output {
        Output::Json => json(value),
        Output::Table => write(&format!("{sentence}\n")),
    }
}

fn list_table(items: &[Value], columns: &[Column]) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in items {
        table.add_row(columns.iter().map(|(_, field)| cell(&item[*field])));
    }
    finished(&table)
}

fn item_table(item: &Value) -> String {
    let mut table = plain_table();
    for (field, value) in item.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                for (n, inner) in items.iter().enumerate() {
                    let name = if n == 0 { field.as_str() } else { "" };
                    table.add_row([name.to_owned(), fields(inner)]);
                }
            }
            value => {
                table.add_row([field.clone(), cell(value)]);
            }
        }
    }
    finished(&table)
}

/// No lines and no wrapping: what is printed can be cut and searched.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn finished(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Foreign text must not steer the terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(_) => fields(value),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn fields(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_a_table_of_its_columns() {
        let items =
            [json!({"id": "main/c1", "power_w": 7, "session": null}), json!({"id": "x\u{1b}[2J", "power_w": 8})];
        let text = list_table(&items, &[("CHARGER", "id"), ("POWER W", "power_w"), ("SESSION", "session")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].trim_start().starts_with("CHARGER"), "{text}");
        assert!(lines[1].contains("main/c1") && lines[1].ends_with('-'), "{text}");
        assert!(!text.contains('\u{1b}'), "control characters reach the terminal");
    }

    #[test]
    fn an_item_is_a_line_a_field_and_nested_items_a_line_each() {
        let text =
            item_table(&json!({"id": "s1", "nodes": [{"id": "grid", "limit_w": 9}, {"id": "f1", "limit_w": 8}]}));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("id=grid limit_w=9"), "{text}");
    }
}
