//! Starting, stopping, and data directories that cannot be used.

use std::{
    fs,
    net::{IpAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use rustix::process::Signal;
use tt_proto::{im::message, password::wire_digest};
use tt_tests::{Class, Client, Home, PATIENCE, Server, binaries, command, http_get, report, small_disk};

#[test]
fn the_ready_file_and_the_data_directory_are_private_and_complete() {
    let home = Home::new();
    let dev = home.start();
    let mode = |path: &Path| {
        fs::metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}")).permissions().mode() & 0o777
    };
    assert_eq!(mode(&home.ready_file()), 0o600);
    assert_eq!(mode(home.data()), 0o700);
    for name in ["alice", "bob"] {
        let file = home.data().join(format!("accounts/{name}.password"));
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_to_string(file).expect("readable").trim_end(), dev.account(name).password);
    }
    for (name, address) in dev.listeners() {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name.starts_with("metrics") {
            let metrics = http_get(address, "/metrics");
            assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("# TYPE"), "{metrics}");
        }
    }
    let exit = dev.server.stop();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!home.ready_file().exists(), "a clean stop takes the ready file away");
}

#[test]
fn interrupt_and_terminate_both_stop_cleanly_with_people_signed_in() {
    let home = Home::new();
    for signal in [Signal::INT, Signal::TERM] {
        let dev = home.start();
        let (mut alice, mut bob) = dev.alice_and_bob();
        alice.say(bob.user_id, "last words");
        dev.server.signal(signal);
        bob.wait_closed(PATIENCE);
        alice.wait_closed(PATIENCE);
        let exit = dev.server.wait();
        assert_eq!(exit.code, Some(0), "{signal:?}: {exit:?}");
    }
}

#[test]
fn no_log_level_shows_a_password_or_a_message() {
    let home = Home::new();
    let dev = home.start_tracing();
    let (mut alice, mut bob) = dev.alice_and_bob();
    alice.say(bob.user_id, "a secret between two");
    bob.hear();
    bob.history(alice.user_id);
    let wrong = "a password with a typing error";
    assert_eq!(dev.connect().login("bob", wrong, Class::Mobile).result_code, 6);
    let long = alice.text_message(bob.user_id, &"too long ".repeat(600));
    alice.send(command::MSG_DATA, &long);
    alice.drain();

    let cipher_text = String::from_utf8(alice.text_message(0, "a secret between two").msg_data.to_vec());
    let passwords = [dev.account("alice").password, dev.account("bob").password, wrong.to_owned()];
    let digests = passwords.each_ref().map(|password| wire_digest(password));
    let secrets = ["a secret between two".to_owned(), cipher_text.expect("base64"), "too long".to_owned()];
    let log = dev.server.stop().stderr;
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "a log in detail:\n{log}");
    for secret in secrets.iter().chain(&passwords).chain(&digests) {
        assert!(!log.contains(secret.as_str()), "{secret:?} in the log:\n{log}");
    }
}

#[test]
fn a_data_directory_in_use_is_refused_with_the_process_that_uses_it() {
    let home = Home::new();
    let dev = home.start();
    let other = Home::with_data(home.data());
    let exit = other.launch(&[]).wait();
    assert_eq!(exit.code, Some(4), "{exit:?}");
    let pid = dev.server.pid().to_string();
    assert!(exit.stderr.contains(&pid), "{pid} in {exit:?}");
    dev.assert_lives();
    dev.server.kill_9();
    other.start(); // the lock of a dead process is no lock
}

#[test]
fn a_read_only_data_directory_is_refused() {
    const NAME: &str = "a_read_only_data_directory_is_refused";
    let disk = match small_disk(16 * 1024) {
        Ok(disk) => disk,
        Err(reason) => return report::skipped(NAME, &reason),
    };
    let home = Home::with_data(&disk.join("data"));
    assert_eq!(home.start().server.stop().code, Some(0));
    disk.make_read_only();
    for data in ["data", "new"] {
        let home = Home::with_data(&disk.join(data));
        let exit = home.launch(&[]).wait();
        assert_eq!(exit.code, Some(5), "{exit:?}");
        let line = exit.stderr.lines().find(|line| line.starts_with("teamtalk: "));
        let line = line.expect("one line for the operator");
        assert!(line.contains(disk.path().to_str().expect("UTF-8")), "{line}");
        assert!(!home.ready_file().exists());
    }
}

