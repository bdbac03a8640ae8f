//! What a client changes of its own account, what it is told about others', voice and signals.

mod fake;

use fake::{Fake, Link};
use tt_client::request::SendVoice;
use tt_client::{Client, ClientClass, Content, Error, Event, Events, Peer, Signal};
use tt_proto::Body;
use tt_proto::im::buddy::{
    ImAvatarChangedNotify, ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp,
    ImRemoveSessionNotify, ImSignInfoChangedNotify, ImpcLoginStatusNotify,
};
use tt_proto::im::login::{
    ImDeviceTokenReq, ImDeviceTokenRsp, ImKickPcClientReq, ImKickPcClientRsp, ImPushShieldReq, ImPushShieldRsp,
    ImQueryPushShieldReq, ImQueryPushShieldRsp,
};
use tt_proto::im::message::{ImMsgData, ImMsgDataAck};
use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::pdu::MAX_VOICE;

/// Signs in on a phone called "my phone", calls `ask`, and lets `script` answer.
fn with(script: impl FnOnce(&mut Link) + Send + 'static, ask: impl FnOnce(&Client, &Events)) {
    let server = Fake::new();
    let mut options = server.options();
    options.class = ClientClass::Mobile;
    options.device_id = Some("my phone".to_owned());
    let script = std::thread::spawn(move || {
        let (mut link, seq, request) = server.meet();
        assert_eq!(request.device_id.as_deref(), Some("my phone"));
        link.send(seq, &fake::welcome());
        script(&mut link);
        link.until_closed();
    });
    let (client, events) = Client::login(options).unwrap();
    ask(&client, &events);
    drop(client);
    script.join().unwrap();
}

/// Takes a question and gives an answer.
fn answer<Q: Body, A: Body>(link: &mut Link, answer: &A) -> Q {
    let (seq, question) = link.recv::<Q>();
    link.send(seq, answer);
    question
}

