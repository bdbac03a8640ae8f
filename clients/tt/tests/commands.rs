//! The commands as scripts see them: what is printed and with which status they end. The servers
//! are the scripted ones of the client library's tests.

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use fake::{Fake, Link, card, text_message};
use tt_proto::im::base_define::{ContactSessionInfo, GroupInfo, MsgInfo, UserStat};
use tt_proto::im::buddy::{
    ImAllUserReq, ImAllUserRsp, ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp,
    ImRecentContactSessionReq, ImRecentContactSessionRsp, ImSignInfoChangedNotify, ImUsersInfoReq, ImUsersInfoRsp,
    ImUsersStatReq, ImUsersStatRsp,
};
use tt_proto::im::group::{
    ImGroupChangeMemberReq, ImGroupChangeMemberRsp, ImGroupCreateReq, ImGroupCreateRsp, ImGroupInfoListReq,
    ImGroupInfoListRsp,
};
use tt_proto::im::login::{
    ImKickPcClientReq, ImKickPcClientRsp, ImKickUser, ImLoginRes, ImPushShieldReq, ImPushShieldRsp,
    ImQueryPushShieldReq, ImQueryPushShieldRsp,
};
use tt_proto::im::message::{
    ImClientTimeReq, ImClientTimeRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp, ImGetMsgListReq, ImGetMsgListRsp, ImMsgData,
    ImMsgDataAck,
};
use tt_proto::im::switch_service::Imp2pCmdMsg;

