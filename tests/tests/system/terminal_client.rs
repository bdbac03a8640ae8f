//! The terminal client against the real servers, by its exit codes and its output.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tt_proto::im::buddy;
use tt_tests::{Class, Client, Dev, Exit, Home, PATIENCE, Server, binaries, command, free_port_base};

/// `tt` as one of the demonstration accounts, found through the login server.
fn tt(home: &Home, dev: &Dev, name: &str, arguments: &[&str]) -> Server {
    let file = home.data().join(format!("accounts/{name}.password"));
    start(home, &format!("http://{}", dev.address("login_http")), name, &file, arguments)
}

fn start(home: &Home, server: &str, name: &str, password: &PathBuf, arguments: &[&str]) -> Server {
    let mut command = Command::new(&binaries().tt);
    command
        .args(["--server", server, "--user", name, "--password-file"])
        .arg(password)
        .args(arguments)
        .stdin(Stdio::null());
    Server::start_command(&mut command, &home.path(&format!("tt-{name}.log")))
}

fn done(server: Server) -> String {
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

/// Waits until `witness`, at a desktop, is told that somebody has come.
fn wait_online(witness: &mut Client, user: u32) {
    loop {
        let notice: buddy::ImUserStatNotify = witness.notice(command::STATUS_NOTIFY);
        if (notice.user_stat.user_id, notice.user_stat.status) == (user, 1) {
            return;
        }
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON on each line")).collect()
}

#[test]
fn what_one_sends_the_other_hears_and_both_find_in_history() {
    let home = Home::new();
    let dev = home.start();
    // Presence tells when the listening client has signed in.
    let mut witness = dev.sign_in("alice", Class::Pc);
    let listening = tt(&home, &dev, "bob", &["listen", "--count", "2", "--timeout", "20", "--json"]);
    let bob = dev.account("bob").id;
    wait_online(&mut witness, bob);

    assert_eq!(done(tt(&home, &dev, "alice", &["send", "bob", "hello"])), "1\n");
    let sent = done(tt(&home, &dev, "alice", &["send", &format!("#{bob}"), "你好 🙂", "--json"]));
    assert_eq!(lines(&sent)[0]["msg_id"], 2);

    let heard = lines(&done(listening));
    let texts: Vec<_> = heard.iter().map(|line| (&line["msg_id"], &line["text"])).collect();
    assert_eq!(texts, [(&json!(1), &json!("hello")), (&json!(2), &json!("你好 🙂"))]);
    assert!(heard.iter().all(|line| line["from"]["name"] == "alice"));

    for (name, other) in [("alice", "bob"), ("bob", "alice")] {
        let history = lines(&done(tt(&home, &dev, name, &["history", other, "--json"])));
        let ids: Vec<_> = history.iter().map(|line| &line["msg_id"]).collect();
        assert_eq!(ids, [&json!(1), &json!(2)], "oldest first for a reader");
    }
    let last = lines(&done(tt(&home, &dev, "bob", &["history", "alice", "--limit", "1", "--json"])));
    assert_eq!((last.len(), &last[0]["text"]), (1, &json!("你好 🙂")));
    let plain = done(tt(&home, &dev, "bob", &["history", "alice"]));
    assert!(plain.lines().count() == 2 && plain.contains("hello"), "{plain}");
    witness.drain(); // a script's sign-in, of the mobile class, did not kick the desktop
}

#[test]
fn users_sessions_and_status_name_people() {
    let home = Home::new();
    let dev = home.start();
    let users = lines(&done(tt(&home, &dev, "alice", &["users", "--json"])));
    let mut names: Vec<_> = users.iter().filter_map(|user| user["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alice", "bob"]);

    let presence = |name: &str| {
        let status = lines(&done(tt(&home, &dev, "alice", &["status", name, "--json"])));
        status[0]["presence"].as_str().map(str::to_owned)
    };
    assert_eq!(presence("bob").as_deref(), Some("offline"));
    let _phone = dev.sign_in("bob", Class::Mobile);
    assert_eq!(presence("bob").as_deref(), Some("mobile"));
    let shown = done(tt(&home, &dev, "alice", &["users"]));
    assert!(shown.lines().any(|line| line.contains(" bob") && line.ends_with(" mobile")), "{shown}");
    let mut bob = dev.sign_in("bob", Class::Pc);
    assert_eq!(presence("bob").as_deref(), Some("online"));

    assert_eq!(done(tt(&home, &dev, "alice", &["sessions", "--json"])), "");
    bob.say(dev.account("alice").id, "unread");
    let sessions = lines(&done(tt(&home, &dev, "alice", &["sessions", "--json"])));
    assert_eq!(sessions.len(), 1);
    assert_eq!((&sessions[0]["peer"]["name"], &sessions[0]["unread"]), (&json!("bob"), &json!(1)));
    assert_eq!((&sessions[0]["latest_msg_id"], &sessions[0]["text"]), (&json!(1), &json!("unread")));
}

/// The documented exit code, and a last line on standard error that says why.
fn assert_fails(exit: &Exit, code: i32) {
    assert_eq!(exit.code, Some(code), "{exit:?}");
    assert!(exit.stderr.lines().last().is_some_and(|line| line.starts_with("tt: ")), "{exit:?}");
    assert!(!exit.stderr.contains("panicked"), "{exit:?}");
}

#[test]
fn each_way_to_fail_has_its_own_exit_code() {
    let home = Home::new();
    let dev = home.start();
    let alice = home.data().join("accounts/alice.password");
    let url = format!("http://{}", dev.address("login_http"));

    let wrong = home.path("wrong");
    std::fs::write(&wrong, "not her password\n").expect("a temporary file");
    assert_fails(&start(&home, &url, "alice", &wrong, &["users"]).wait(), 3);
    assert_fails(&tt(&home, &dev, "alice", &["send", "nobody", "hello"]).wait(), 2);
    assert_fails(&tt(&home, &dev, "alice", &["listen", "--count", "1", "--timeout", "0.2"]).wait(), 5);

    // Nobody listens on a port that was given back a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let nobody = format!("http://{}", closed.expect("a free port"));
    assert_fails(&start(&home, &nobody, "alice", &alice, &["users"]).wait(), 4);

    // Somebody listens, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mute_url = format!("http://{}", mute.local_addr().expect("bound"));
    let exit = start(&home, &mute_url, "alice", &alice, &["users"]).wait();
    assert!(matches!(exit.code, Some(4 | 5)), "{exit:?}");
}

#[test]
fn a_listener_that_is_kicked_says_so() {
    let home = Home::new();
    let dev = home.start();
    let mut witness = dev.sign_in("alice", Class::Pc);
    let listening = tt(&home, &dev, "bob", &["listen"]);
    let bob = dev.account("bob").id;
    wait_online(&mut witness, bob);
    let mut second = dev.sign_in("bob", Class::Pc);
    assert_fails(&listening.wait(), 7);
    second.drain();
}

#[test]
fn a_listener_comes_back_after_a_crash_and_prints_what_it_missed() {
    let home = Home::new();
    // The same ports after the crash, as in a real restart.
    let base = free_port_base().to_string();
    let dev = home.start_with(&["--port-base", &base]);
    let mut witness = dev.sign_in("alice", Class::Pc);
    let mut listening = tt(&home, &dev, "bob", &["listen", "--count", "2", "--json"]);
    let bob = dev.account("bob").id;
    wait_online(&mut witness, bob);
    witness.say(bob, "before the crash");
    listening.wait_line("{");
    dev.server.kill_9();
    witness.wait_closed(PATIENCE);

    let dev = home.start_with(&["--port-base", &base]);
    let mut alice = dev.sign_in("alice", Class::Pc);
    assert_eq!(alice.say(bob, "after it"), 2);
    let rest = done(listening);
    assert!(rest.contains("after it"), "{rest}");
}

#[test]
fn a_recording_goes_from_file_to_file_and_settings_stay() {
    let home = Home::new();
    let dev = home.start();
    let (from, to) = (home.path("from.spx"), home.path("to.spx"));
    let recording: Vec<u8> = (0..50_000_u32).map(|at| (at * 31 % 256) as u8).collect();
    std::fs::write(&from, &recording).expect("a temporary file");
    let (from, to_file) = (from.to_str().expect("UTF-8"), to.to_str().expect("UTF-8"));
    assert_eq!(done(tt(&home, &dev, "alice", &["send-voice", "bob", from, "--seconds", "7"])), "1\n");
    assert!(done(tt(&home, &dev, "bob", &["sessions"])).trim_end().ends_with("alice (1 unread): [语音]"));
    let history = done(tt(&home, &dev, "bob", &["history", "alice"]));
    assert!(history.trim_end().ends_with("alice -> bob: (voice message, 7 s)"), "{history}");
    assert_eq!(done(tt(&home, &dev, "bob", &["save-voice", "alice", "1", to_file])), "50000 bytes, 7 s\n");
    assert!(std::fs::read(&to).expect("saved") == recording);

    for (setting, before, set, after) in [
        ("signature", "\n", "in a meeting", "in a meeting\n"),
        ("avatar", "\n", "g0/000/a.png", "g0/000/a.png\n"),
        ("quiet-nights", "off\n", "on", "on\n"),
    ] {
        assert_eq!(done(tt(&home, &dev, "alice", &[setting])), before);
        assert_eq!(done(tt(&home, &dev, "alice", &[setting, set])), "");
        assert_eq!(done(tt(&home, &dev, "alice", &[setting])), after);
    }
    let exit = tt(&home, &dev, "alice", &["signature", &"x".repeat(129)]).wait();
    assert_eq!(exit.code, Some(6), "{exit:?}");
}
