//! `teamtalk bench` as a person runs it, each time on a fresh system of four processes.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A place for the systems under test that goes with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("teamtalk-bench-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a writable place");
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    // Messages on a disk that is named, all else where temporary files lie.
    let own = if arguments[0] == "messages" { format!("--self={}", place.0.display()) } else { "--self".to_owned() };
    let output = Command::new(env!("CARGO_BIN_EXE_teamtalk"))
        .arg("bench")
        .args(arguments)
        .arg(own)
        .env("TMPDIR", &place.0)
        .arg("--json")
        .envs(environment.iter().copied())
        .output()
        .expect("the program runs");
    let left: Vec<_> = std::fs::read_dir(&place.0).expect("the place").collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
    output
}

fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(report: &Value, path: &[&str]) -> u64 {
    let value = path.iter().fold(report, |value, name| &value[name]);
    value.as_f64().unwrap_or_else(|| panic!("{path:?} is no number: {report:#}")) as u64
}

fn assert_balanced(report: &Value, receivers: u64) {
    let of = |name| number(report, &["conservation", name]);
    let (sent, acked) = (of("sent"), of("acked"));
    assert!(acked > 0, "{report:#}");
    assert_eq!(sent, acked + of("refused") + of("unknown"), "{report:#}");
    assert_eq!(of("copies_delivered") + of("copies_only_in_history"), receivers * of("stored"), "{report:#}");
    assert_eq!(report["violations"], serde_json::json!({}), "{report:#}");
}

#[test]
fn a_load_of_messages_tells_what_it_measured_and_balances_its_books() {
    let place = Place::new("messages");
    let report =
        report(&bench(&place, &["messages", "--pairs", "3", "--depth", "4", "--seconds", "1", "--rate", "300"], &[]));
    assert_balanced(&report, 1);
    for figure in [
        &["acks_per_second"][..],
        &["latency_to_ack", "p99_ms"],
        &["latency_to_delivery", "p50_ms"],
        &["store", "messages_in_a_commit"],
        &["fdatasync", "count"],
        &["bare_writer", "messages_per_second"],
    ] {
        assert!(number(&report, figure) > 0 || figure[0].starts_with("latency"), "{figure:?} in {report:#}");
    }
    assert_eq!(report["limited_by"], Value::Null, "no limit was near");
}

#[test]
fn groups_and_fixed_rates_balance_too() {
    let place = Place::new("groups");
    let arguments = [
        "messages",
        "--pairs",
        "2",
        "--depth",
        "50",
        "--seconds",
        "1",
        "--rate",
        "40",
        "--group-size",
        "4",
        "--no-disk",
    ];
    let report = report(&bench(&place, &arguments, &[]));
    assert_balanced(&report, 3);
    let sent = number(&report, &["conservation", "sent"]);
    assert!(sent <= 81, "{sent} messages in two seconds at 40 a second");
}

#[test]
fn the_rate_limit_is_named_if_it_is_what_senders_wait_for() {
    let place = Place::new("limit");
    let limits = [("TT_MSG_LIMITS_MESSAGES_PER_SECOND", "50"), ("TT_MSG_LIMITS_MESSAGES_BURST", "10")];
    let arguments = ["messages", "--pairs", "2", "--depth", "16", "--seconds", "2", "--no-disk"];
    let report = report(&bench(&place, &arguments, &limits));
    assert_balanced(&report, 1);
    let named = report["limited_by"].as_str().expect("a limit");
    assert!(named.contains("limits.messages_per_second = 50 (burst 10)") && named.contains("2 of 2"), "{named}");
    assert!(number(&report, &["store", "rate_pauses"]) > 0);
}

#[test]
fn logins_are_counted_and_a_user_who_signs_in_too_often_is_named() {
    let place = Place::new("logins");
    let arguments = ["logins", "--clients", "4", "--users", "4", "--seconds", "1"];
    let few = report(&bench(&place, &arguments, &[("TT_MSG_LIMITS_USER_SIGN_INS_PER_MINUTE", "2")]));
    assert!(number(&few, &["refused"]) > 0, "{few:#}");
    assert!(few["limited_by"].to_string().contains("limits.user_sign_ins_per_minute"), "{few:#}");
    let free = report(&bench(&place, &arguments, &[("TT_MSG_LIMITS_USER_SIGN_INS_PER_MINUTE", "100000")]));
    assert_eq!(number(&free, &["refused"]), 0, "{free:#}");
    assert!(number(&free, &["latency", "count"]) > 0, "{free:#}");
}

#[test]
fn idle_connections_are_kept_and_weighed() {
    let place = Place::new("connections");
    let report = report(&bench(&place, &["connections", "100", "--seconds", "1"], &[]));
    assert_eq!((number(&report, &["connections"]), number(&report, &["lost"])), (100, 0));
    assert!(report["bytes_for_each"]["msg"].is_number(), "{report:#}");
}

#[test]
fn watchers_learn_of_comings_and_goings_in_one_write_a_second_at_most() {
    let place = Place::new("presence");
    let report = report(&bench(&place, &["presence", "--watchers", "5", "--rate", "10", "--seconds", "2"], &[]));
    assert!(number(&report, &["latency_to_notice", "count"]) > 0, "{report:#}");
    let arrivals = report["arrivals_at_each_watcher_per_second"].as_f64().expect("a number");
    assert!(arrivals <= 1.3, "{report:#}");
}

#[test]
fn without_a_system_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_teamtalk"))
        .args(["bench", "messages", "--data", "/nowhere/at/all"])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--self") && said.contains("--accounts"), "{said}");
}
