//! What an operator writes wrong, and what he is told: one line, and an exit code of its own.

use std::{fs, net::TcpListener};

use tt_tests::{Exit, Home, binaries, free_port_base, run};

const ROLES: [&str; 4] = ["login", "msg", "route", "db-proxy"];

/// The command failed with this code and one line that names all of `words`.
fn assert_refused(exit: &Exit, code: i32, words: &[&str]) {
    assert_eq!(exit.code, Some(code), "{exit:?}");
    let lines: Vec<&str> = exit.stderr.lines().filter(|l| l.starts_with("teamtalk: ")).collect();
    assert_eq!(lines.len(), 1, "one line: {exit:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} in {:?}", lines[0]);
    }
}

fn default_configuration(role: &str) -> String {
    let exit = run(&binaries().teamtalk, &["config", role]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

/// Starts a role with this text as its configuration; it must end by itself.
fn start_role(role: &str, text: &str) -> Exit {
    let home = Home::new();
    let file = home.path("role.toml");
    fs::write(&file, text).expect("a temporary file");
    run(&binaries().teamtalk, &[role, "--config", file.to_str().expect("UTF-8")])
}

#[test]
fn an_unknown_key_is_refused_by_name_with_the_nearest_known_one() {
    for role in ROLES {
        let defaults = default_configuration(role);
        // The first key of the default configuration, misspelt.
        let key = defaults
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_once(" = "))
            .map(|(key, _)| key.to_owned())
            .find(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            .expect("a key");
        let misspelt = format!("{key}x");
        let exit = start_role(role, &format!("{misspelt} = 1\n"));
        assert_refused(&exit, 6, &[&misspelt, &key]);
    }
}

#[test]
fn a_corrupt_configuration_is_refused_with_its_line() {
    for role in ROLES {
        assert_refused(&start_role(role, "# fine\nthis is not TOML\n"), 6, &["role.toml", "2"]);
        assert_refused(&start_role(role, "\u{0}\u{1}\u{2}"), 6, &["role.toml"]);
    }
    let missing = run(&binaries().teamtalk, &["msg", "--config", "/nonexistent/msg.toml"]);
    assert_refused(&missing, 6, &["/nonexistent/msg.toml"]);
}

#[test]
fn a_taken_port_is_one_line_with_the_port_the_role_and_the_option() {
    let home = Home::new();
    let base = free_port_base();
    let port = base + 4; // route's offset
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let server = home.launch(&["--port-base", &base.to_string()]);
    assert_refused(&server.wait(), 3, &[&port.to_string(), "route", "--port-base"]);
    assert!(!home.ready_file().exists());
}

#[test]
fn addresses_that_no_client_can_use_are_refused() {
    let home = Home::new();
    for arguments in [
        &["--advertise", "0.0.0.0"][..],
        &["--advertise", "::"],
        &["--host", "0.0.0.0"],
        &["--host", "::"],
        &["--host", "not-an-address"],
        &["--port-base", "65530"],
    ] {
        let exit = home.launch(arguments).wait();
        assert_eq!(exit.code, Some(2), "{arguments:?}: {exit:?}");
        assert!(exit.stderr.contains(arguments[0]), "{exit:?}");
    }
    assert!(!home.data().exists(), "nothing was created");
}

#[test]
fn help_names_every_exit_code() {
    let exit = run(&binaries().teamtalk, &["--help"]);
    assert_eq!(exit.code, Some(0));
    for code in ["  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  6 ", "  7 ", " 70 "] {
        assert!(exit.stdout.contains(&format!("\n{code}")), "{code:?} in {}", exit.stdout);
    }
}
