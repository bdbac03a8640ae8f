//! Discovery, connect and sign-in: what succeeds, and how each failure is told.

mod fake;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use fake::Fake;
use tt_client::{Client, Error, Event, Options, ServerUrl};
use tt_proto::im::login::ImLoginRes;
use tt_proto::password::wire_digest;
use tt_proto::pdu;

/// Signs in against a scripted server and returns the outcome.
fn login(
    server: Fake,
    change: impl FnOnce(&mut Options),
    script: impl FnOnce(&Fake) + Send + 'static,
) -> Result<Client, Error> {
    let mut options = server.options();
    change(&mut options);
    let script = thread::spawn(move || script(&server));
    let outcome = Client::login(options).map(|(client, _)| client);
    if outcome.is_err() {
        script.join().unwrap();
    }
    outcome
}

#[test]
fn the_digest_goes_out_and_the_card_comes_back() {
    let client = login(
        Fake::new(),
        |_| {},
        |server| {
            let (mut link, seq, request) = server.meet();
            assert_eq!(request.user_name, "alice");
            assert_eq!(request.password, wire_digest("secret"));
            assert_eq!(request.capabilities.unwrap() & fake::CAP_MESSAGE_IDS, fake::CAP_MESSAGE_IDS);
            assert_ne!(seq, 0);
            link.send(seq, &fake::welcome());
            link.until_closed();
        },
    );
    let me = client.unwrap().me().clone();
    assert_eq!((me.id, me.name.as_str(), me.nick.as_str()), (1, "alice", "ALICE"));
}

#[test]
fn frames_may_arrive_byte_by_byte_and_several_at_once() {
    let server = Fake::new();
    let options = server.options();
    let script = thread::spawn(move || {
        let (mut link, seq, _) = server.meet();
        link.trickle(&pdu::encode(seq, &fake::welcome()));
        let two = [1, 2].map(|id| pdu::encode(0, &fake::text_message(2, 1, id, "hello")));
        link.send_bytes(&two.concat());
        link.until_closed();
    });
    let (client, events) = Client::login(options).unwrap();
    let ids = [1, 2].map(|_| events.next_message(fake::LIMIT).unwrap().msg_id);
    assert_eq!(ids, [1, 2]);
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_wrong_password_is_told_apart_and_not_tried_again() {
    let outcome = login(
        Fake::new(),
        |options| options.reconnect = true,
        |server| {
            let (mut link, seq, _) = server.meet();
            link.send(
                seq,
                &ImLoginRes { result_code: 6, result_string: Some("nope".to_owned()), ..Default::default() },
            );
            assert!(link.until_closed().is_empty());
        },
    );
    assert_eq!(outcome.unwrap_err(), Error::WrongPassword { text: "nope".to_owned() });
}

#[test]
fn a_missing_server_behind_the_message_server_is_a_refusal() {
    let outcome = login(
        Fake::new(),
        |_| {},
        |server| {
            let (mut link, seq, _) = server.meet();
            link.send(seq, &ImLoginRes { result_code: 3, ..Default::default() });
        },
    );
    assert!(matches!(outcome.unwrap_err(), Error::Refused { code: 3, .. }));
}

#[test]
fn no_registered_message_server_is_a_refusal() {
    let outcome = login(Fake::new(), |_| {}, |server| server.answer_http(r#"{"code":1,"msg":"none"}"#));
    assert!(matches!(outcome.unwrap_err(), Error::Refused { code: 1, .. }));
}

#[test]
fn a_foreign_web_server_is_a_protocol_error_that_names_the_address() {
    let server = Fake::new();
    let url = server.url().to_string();
    let outcome = login(server, |_| {}, |server| server.answer_http("<html>It works!</html>"));
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Protocol(why) if why.contains(&url)), "{error}");
}

#[test]
fn nobody_at_the_address_is_unreachable_and_names_it() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = login(Fake::new(), |options| options.server = closed.into(), |_| {});
    match outcome.unwrap_err() {
        Error::Unreachable { what } => assert!(what.contains(&closed.to_string()), "{what}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_name_with_several_addresses_is_asked_at_each() {
    let server = Fake::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = ServerUrl::from(gone).or_at(server.url().addrs().to_vec());
    let client = login(
        server,
        |options| options.server = url,
        |server| {
            server.sign_in().until_closed();
        },
    );
    assert_eq!(client.unwrap().me().name, "alice");
}

#[test]
fn a_message_server_that_is_gone_is_unreachable_and_named() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answer = format!(r#"{{"code":0,"priorIP":"127.0.0.1","backupIP":"127.0.0.1","port":"{}"}}"#, gone.port());
    let outcome = login(Fake::new(), |_| {}, move |server| server.answer_http(&answer));
    match outcome.unwrap_err() {
        Error::Unreachable { what } => assert!(what.contains(&gone.to_string()), "{what}"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_backup_address_is_tried_when_the_first_refuses() {
    let client = login(
        Fake::with_msg_on("127.0.0.2"),
        |_| {},
        |server| {
            // Nobody listens there.
            server.answer_discovery_with("127.0.0.3");
            let mut link = server.accept();
            let (seq, _) = link.recv::<tt_proto::im::login::ImLoginReq>();
            link.send(seq, &fake::welcome());
            link.until_closed();
        },
    );
    assert_eq!(client.unwrap().me().id, 1);
}

#[test]
fn a_silent_login_server_and_a_silent_message_server_end_in_a_timeout() {
    let short = |options: &mut Options| options.login_timeout = Duration::from_millis(100);
    let outcome = login(Fake::new(), short, |server| {
        let mut held = server.ignore_http();
        // Until the client gives up.
        std::io::Read::read_to_end(&mut held, &mut Vec::new()).unwrap();
    });
    assert!(matches!(outcome.unwrap_err(), Error::Timeout { .. }));
    let outcome = login(Fake::new(), short, |server| {
        let (mut link, _, _) = server.meet();
        link.until_closed();
    });
    assert!(matches!(outcome.unwrap_err(), Error::Timeout { what: "the sign-in", .. }));
}

#[test]
fn a_length_field_that_cannot_be_ends_the_connection() {
    for length in [0u32, 15, u32::MAX] {
        let outcome = login(
            Fake::new(),
            |_| {},
            move |server| {
                let (mut link, _, _) = server.meet();
                link.send_bytes(&length.to_be_bytes());
                link.until_closed();
            },
        );
        assert!(matches!(outcome.unwrap_err(), Error::Unreachable { .. }), "length {length}");
    }
}

#[test]
fn a_refused_sign_in_is_repeated_in_a_session_that_reconnects() {
    let server = Fake::new();
    let mut options = server.options();
    options.reconnect = true;
    let script = thread::spawn(move || {
        let mut link = server.sign_in();
        drop(link);
        let (mut refused, seq, _) = server.meet();
        refused.send(seq, &ImLoginRes { result_code: 5, ..Default::default() });
        link = server.sign_in();
        link.until_closed();
    });
    let (client, events) = Client::login(options).unwrap();
    let offline = || {
        events.wait_for(fake::LIMIT, |event| match event {
            Event::Offline { error, .. } => Some(error.clone()),
            _ => None,
        })
    };
    assert!(matches!(offline().unwrap(), Error::Unreachable { .. }));
    assert!(matches!(offline().unwrap(), Error::Refused { code: 5, .. }));
    assert!(matches!(events.next(fake::LIMIT).unwrap(), Event::Online { me } if me.id == 1));
    drop(client);
    script.join().unwrap();
}