fn code(result: Result<(), Error>) -> Option<u32> {
    match result {
        Ok(()) => None,
        Err(Error::Refused { code, .. }) => Some(code),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_card_is_changed_or_refused_with_a_reason() {
    with(
        |link| {
            for result_code in [0, 1, 2] {
                let done = ImChangeSignInfoRsp { user_id: 1, result_code, ..Default::default() };
                assert_eq!(answer::<ImChangeSignInfoReq, _>(link, &done).sign_info, "busy");
                let done = ImChangeAvatarRsp { user_id: 1, result_code, ..Default::default() };
                assert_eq!(answer::<ImChangeAvatarReq, _>(link, &done).avatar_url, "g0/a.png");
            }
        },
        |client, _| {
            for expected in [None, Some(1), Some(2)] {
                assert_eq!(code(client.set_signature("busy")), expected);
                assert_eq!(code(client.set_avatar("g0/a.png")), expected);
            }
        },
    );
}

#[test]
fn quiet_nights_the_push_token_and_the_own_pc() {
    with(
        |link| {
            let set = ImPushShieldRsp { user_id: 1, shield_status: Some(1), ..Default::default() };
            assert_eq!(answer::<ImPushShieldReq, _>(link, &set).shield_status, 1);
            for shield_status in [Some(1), Some(0), None] {
                let is = ImQueryPushShieldRsp { user_id: 1, shield_status, ..Default::default() };
                answer::<ImQueryPushShieldReq, _>(link, &is);
            }
            let failed = ImQueryPushShieldRsp { user_id: 1, result_code: 1, ..Default::default() };
            answer::<ImQueryPushShieldReq, _>(link, &failed);
            let kept: ImDeviceTokenReq = answer(link, &ImDeviceTokenRsp { user_id: 1, ..Default::default() });
            assert_eq!((kept.device_token.as_str(), kept.device_id), ("t0ken", None), "the server knows the device");
            answer::<ImKickPcClientReq, _>(link, &ImKickPcClientRsp { user_id: 1, result_code: 0 });
        },
        |client, _| {
            client.set_quiet_nights(true).unwrap();
            assert_eq!([(); 3].map(|()| client.quiet_nights().unwrap()), [true, false, false]);
            assert!(matches!(client.quiet_nights(), Err(Error::Refused { code: 1, .. })));
            client.register_push_token("t0ken").unwrap();
            client.kick_pc().unwrap();
        },
    );
}

#[test]
fn a_recording_goes_out_whole_and_comes_in_whole() {
    let recording: Vec<u8> = (0..MAX_VOICE - 4).map(|at| (at % 251) as u8).collect();
    let sent = recording.clone();
    with(
        move |link| {
            let (seq, data) = link.recv::<ImMsgData>();
            assert_eq!((data.msg_type, data.to_session_id), (2, 2));
            assert_eq!((&data.msg_data[..4], &data.msg_data[4..]), (&[0, 0, 1, 1][..], &sent[..]));
            assert!(data.client_msg_id.is_some_and(|id| !id.is_empty()));
            link.send(seq, &ImMsgDataAck { msg_id: 7, session_type: 1, ..Default::default() });
            let back = ImMsgData { msg_type: 2, msg_data: data.msg_data, ..fake::text_message(2, 1, 8, "x") };
            link.send(0, &back);
            let (seq, _) = link.recv::<ImMsgDataAck>();
            assert_ne!(seq, 0);
        },
        |client, events| {
            assert_eq!(client.send_voice(2, 257, &recording).unwrap().msg_id, 7);
            match events.next_message(fake::LIMIT).unwrap().content {
                Content::Voice { seconds, samples } => assert_eq!((seconds, &samples[..]), (257, &recording[..])),
                other => panic!("{other:?}"),
            }
        },
    );
}

#[test]
fn what_is_no_recording_is_not_sent() {
    assert!(matches!(SendVoice::new(2, 1, &[]), Err(Error::Invalid(_))));
    let error = SendVoice::new(Peer::Group(2), 1, &vec![0; MAX_VOICE - 3]).unwrap_err();
    assert!(error.to_string().contains("262141 bytes, 262140 are possible"), "{error}");
}

#[test]
fn signals_go_out_and_what_is_told_becomes_events() {
    with(
        |link| {
            let (_, signal) = link.recv::<Imp2pCmdMsg>();
            assert_eq!((signal.from_user_id, signal.to_user_id), (1, 2));
            assert_eq!(signal.cmd_msg_data, r#"{"cmd_id":131073,"content":"","service_id":2}"#);
            link.send(0, &Imp2pCmdMsg { from_user_id: 2, to_user_id: 1, ..signal });
            link.send(0, &Imp2pCmdMsg { from_user_id: 2, to_user_id: 1, cmd_msg_data: "?".to_owned() });
            link.send(0, &ImSignInfoChangedNotify { changed_user_id: 2, sign_info: "away".to_owned() });
            link.send(0, &ImAvatarChangedNotify { changed_user_id: 3, avatar_url: "g0/b.png".to_owned() });
            link.send(0, &ImpcLoginStatusNotify { user_id: 1, login_stat: 1 });
            link.send(0, &ImpcLoginStatusNotify { user_id: 1, login_stat: 2 });
            link.send(0, &ImRemoveSessionNotify { user_id: 1, session_type: 1, session_id: 2 });
        },
        |client, events| {
            client.signal(2, Signal::Typing).unwrap();
            let next = || events.next(fake::LIMIT).unwrap();
            let event = next();
            assert!(matches!(event, Event::Signal { from: 2, to: 1, signal: Signal::Typing }), "{event:?}");
            let event = next();
            assert!(matches!(&event, Event::Signal { signal: Signal::Other(data), .. } if data == "?"), "{event:?}");
            let event = next();
            assert!(matches!(&event, Event::Signature { user_id: 2, text } if text == "away"), "{event:?}");
            let event = next();
            assert!(matches!(&event, Event::Avatar { user_id: 3, url } if url == "g0/b.png"), "{event:?}");
            assert!(matches!(next(), Event::OwnPc { online: true }));
            assert!(matches!(next(), Event::OwnPc { online: false }));
            assert!(matches!(next(), Event::SessionRemoved { conversation: Peer::User(2) }));
        },
    );
}