#[test]
fn a_full_disk_refuses_messages_and_loses_none() {
    const NAME: &str = "a_full_disk_refuses_messages_and_loses_none";
    let disk = match small_disk(8 * 1024) {
        Ok(disk) => disk,
        Err(reason) => return report::skipped(NAME, &reason),
    };
    let home = Home::with_data(&disk.join("data"));
    let dev = home.start();
    // Capability 1: refusals are answered.
    let account = dev.account("alice");
    let mut alice = Client::sign_in_with(dev.address("msg"), &account, Class::Pc, Some(1 << 1));
    let bob = dev.account("bob").id;
    let ballast = disk.join("ballast");
    let long = "x".repeat(2900);
    let mut say = |text: &str| -> message::ImMsgDataAck {
        let body = alice.text_message(bob, text);
        alice.request(command::MSG_DATA, &body, command::MSG_DATA_ACK)
    };
    let mut acked = 0;
    let mut refused = None;
    for number in 0..4000 {
        if number == 20 {
            // Everything that is left. Writing stops at the end of the space, which is the point.
            let _ = fs::write(&ballast, vec![0; 8 * 1024 * 1024]);
        }
        let ack = say(&long);
        if ack.msg_id == 0 {
            refused = ack.result;
            break;
        }
        acked += 1;
        assert_eq!(ack.msg_id, acked, "no hole");
    }
    assert_eq!(refused, Some(1), "not stored, after {acked} messages");

    fs::remove_file(&ballast).expect("the ballast");
    // The store opens itself again; until then it refuses, and says so each time.
    let id = (0..10_000).map(|_| say("space again").msg_id).find(|id| *id != 0);
    assert_eq!(id, Some(acked + 1), "the refused message took no id");
    let ids: Vec<u32> = alice.history(bob).iter().rev().map(|message| message.id).collect();
    assert_eq!(ids, (1..=acked + 1).collect::<Vec<_>>());
    dev.assert_lives();
}

#[test]
fn a_disk_that_is_full_from_the_start_is_one_line() {
    const NAME: &str = "a_disk_that_is_full_from_the_start_is_one_line";
    let disk = match small_disk(16) {
        Ok(disk) => disk,
        Err(reason) => return report::skipped(NAME, &reason),
    };
    let exit = Home::with_data(&disk.join("data")).launch(&[]).wait();
    assert_eq!(exit.code, Some(5), "{exit:?}");
    assert!(exit.stderr.lines().any(|line| line.starts_with("teamtalk: ")), "{exit:?}");
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let home = Home::new();
    assert_eq!(home.start().server.stop().code, Some(0));
    let database = fs::read_dir(home.data())
        .expect("the data directory")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_file())
        .max_by_key(|path| fs::metadata(path).expect("readable").len())
        .expect("the store is a file");
    fs::write(&database, b"this is no database, whatever its name says").expect("writable");
    let exit = home.launch(&[]).wait();
    assert_eq!(exit.code, Some(5), "{exit:?}");
    let kept = fs::read(&database).expect("still there");
    assert_eq!(kept, b"this is no database, whatever its name says");
}

#[test]
fn what_clients_are_told_follows_host_and_advertise() {
    let home = Home::new();
    let told = |options: &[&str]| {
        let dev = home.start_with(options);
        let msg = dev.address("msg");
        for (name, address) in dev.listeners() {
            let for_clients = matches!(name.as_str(), "login_http" | "login_pdu" | "msg");
            assert!(for_clients || address.ip().is_loopback(), "{name} is at {address}");
        }
        // From this machine every address of its own can be reached on loopback.
        let mut login = dev.address("login_http");
        login.set_ip(IpAddr::from([127, 0, 0, 1]));
        let answer = http_get(login, "/msg_server");
        let body = answer.split_once("\r\n\r\n").expect("a body").1.to_owned();
        let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(dev.server.stop().code, Some(0));
        (msg.ip().to_string(), json["priorIP"].as_str().expect("a string").to_owned())
    };
    let pair = |host: &str, told: &str| (host.to_owned(), told.to_owned());
    assert_eq!(told(&[]), pair("127.0.0.1", "127.0.0.1"));
    assert_eq!(told(&["--host", "0.0.0.0", "--advertise", "192.0.2.1"]), pair("0.0.0.0", "192.0.2.1"));
}

#[test]
fn teamtalk_alone_is_teamtalk_dev_on_the_published_ports() {
    let home = Home::new();
    let mut server =
        Server::start_command(Command::new(&binaries().teamtalk).current_dir(home.path("")), &home.path("alone.log"));
    // Something else on this machine may use one of those ports; then that is what it says.
    if server.has_line("Ready") {
        let answer = http_get(([127, 0, 0, 1], 8080).into(), "/msg_server");
        assert!(answer.contains("\"port\" : \"8000\""), "{answer}");
        assert_eq!(server.stop().code, Some(0));
    } else {
        let exit = server.wait();
        assert_eq!(exit.code, Some(3), "{exit:?}");
        assert!(exit.stderr.contains("--port-base"), "{exit:?}");
        report::skipped("teamtalk_alone_is_teamtalk_dev_on_the_published_ports", "a published port is taken");
    }
    assert!(home.path("teamtalk-data").is_dir(), "its data is in the current directory");
}