/// `tt` as user alice of that server, without a terminal.
fn tt(server: &Fake, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tt"));
    command.args(["--server", &server.url().to_string(), "--user", "alice"]).args(args);
    command.env("TT_PASSWORD", "secret").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs a command against a script.
fn run(args: &[&str], script: impl FnOnce(&Fake) + Send + 'static) -> Output {
    let server = Fake::new();
    let mut command = tt(&server, args);
    let script = thread::spawn(move || script(&server));
    let output = command.output().unwrap();
    script.join().unwrap();
    output
}

fn printed(output: &Output) -> (Option<i32>, &str) {
    (output.status.code(), std::str::from_utf8(&output.stdout).unwrap())
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Answers with an address book of alice and bob: all of it, then nobody new.
fn answer_users(link: &mut Link) {
    for _ in 0..2 {
        let (seq, _) = link.recv::<ImAllUserReq>();
        let user_list = vec![card(1, "alice"), card(2, "bob")];
        link.send(seq, &ImAllUserRsp { user_id: 1, latest_update_time: 100, user_list, ..Default::default() });
    }
}

/// Answers with one conversation, with bob, whose newest message has that number.
fn answer_sessions(link: &mut Link, latest_msg_id: u32) {
    let (seq, _) = link.recv::<ImRecentContactSessionReq>();
    let bob = ContactSessionInfo { session_id: 2, session_type: 1, latest_msg_id, ..Default::default() };
    link.send(seq, &ImRecentContactSessionRsp { contact_session_list: vec![bob], ..Default::default() });
}

fn row(msg_id: u32) -> MsgInfo {
    let data = text_message(2, 1, msg_id, &format!("text {msg_id}"));
    MsgInfo { msg_id, from_session_id: 2, create_time: data.create_time, msg_type: 1, msg_data: data.msg_data }
}

#[test]
fn send_prints_the_number_after_the_acknowledgement() {
    let output = run(&["send", "bob", "hello"], |server| {
        let (mut link, seq, request) = server.meet();
        assert_eq!(request.client_type & 0x10, 0x10, "a one-shot command is a mobile client");
        link.send(seq, &fake::welcome());
        answer_users(&mut link);
        assert_eq!(link.ack(17).to_session_id, 2);
        assert!(link.until_closed().is_empty(), "no log-out, which would forget the phone's push token");
    });
    assert_eq!(printed(&output), (Some(0), "17\n"));
}

#[test]
fn send_by_id_prints_json() {
    let output = run(&["send", "#2", "hello", "--json"], |server| {
        let mut link = server.sign_in();
        let (seq, request) = link.recv::<ImUsersInfoReq>();
        assert_eq!(request.user_id_list, [2]);
        link.send(seq, &ImUsersInfoRsp { user_info_list: vec![card(2, "bob")], ..Default::default() });
        link.ack(17);
        link.until_closed();
    });
    let (status, text) = printed(&output);
    assert_eq!(status, Some(0));
    let start = r#"{"msg_id":17,"from":{"id":1,"name":"alice"},"to":{"id":2,"name":"bob"},"client_msg_id":""#;
    assert!(text.starts_with(start) && text.ends_with("\"}\n"), "{text}");
}

#[test]
fn an_unknown_receiver_is_wrong_usage() {
    let output = run(&["send", "carol", "hello"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(2), ""));
    assert!(said(&output).contains("carol"), "{}", said(&output));
}

#[test]
fn a_refused_message_and_a_wrong_password_have_their_status() {
    let output = run(&["send", "bob", "hello"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        let (seq, _) = link.recv::<ImMsgData>();
        link.send(seq, &ImMsgDataAck { session_type: 1, result: Some(3), ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(6), ""));
    let output = run(&["users"], |server| {
        let (mut link, seq, _) = server.meet();
        link.send(seq, &ImLoginRes { result_code: 6, ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(3), ""));
}

#[test]
fn a_command_that_another_one_signed_out_says_so() {
    let output = run(&["send", "bob", "hello"], |server| {
        let mut link = server.sign_in();
        link.send(0, &ImKickUser { user_id: 1, kick_reason: 1 });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(7), ""), "{}", said(&output));
    assert!(said(&output).contains("one command of a user at a time"), "{}", said(&output));
}

#[test]
fn a_password_file_that_others_can_read_is_taken_with_a_warning() {
    let file = std::env::temp_dir().join(format!("tt-password-{}", std::process::id()));
    std::fs::write(&file, "secret\n").unwrap();
    for (mode, warns) in [(0o600, false), (0o644, true)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let server = Fake::new();
        let mut command = tt(&server, &["users", "--password-file", file.to_str().unwrap()]);
        drop(server);
        let output = command.output().unwrap();
        assert_eq!(said(&output).contains("chmod 600"), warns, "{mode:o}: {}", said(&output));
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn nobody_there_is_unreachable_and_names_the_address() {
    let server = Fake::new();
    let url = server.url().to_string();
    let mut command = tt(&server, &["users"]);
    drop(server);
    let output = command.output().unwrap();
    assert_eq!(printed(&output), (Some(4), ""));
    assert!(said(&output).contains(&url), "{}", said(&output));
}

#[test]
fn wrong_usage_is_told_before_anybody_is_asked() {
    let server = Fake::new();
    for args in [&["send", "bob", ""][..], &["history", "bob", "--limit", "0"], &[], &["--server", "ftp://x", "users"]]
    {
        let output = tt(&server, args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_tt")).arg("users").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no --user");
}

#[test]
fn listen_prints_each_message_and_stops_at_the_count() {
    let output = run(&["listen", "--count", "2"], |server| {
        let (mut link, seq, request) = server.meet();
        assert_eq!(request.client_type & 0x10, 0, "listen is a PC client");
        link.send(seq, &fake::welcome());
        answer_users(&mut link);
        answer_sessions(&mut link, 0);
        for id in [1, 1, 2, 3] {
            link.send(0, &text_message(2, 1, id, &format!("text {id}")));
        }
        link.until_closed();
    });
    let lines = "2023-11-14 22:13:20 bob -> alice: text 1\n2023-11-14 22:13:20 bob -> alice: text 2\n";
    assert_eq!(printed(&output), (Some(0), lines));
}

#[test]
fn listen_prints_what_it_missed_while_the_connection_was_lost() {
    let output = run(&["listen", "--count", "4"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        answer_sessions(&mut link, 5);
        link.send(0, &text_message(2, 1, 6, "text 6"));
        link.recv::<ImMsgDataAck>();
        drop(link);
        let mut link = server.sign_in();
        answer_sessions(&mut link, 8);
        let (seq, request) = link.recv::<ImGetMsgListReq>();
        assert_eq!((request.session_id, request.msg_id_begin, request.msg_cnt), (2, 8, 2));
        // Number 8 arrives live as well.
        link.send(0, &text_message(2, 1, 8, "text 8"));
        link.send(seq, &ImGetMsgListRsp { msg_list: vec![row(8), row(7)], ..Default::default() });
        link.send(0, &text_message(2, 1, 9, "text 9"));
        link.until_closed();
    });
    let (status, text) = printed(&output);
    let texts: Vec<_> = text.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    assert_eq!((status, texts), (Some(0), vec!["text 6", "text 7", "text 8", "text 9"]), "{}", said(&output));
}

#[test]
fn listen_tells_a_timeout_from_being_signed_out() {
    let ready = |server: &Fake| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        answer_sessions(&mut link, 0);
        link
    };
    let output = run(&["listen", "--count", "1", "--timeout", "0.3"], move |server| {
        ready(server).until_closed();
    });
    assert_eq!(printed(&output), (Some(5), ""));
    let output = run(&["listen", "--timeout", "0.3"], move |server| {
        ready(server).until_closed();
    });
    assert_eq!(printed(&output), (Some(0), ""));
    let output = run(&["listen"], move |server| {
        let mut link = ready(server);
        link.send(0, &ImKickUser { user_id: 1, kick_reason: 1 });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(7), ""));
    assert!(said(&output).contains("--as mobile"), "{}", said(&output));
}

#[test]
fn listen_flushes_each_line_and_ends_quietly_when_its_reader_goes() {
    let server = Fake::new();
    let mut command = tt(&server, &["listen", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut link = server.sign_in();
    answer_users(&mut link);
    answer_sessions(&mut link, 0);
    link.send(0, &text_message(2, 1, 1, "hello"));
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("\"text\":\"hello\",\"kind\":\"text\""), "{line}");
    drop(reader);
    link.send(0, &text_message(2, 1, 2, "nobody reads this"));
    link.until_closed();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), said(&output)), (Some(0), ""));
}

#[test]
fn history_is_printed_oldest_first_over_several_pages() {
    let output = run(&["history", "bob", "--limit", "3"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        let mut page = |begin, count, rows: Vec<MsgInfo>| {
            let (seq, request) = link.recv::<ImGetMsgListReq>();
            assert_eq!((request.msg_id_begin, request.msg_cnt), (begin, count));
            link.send(seq, &ImGetMsgListRsp { msg_list: rows, ..Default::default() });
        };
        // A server may answer fewer than asked.
        page(0, 3, vec![row(9), row(8)]);
        page(7, 1, vec![row(7)]);
        link.until_closed();
    });
    let (status, text) = printed(&output);
    let texts: Vec<_> = text.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    assert_eq!((status, texts), (Some(0), vec!["text 7", "text 8", "text 9"]));
}

#[test]
fn users_and_status_tell_who_is_online() {
    fn answer_status(link: &mut Link) {
        let (seq, request) = link.recv::<ImUsersStatReq>();
        let stat = |user_id: &u32| UserStat {
            user_id: *user_id,
            status: if *user_id == 2 { 1 } else { 2 },
            ..UserStat::default()
        };
        let user_stat_list = request.user_id_list.iter().map(stat).collect();
        link.send(seq, &ImUsersStatRsp { user_stat_list, ..Default::default() });
    }
    let output = run(&["users"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        answer_status(&mut link);
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), "#1 alice (ALICE) offline\n#2 bob (BOB) online\n"));
    let output = run(&["status", "bob", "--json"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        answer_status(&mut link);
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), "{\"user\":{\"id\":2,\"name\":\"bob\"},\"presence\":\"online\"}\n"));
}

#[test]
fn settings_are_shown_and_changed() {
    let output = run(&["signature", "--json"], |server| {
        let (mut link, seq, _) = server.meet();
        let mut welcome = fake::welcome();
        welcome.user_info.as_mut().unwrap().sign_info = Some("on \"leave\"".to_owned());
        link.send(seq, &welcome);
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), "{\"signature\":\"on \\\"leave\\\"\"}\n"));
    let output = run(&["signature", "back"], |server| {
        let mut link = server.sign_in();
        let (seq, request) = link.recv::<ImChangeSignInfoReq>();
        assert_eq!(request.sign_info, "back");
        link.send(seq, &ImChangeSignInfoRsp { user_id: 1, ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), ""));
    let output = run(&["avatar", "x"], |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImChangeAvatarReq>();
        link.send(seq, &ImChangeAvatarRsp { user_id: 1, result_code: 2, ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(6), ""));
    assert!(said(&output).contains("too many changes"), "{}", said(&output));
    let output = run(&["quiet-nights"], |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImQueryPushShieldReq>();
        link.send(seq, &ImQueryPushShieldRsp { user_id: 1, shield_status: Some(1), ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), "on\n"));
    let output = run(&["quiet-nights", "off"], |server| {
        let mut link = server.sign_in();
        let (seq, request) = link.recv::<ImPushShieldReq>();
        assert_eq!(request.shield_status, 0);
        link.send(seq, &ImPushShieldRsp { user_id: 1, shield_status: Some(0), ..Default::default() });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), ""));
}

#[test]
fn a_recording_is_sent_from_a_file_and_saved_into_a_new_one() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("a.spx"), home.path().join("b.spx"));
    let recording = b"\0\xffno text";
    std::fs::write(&from, recording).unwrap();
    let from = from.to_str().unwrap();
    let output = run(&["send-voice", "bob", from, "--seconds", "3"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        let data = link.ack(9);
        assert_eq!((data.msg_type, &data.msg_data[..]), (2, &[&[0, 0, 0, 3][..], recording].concat()[..]));
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), "9\n"), "{}", said(&output));
    let save = |msg_type, msg_id: &str| {
        let args = ["save-voice", "bob", msg_id, to.to_str().unwrap(), "--json"];
        run(&args, move |server| {
            let mut link = server.sign_in();
            answer_users(&mut link);
            let (seq, request) = link.recv::<ImGetMsgByIdReq>();
            assert_eq!(request.msg_id_list, [9]);
            let msg_data = [&[0, 0, 0, 3][..], recording].concat().into();
            let row = MsgInfo { msg_type, msg_data, ..row(9) };
            link.send(seq, &ImGetMsgByIdRsp { msg_list: vec![row], ..Default::default() });
            link.until_closed();
        })
    };
    let text = save(1, "9");
    assert_eq!(printed(&text), (Some(2), ""));
    assert!(!to.exists());
    assert_eq!(printed(&save(2, "9")), (Some(0), "{\"msg_id\":9,\"seconds\":3,\"bytes\":9}\n"));
    assert_eq!(std::fs::read(&to).unwrap(), recording);
    assert_eq!(printed(&save(2, "9")).0, Some(1), "a file that exists is left alone");
    // Nothing to send: nobody is bothered.
    std::fs::write(home.path().join("empty"), b"").unwrap();
    let server = Fake::new();
    for file in ["empty", "nowhere"] {
        let file = home.path().join(file);
        let output = tt(&server, &["send-voice", "bob", file.to_str().unwrap()]).output().unwrap();
        assert_eq!(printed(&output), (Some(2), ""));
    }
}

#[test]
fn a_signal_is_sent_and_notices_are_printed_where_they_are_asked_for() {
    let output = run(&["signal", "bob", "typing"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        let (_, signal) = link.recv::<Imp2pCmdMsg>();
        assert_eq!((signal.from_user_id, signal.to_user_id), (1, 2));
        let (seq, _) = link.recv::<ImClientTimeReq>();
        link.send(seq, &ImClientTimeRsp { server_time: 1 });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), ""));
    let listen = |args: &[&str]| {
        run(args, |server| {
            let mut link = server.sign_in();
            answer_users(&mut link);
            answer_sessions(&mut link, 0);
            let cmd_msg_data = r#"{"cmd_id":131073,"content":"","service_id":2}"#.to_owned();
            link.send(0, &Imp2pCmdMsg { from_user_id: 2, to_user_id: 1, cmd_msg_data });
            let sign_info = "a\u{1b}[2Jb".to_owned();
            link.send(0, &ImSignInfoChangedNotify { changed_user_id: 2, sign_info });
            link.send(0, &text_message(2, 1, 7, "hi"));
            link.until_closed();
        })
    };
    let output = listen(&["listen", "--count", "1", "--notices"]);
    let (status, text) = printed(&output);
    assert_eq!(status, Some(0));
    assert!(text.starts_with("* bob -> alice is typing\n* bob signs: a\u{fffd}[2Jb\n"), "{text:?}");
    let output = listen(&["listen", "--count", "1", "--notices", "--json"]);
    let typing = r#"{"notice":"typing","from":{"id":2,"name":"bob"},"to":{"id":1,"name":"alice"}}"#;
    assert!(printed(&output).1.starts_with(typing), "{output:?}");
    let output = listen(&["listen", "--count", "1"]);
    assert!(!printed(&output).1.contains("typing"));
}

