//! Signing in, being refused, being kicked.

use std::time::Duration;

use tt_proto::im::{login, message};
use tt_tests::{Class, Client, Home, PATIENCE, binaries, command, run};

#[test]
fn a_wrong_password_is_refused_and_the_connection_closed() {
    let home = Home::new();
    let dev = home.start();
    for (name, password) in [("alice", "not her password"), ("nobody", "x"), ("", "")] {
        let mut client = dev.connect();
        let answer = client.login(name, password, Class::Pc);
        assert_eq!(answer.result_code, 6, "{answer:?}");
        assert_eq!(answer.user_info, None);
        client.wait_closed(PATIENCE);
    }
    // The failure above did not lock the account.
    dev.sign_in("alice", Class::Pc);
}

#[test]
fn too_many_wrong_passwords_stop_the_guessing() {
    let home = Home::new();
    let dev = home.start();
    let attempt = || dev.connect().login("bob", "guess", Class::Pc).result_string;
    let first = attempt();
    for _ in 0..10 {
        assert_eq!(attempt(), first);
    }
    assert_ne!(attempt(), first, "the twelfth attempt is told apart");
    let right = dev.account("bob").password;
    assert_eq!(dev.connect().login("bob", &right, Class::Pc).result_code, 6);
    dev.sign_in("alice", Class::Pc);
}

#[test]
fn a_second_desktop_kicks_the_first_and_a_phone_kicks_neither() {
    let home = Home::new();
    let dev = home.start();
    let mut first = dev.sign_in("alice", Class::Pc);
    let mut phone = dev.sign_in("alice", Class::Mobile);
    let mut second = dev.sign_in("alice", Class::Pc);

    let kick: login::ImKickUser = first.notice(command::KICK_USER);
    assert_eq!((kick.user_id, kick.kick_reason), (first.user_id, 1));
    first.wait_closed(PATIENCE);

    for survivor in [&mut phone, &mut second] {
        let seen = survivor.drain(); // fails when the connection is gone
        assert!(seen.iter().all(|pdu| pdu.command != command::KICK_USER));
    }
}

#[test]
fn a_phone_sends_its_owners_desktop_away() {
    let home = Home::new();
    let dev = home.start();
    let mut desktop = dev.sign_in("alice", Class::Pc);
    let mut phone = dev.sign_in("alice", Class::Mobile);
    let answer: login::ImKickPcClientRsp = phone.request(
        command::REQ_KICKPCCLIENT,
        &login::ImKickPcClientReq { user_id: phone.user_id },
        command::RES_KICKPCCLIENT,
    );
    assert_eq!((answer.user_id, answer.result_code), (phone.user_id, 0));
    let kick: login::ImKickUser = desktop.notice(command::KICK_USER);
    assert_eq!((kick.user_id, kick.kick_reason), (desktop.user_id, 2));
    desktop.wait_closed(PATIENCE);
}

#[test]
fn a_command_before_the_login_closes_the_connection() {
    let home = Home::new();
    let dev = home.start();
    for command in [command::MSG_DATA, command::ALL_USER_REQUEST, command::TIME_REQUEST, 0x0406] {
        let mut stranger = dev.connect();
        stranger.send(command, &message::ImClientTimeReq::default());
        stranger.wait_closed(Duration::from_secs(5)); // long before the limit for silent ones
    }
    let mut stranger = dev.connect();
    stranger.drain(); // a heartbeat is answered
    stranger.login("alice", &dev.account("alice").password, Class::Pc);
}

#[test]
fn who_never_signs_in_is_closed_at_fifteen_seconds() {
    let home = Home::new();
    let dev = home.start();
    let mut silent = dev.connect();
    let mut beating = dev.connect();
    let after = silent.wait_closed(PATIENCE);
    assert!((14.0..17.0).contains(&after.as_secs_f64()), "closed after {after:?}");
    // Heartbeats do not extend the time.
    beating.wait_closed(Duration::from_secs(2));
}

#[test]
fn a_disabled_account_cannot_sign_in_until_it_is_enabled() {
    let home = Home::new();
    let dev = home.start();
    let data = home.data().to_str().expect("UTF-8");
    let user = |action: &str| {
        let exit = run(&binaries().teamtalk, &["user", action, "bob", "--data", data]);
        assert_eq!(exit.code, Some(0), "{exit:?}");
    };
    user("disable");
    let bob = dev.account("bob");
    assert_eq!(dev.connect().login("bob", &bob.password, Class::Pc).result_code, 6);
    user("enable");
    Client::sign_in(dev.address("msg"), &bob, Class::Pc);
}
