//! docs/limits.md says what the code does: every limit and time-out of every role's configuration has
//! its row with the default there is, every constant has the value there is, every metric exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tt_common::config::RoleConfig;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of a page's tables whose rows have five.
fn rows(page: &str) -> Vec<[String; 5]> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    lines.filter_map(|line| cells(line).try_into().ok()).collect()
}

fn unquoted(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The keys that limit something, with their defaults: all of `[limits]`, `max_…` anywhere, and the times
/// after which somebody is given up.
fn limits(template: &str) -> BTreeMap<String, String> {
    let mut table = String::new();
    let mut found = BTreeMap::new();
    for line in template.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('#')) {
            // Stopping and gathering are no limits on anybody.
            let is_time = table == "timeouts." && !["drain_ms", "presence_ms", "kick_grace_ms"].contains(&key);
            if table == "limits." || is_time || key.starts_with("max_") {
                found.insert(format!("{table}{key}"), value.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_configured_limit_has_its_row_with_its_default() {
    let page = fs::read_to_string(workspace().join("docs/limits.md")).expect("the page");
    let mut told: BTreeMap<(String, String), String> = BTreeMap::new();
    for [role, key, default, ..] in
        rows(&page).into_iter().filter(|row| row[1].starts_with('`') && !row[1].contains('/'))
    {
        let again = told.insert((role, unquoted(&key).to_owned()), default);
        assert_eq!(again, None, "two rows for {key}");
    }
    let mut there = BTreeMap::new();
    for (role, template) in [
        (tt_login::Config::ROLE, tt_login::Config::TEMPLATE),
        (tt_msg::Config::ROLE, tt_msg::Config::TEMPLATE),
        (tt_route::Config::ROLE, tt_route::Config::TEMPLATE),
        (tt_db_proxy::Config::ROLE, tt_db_proxy::Config::TEMPLATE),
    ] {
        there.extend(limits(template).into_iter().map(|(key, value)| ((role.to_owned(), key), value)));
    }
    assert_eq!(told, there);
}

#[test]
fn every_fixed_limit_has_the_value_that_the_page_says() {
    let page = fs::read_to_string(workspace().join("docs/limits.md")).expect("the page");
    let mut seen = 0;
    for [_, place, value, ..] in rows(&page).into_iter().filter(|row| row[1].contains('/')) {
        let (file, name) = place.split_once("` `").expect("a file and a name");
        let (file, name, value) = (unquoted(file), unquoted(name), unquoted(&value));
        let source = fs::read_to_string(workspace().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let constant = source
            .lines()
            .any(|line| line.contains(&format!("const {name}:")) && line.trim_end().ends_with(&format!("= {value};")));
        let default = source.contains(&format!("{name}: {value},"));
        assert!(constant || default, "{name} in {file} is not {value}");
        seen += 1;
    }
    assert!(seen > 10, "{seen} rows");
}

#[test]
fn every_metric_on_the_page_is_counted_somewhere() {
    let page = fs::read_to_string(workspace().join("docs/limits.md")).expect("the page");
    let mut sources = String::new();
    for role in ["common", "login", "msg", "route", "db-proxy"] {
        read_all(&workspace().join("servers").join(role).join("src"), &mut sources);
    }
    let names: BTreeSet<&str> = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter_map(|word| word.strip_prefix("teamtalk_"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let registered = name.trim_end_matches("_total");
        assert!(sources.contains(&format!("\"{registered}\"")), "no server counts {name}");
    }
}

fn read_all(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}