#[test]
fn only_a_mobile_client_signs_the_desktop_out() {
    let output = run(&["kick-pc"], |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImKickPcClientReq>();
        link.send(seq, &ImKickPcClientRsp { user_id: 1, result_code: 0 });
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(0), ""));
    let server = Fake::new();
    let output = tt(&server, &["kick-pc", "--as", "pc"]).output().unwrap();
    assert_eq!(printed(&output), (Some(2), ""));
}

fn group_card(version: u32, members: &[u32]) -> GroupInfo {
    GroupInfo {
        group_id: 7,
        version,
        group_name: "lunch".to_owned(),
        group_type: 2,
        group_creator_id: 1,
        group_member_list: members.to_vec(),
        ..Default::default()
    }
}

#[test]
fn a_group_is_made_with_oneself_in_it_and_shown() {
    let output = run(&["group", "create", "lunch", "bob", "--json"], |server| {
        let mut link = server.sign_in();
        answer_users(&mut link);
        let (seq, asked) = link.recv::<ImGroupCreateReq>();
        assert_eq!((asked.group_type, &asked.member_id_list[..], &asked.group_name[..]), (2, &[2, 1][..], "lunch"));
        link.send(seq, &ImGroupCreateRsp { user_id: 1, result_code: 0, group_id: Some(7), ..Default::default() });
        let (seq, asked) = link.recv::<ImGroupInfoListReq>();
        assert_eq!((asked.group_version_list[0].group_id, asked.group_version_list[0].version), (7, 0));
        link.send(seq, &ImGroupInfoListRsp { group_info_list: vec![group_card(1, &[1, 2])], ..Default::default() });
        link.until_closed();
    });
    let line = "{\"id\":7,\"name\":\"lunch\",\"creator\":1,\"fixed\":false,\"members\":[1,2],\"muted\":false}\n";
    assert_eq!(printed(&output), (Some(0), line), "{}", said(&output));
}

