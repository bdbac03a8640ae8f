//! The command table against the published one, and the `.proto` files against what the table assumes.

use std::collections::HashSet;

use serde_json::Value as Json;
use tt_proto::command::{Party, TABLE};
use tt_proto::{Command, UnknownCommand};

/// Commands that the 2015 system does not have.
const ADDED: &[u16] = &[0x0110, 0x0111, 0x0780, 0x0781, 0x07f0, 0x07f1];

#[test]
fn every_published_command_is_in_the_table() {
    let published: Vec<Json> = include_str!("golden/commands.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let ours: Vec<_> = TABLE.iter().filter(|row| !ADDED.contains(&row.command.id())).collect();
    assert_eq!(published.len(), 95);
    assert_eq!(published.len(), ours.len());
    for (published, row) in published.iter().zip(ours) {
        assert_eq!(published["command"], format!("{:#06x}", row.command.id()));
        assert_eq!(published["name"], row.name);
        assert_eq!(published["service"], format!("{:#06x}", row.service));
        assert_eq!(published["message"], row.full_name());
    }
}

#[test]
fn numbers_and_messages_are_unique_and_ascending() {
    assert!(TABLE.windows(2).all(|pair| pair[0].command.id() < pair[1].command.id()));
    let messages: HashSet<String> = TABLE.iter().map(tt_proto::CommandInfo::full_name).collect();
    assert_eq!(messages.len(), TABLE.len());
}

#[test]
fn every_number_finds_its_row_or_none() {
    for id in 0..=u16::MAX {
        let row = TABLE.iter().find(|row| row.command.id() == id);
        assert_eq!(Command::try_from(id), row.map(|row| row.command).ok_or(UnknownCommand(id)));
        if let Some(row) = row {
            assert!(std::ptr::eq(row.command.info(), row));
        }
    }
}

#[test]
fn the_enums_of_the_proto_files_have_the_same_numbers() {
    use tt_proto::im::base_define::{
        BuddyListCmdId, FileCmdId, GroupCmdId, LoginCmdId, MessageCmdId, OtherCmdId, SwitchServiceCmdId,
    };
    use tt_proto::im::extension::ExtensionCmdId;
    for row in TABLE {
        let id = i32::from(row.command.id());
        let name = match row.service {
            1 => LoginCmdId::try_from(id).map(|value| value.as_str_name()),
            2 => BuddyListCmdId::try_from(id).map(|value| value.as_str_name()),
            3 => MessageCmdId::try_from(id).map(|value| value.as_str_name()),
            4 => GroupCmdId::try_from(id).map(|value| value.as_str_name()),
            5 => FileCmdId::try_from(id).map(|value| value.as_str_name()),
            6 => SwitchServiceCmdId::try_from(id).map(|value| value.as_str_name()),
            _ if id < 0x0780 => OtherCmdId::try_from(id).map(|value| value.as_str_name()),
            _ => ExtensionCmdId::try_from(id).map(|value| value.as_str_name()),
        };
        assert_eq!(name, Ok(row.name));
    }
}

#[test]
fn attach_is_there_for_exactly_the_messages_with_field_20() {
    // The list in attach.rs is written by hand; what it must say stands in the .proto files.
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = std::fs::read_dir(root).expect("proto/").map(|entry| entry.expect("an entry").path());
    let files = protox::compile(files, [root]).expect("they compile");
    let mut with_cookie: Vec<String> = Vec::new();
    for file in &files.file {
        for message in &file.message_type {
            for field in message.field.iter().filter(|field| field.number() == 20) {
                assert_eq!(field.name(), "attach_data", "{}", message.name());
                with_cookie.push(message.name().to_lowercase());
            }
        }
    }
    let source = include_str!("../src/attach.rs");
    let list = &source[source.rfind("attach! {").expect("the list")..];
    let mut listed: Vec<String> = list
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.starts_with("Im"))
        .map(str::to_lowercase)
        .collect();
    with_cookie.sort();
    listed.sort();
    assert_eq!(listed, with_cookie);
}

#[test]
fn what_a_client_may_send_to_msg_is_what_msg_must_expect() {
    let from_client: Vec<u16> =
        TABLE.iter().filter(|row| row.allows(Party::Client, Party::Msg)).map(|row| row.command.id()).collect();
    assert!(from_client.contains(&0x0301) && from_client.contains(&0x0103));
    assert!(!from_client.iter().any(|&id| (0x0702..=0x07ff).contains(&id)), "server traffic is not for clients");
}

#[test]
fn only_the_seven_relayed_commands_and_the_broadcasts_run_from_route_to_msg_unasked() {
    let both_ways: Vec<u16> = TABLE
        .iter()
        .filter(|row| row.allows(Party::Msg, Party::Route) && row.allows(Party::Route, Party::Msg))
        .map(|row| row.command.id())
        .collect();
    // The relayed seven, the two profile broadcasts, the heartbeat, the hello and its proof.
    assert_eq!(
        both_ways,
        [0x020f, 0x0212, 0x0215, 0x0301, 0x0304, 0x040b, 0x0508, 0x0601, 0x0701, 0x070d, 0x07f0, 0x07f1]
    );
}
