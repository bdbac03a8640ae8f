//! What a measurement says: one tree of names and numbers, printed as lines for people or as JSON
//! for programs. Both have the same names, so whoever reads one can script the other.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The lines for people: a heading for each table, names without their underscores, aligned.
pub(super) fn text(report: &Map<String, Value>) -> String {
    let mut out = String::new();
    let width = width(report, 0);
    lines(&mut out, report, 0, width);
    out
}

fn lines(out: &mut String, table: &Map<String, Value>, depth: usize, width: usize) {
    for (name, value) in table {
        let name = name.replace('_', " ");
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Null => continue,
            Value::Object(inner) if inner.is_empty() => {
                writeln!(out, "{:indent$}{name:rest$}  none", "", indent = 2 * depth, rest = width - 2 * depth)
            }
            Value::Object(inner) => {
                let _ = writeln!(out, "{:indent$}{name}", "", indent = 2 * depth);
                lines(out, inner, depth + 1, width);
                continue;
            }
            Value::String(text) => {
                writeln!(out, "{:indent$}{name:rest$}  {text}", "", indent = 2 * depth, rest = width - 2 * depth)
            }
            other => writeln!(out, "{:indent$}{name:rest$}  {other}", "", indent = 2 * depth, rest = width - 2 * depth),
        };
    }
}

/// The widest name with its indentation.
fn width(table: &Map<String, Value>, depth: usize) -> usize {
    let widths = table.iter().map(|(name, value)| match value {
        Value::Object(inner) => width(inner, depth + 1),
        _ => name.len() + 2 * depth,
    });
    widths.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_read_the_same_names_as_programs() {
        let report = json!({
            "throughput": { "acks_per_second": 15000.5, "note": null },
            "limited_by": "the disk",
            "violations": {},
        });
        let expected = "throughput\n  acks per second  15000.5\nlimited by         the disk\nviolations         none\n";
        assert_eq!(text(report.as_object().expect("a table")), expected);
    }
}
