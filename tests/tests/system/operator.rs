//! The operator's commands, beside a running system and without one.

use std::os::unix::fs::chown;

use tt_tests::{Class, Exit, Home, binaries, report, run_with_input};

fn user(home: &Home, arguments: &[&str], input: &str) -> Exit {
    let data = home.data().to_str().expect("UTF-8");
    let mut all = vec!["user"];
    all.extend(arguments);
    all.extend(["--data", data]);
    run_with_input(&binaries().teamtalk, &all, input)
}

fn done(exit: Exit) -> String {
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

#[test]
fn an_added_user_signs_in_at_once_and_a_new_password_replaces_the_old() {
    let home = Home::new();
    let dev = home.start();
    let alice = dev.account("alice").id;
    let said = done(user(&home, &["add", "carol", "--nick", "Carol C."], "first password\n"));
    assert!(said.contains("carol"), "{said}");
    let mut client = dev.connect();
    let answer = client.login("carol", "first password", Class::Pc);
    assert_eq!(answer.result_code, 0, "{answer:?}");
    let card = answer.user_info.expect("a card");
    assert_eq!((card.user_real_name.as_str(), card.user_nick_name.as_str()), ("carol", "Carol C."));
    client.user_id = card.user_id;
    assert_eq!(client.say(alice, "I am new here"), 1);

    done(user(&home, &["passwd", "carol"], "second password\n"));
    client.drain(); // a connection lives on; the change counts from the next sign-in
    assert_eq!(dev.connect().login("carol", "first password", Class::Pc).result_code, 6);
    assert_eq!(dev.connect().login("carol", "second password", Class::Pc).result_code, 0);
}

#[test]
fn accounts_made_without_a_running_system_are_there_when_it_starts() {
    let home = Home::new();
    assert_eq!(home.start().server.stop().code, Some(0));
    done(user(&home, &["add", "dave"], "dave's password\n"));
    done(user(&home, &["disable", "bob"], ""));
    let listed = done(user(&home, &["list"], ""));
    let line = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap_or_default();
    for name in ["alice", "bob", "dave"] {
        assert!(!line(name).is_empty(), "{name} in {listed}");
    }
    assert!(line("bob").contains("disabled") && !line("dave").contains("disabled"), "{listed}");

    let dev = home.start();
    assert_eq!(dev.connect().login("dave", "dave's password", Class::Pc).result_code, 0);
    let bob = dev.account("bob").password;
    assert_eq!(dev.connect().login("bob", &bob, Class::Pc).result_code, 6);
}

#[test]
fn a_new_password_of_a_demonstration_account_reaches_its_file() {
    let home = Home::new();
    let dev = home.start();
    done(user(&home, &["passwd", "alice"], "my own choice\n"));
    dev.server.stop();
    let dev = home.start();
    assert_eq!(dev.account("alice").password, "my own choice");
    dev.sign_in("alice", Class::Pc);
}

#[test]
fn commands_that_make_no_sense_are_refused_with_one_line() {
    let home = Home::new();
    let before = user(&home, &["list"], "");
    assert_eq!(before.code, Some(5), "there is no data directory yet: {before:?}");
    assert!(!home.data().exists(), "and no operator's command makes one");
    home.start().server.stop();
    for (arguments, input) in [
        (&["add", "alice"][..], "taken\n"),
        (&["add", ""], "no name\n"),
        (&["add", "a name that is longer than any field allows it to be"], "x\n"),
        (&["add", "erin"], "\n"),
        (&["add", "erin"], ""),
        (&["passwd", "nobody"], "x\n"),
        (&["disable", "nobody"], ""),
        (&["enable", "nobody"], ""),
    ] {
        let exit = user(&home, arguments, input);
        assert_eq!(exit.code, Some(7), "{arguments:?}: {exit:?}");
        assert_eq!(exit.stderr.lines().count(), 1, "{arguments:?}: {exit:?}");
        assert!(exit.stderr.starts_with("teamtalk: "), "{arguments:?}: {exit:?}");
    }
    assert!(!done(user(&home, &["list"], "")).contains("erin"));
}

#[test]
fn nobody_but_the_owner_of_the_directory_works_in_it() {
    const NAME: &str = "nobody_but_the_owner_of_the_directory_works_in_it";
    let home = Home::new();
    home.start().server.stop();
    if let Err(error) = chown(home.data(), Some(65_534), None) {
        return report::skipped(NAME, &error.to_string());
    }
    let exit = user(&home, &["list"], "");
    assert_eq!(exit.code, Some(5), "{exit:?}");
    assert!(exit.stderr.contains("65534"), "the line names the owner: {exit:?}");
}