#[test]
fn a_message_goes_to_a_group_by_its_number() {
    let output = run(&["send", "#g7", "hi", "--json"], |server| {
        let mut link = server.sign_in();
        let (seq, sent) = link.recv::<ImMsgData>();
        assert_eq!((sent.to_session_id, sent.msg_type), (7, 17));
        let ack = ImMsgDataAck { user_id: 1, session_id: 7, msg_id: 3, session_type: 2, ..Default::default() };
        link.send(seq, &ack);
        link.until_closed();
    });
    let (status, line) = printed(&output);
    assert_eq!(status, Some(0), "{}", said(&output));
    assert!(line.contains("\"group\":7") && line.contains("\"msg_id\":3") && line.contains("\"to\":null"), "{line}");
}

#[test]
fn a_change_that_the_server_refuses_ends_with_six_and_says_why_it_may_be() {
    let output = run(&["group", "leave", "#g7"], |server| {
        let mut link = server.sign_in();
        let (seq, asked) = link.recv::<ImGroupChangeMemberReq>();
        assert_eq!((asked.change_type, asked.group_id, &asked.member_id_list[..]), (2, 7, &[1][..]));
        let refused = ImGroupChangeMemberRsp { change_type: 2, result_code: 1, group_id: 7, ..Default::default() };
        link.send(seq, &refused);
        link.until_closed();
    });
    assert_eq!(printed(&output), (Some(6), ""));
    assert!(said(&output).contains("there must be such a group"), "{}", said(&output));
}
