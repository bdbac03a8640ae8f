//! What a person sees who made a mistake, and that the right thing is read.

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Example {
    listen: String,
    secret: Option<String>,
    limits: Limits,
    peers: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    messages_per_second: u32,
}

impl Default for Example {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:1".into(),
            secret: None,
            limits: Limits::default(),
            peers: vec!["127.0.0.1:2".into()],
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_per_second: 500 }
    }
}

impl RoleConfig for Example {
    const ROLE: &'static str = "db-proxy";
    const TEMPLATE: &'static str = r#"
# Where it listens.
listen = "127.0.0.1:1"
# No default.
#secret = "text"
peers = ["127.0.0.1:2"]

[limits]
messages_per_second = 500
"#;

    fn check(&self) -> Result<(), String> {
        if self.listen.starts_with("0.0.0.0") { Err("listen must not be 0.0.0.0".into()) } else { Ok(()) }
    }
}

fn read(text: &str) -> Result<Example, String> {
    parse("x.toml", text, []).map_err(|error| error.to_string())
}

fn with_variable(name: &str, value: &str) -> Result<Example, String> {
    let text = "listen = \"127.0.0.1:9\"";
    parse("x.toml", text, [(name.to_owned(), value.to_owned())]).map_err(|error| error.to_string())
}

#[test]
fn the_template_is_the_default() {
    assert_eq!(read(Example::TEMPLATE), Ok(Example::default()));
    assert_eq!(read(""), Ok(Example::default()));
}

#[test]
fn a_key_without_default_may_be_set() {
    assert_eq!(read("secret = 's'").map(|config| config.secret), Ok(Some("s".into())));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let text = "# first\nlistne = 'x'\n";
    assert_eq!(read(text), Err("x.toml:2: unknown key `listne`; did you mean `listen`?".into()));
    let text = "peers = []\n[limits]\nmessages_per_secnd = 1\n";
    let expected = "x.toml:3: unknown key `limits.messages_per_secnd`; did you mean `limits.messages_per_second`?";
    assert_eq!(read(text), Err(expected.into()));
    assert_eq!(read("\n\ncolour = 1"), Err("x.toml:3: unknown key `colour`".into()));
    assert_eq!(read("\n[colours]\nx = 1"), Err("x.toml:3: unknown key `colours.x`".into()));
}

/// Somebody comments all keys of a table out and leaves its header.
#[test]
fn a_table_with_nothing_in_it_is_the_default() {
    assert_eq!(read("[limits]\n# messages_per_second = 7\n"), Ok(Example::default()));
    let error = read("listen = 'x:1'\nlimits = 3").expect_err("no table");
    assert!(error.starts_with("x.toml:2: ") && !error.contains("unknown"), "{error}");
    let error = read("[limit]").expect_err("no such table");
    assert!(error.contains("unknown key `limit`"), "{error}");
}

#[test]
fn a_wrong_type_or_broken_toml_is_named_with_its_line() {
    for (text, line) in
        [("listen = 5", 1), ("\n\nlisten = 'x", 3), ("peers = []\n[limits]\nmessages_per_second = -1", 3)]
    {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(&format!("x.toml:{line}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_variable_overrides_the_file() {
    assert_eq!(
        with_variable("TT_DB_PROXY_LISTEN", "127.0.0.1:7").map(|config| config.listen),
        Ok("127.0.0.1:7".into())
    );
    let config = with_variable("TT_DB_PROXY_LIMITS_MESSAGES_PER_SECOND", "7").expect("a number");
    assert_eq!((config.limits.messages_per_second, config.listen.as_str()), (7, "127.0.0.1:9"));
    let config = with_variable("TT_DB_PROXY_PEERS", "['a', 'b']").expect("a list");
    assert_eq!(config.peers, ["a", "b"]);
    assert_eq!(with_variable("TT_MSG_LISTEN", "other role").map(|config| config.listen), Ok("127.0.0.1:9".into()));
}

#[test]
fn a_bad_variable_is_named() {
    let error = with_variable("TT_DB_PROXY_LISTN", "x").expect_err("unknown");
    assert!(error.contains("TT_DB_PROXY_LISTN") && error.contains("did you mean `TT_DB_PROXY_LISTEN`"), "{error}");
    for value in ["many", "-1", "1\nlisten = 2"] {
        let error = with_variable("TT_DB_PROXY_LIMITS_MESSAGES_PER_SECOND", value).expect_err(value);
        assert!(error.starts_with("environment variable TT_DB_PROXY_LIMITS_MESSAGES_PER_SECOND: "), "{error}");
    }
}

#[test]
fn what_types_cannot_say_is_checked_last() {
    assert_eq!(read("listen = '0.0.0.0:1'"), Err("x.toml: listen must not be 0.0.0.0".into()));
}
