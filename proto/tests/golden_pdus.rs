//! PDUs recorded from the 2015 system: they decode to the recorded fields and encode to the recorded bytes.
//!
//! Fields are compared twice over: the generated types must give the bytes back, and the `.proto` files, read
//! by descriptor, must give the recorded JSON.

use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};
use serde_json::{Map, Value as Json, json};
use tt_proto::command::Visitor;
use tt_proto::pdu::{self, PduRef};
use tt_proto::{Body, Command};

/// Recorded PDUs that lack required fields, by line, and why. We send them complete.
const INCOMPLETE: &[(usize, Command, &str)] =
    &[(113, Command::DeviceTokenRsp, "msg answers the client before it knows the outcome and sets no user_id")];

struct Recorded {
    line: usize,
    frame: Vec<u8>,
    json: Json,
}

impl Recorded {
    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_else(|| panic!("line {}: no {key}", self.line))
    }
}

fn recording() -> Vec<Recorded> {
    let lines = include_str!("golden/pdus.jsonl").lines();
    lines
        .enumerate()
        .map(|(index, text)| {
            let json: Json = serde_json::from_str(text).expect("a line of JSON");
            let frame = unhex(json["hex"].as_str().expect("hex"));
            Recorded { line: index + 1, frame, json }
        })
        .collect()
}

/// The recorded PDUs whose command has a message.
fn known() -> impl Iterator<Item = (Command, Recorded)> {
    recording().into_iter().filter_map(|recorded| {
        let id = PduRef::parse(&recorded.frame).expect("a whole PDU").header.command;
        Command::try_from(id).ok().map(|command| (command, recorded))
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Decodes the body as the generated type and encodes it again.
struct Again<'a>(PduRef<'a>);

impl Visitor for Again<'_> {
    type Output = bytes::Bytes;
    fn visit<M: Body>(self) -> bytes::Bytes {
        let message: M = self.0.decode().expect("a body of its command");
        pdu::encode(self.0.header.seq, &message)
    }
}

#[test]
fn the_recording_covers_the_links() {
    assert_eq!(recording().len(), 148);
}

#[test]
fn headers_say_what_was_recorded() {
    for recorded in recording() {
        let line = recorded.line;
        assert_eq!(pdu::frame_len(&recorded.frame, pdu::MAX_FROM_CLIENT), Ok(Some(recorded.frame.len())));
        let header = PduRef::parse(&recorded.frame).expect("a whole PDU").header;
        assert_eq!(format!("{:#06x}", header.command), recorded.text("command"), "line {line}");
        assert_eq!(Json::from(header.seq), recorded.json["seq"], "line {line}");
        assert_eq!(header.service, header.command >> 8, "line {line}");
    }
}

#[test]
fn bodies_encode_to_the_recorded_bytes() {
    let mut different = Vec::new();
    for (command, recorded) in known() {
        let again = command.visit(Again(PduRef::parse(&recorded.frame).expect("a whole PDU")));
        if again[..] != recorded.frame[..] {
            assert!(again.len() > recorded.frame.len(), "line {}: {command} lost something", recorded.line);
            different.push((recorded.line, command));
        }
    }
    let listed: Vec<_> = INCOMPLETE.iter().map(|&(line, command, _)| (line, command)).collect();
    assert_eq!(different, listed);
}

#[test]
fn bodies_hold_the_recorded_fields() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = std::fs::read_dir(root).expect("proto/").map(|entry| entry.expect("an entry").path());
    let pool = DescriptorPool::from_file_descriptor_set(protox::compile(files, [root]).expect("they compile"))
        .expect("they resolve");
    for (command, recorded) in known() {
        let line = recorded.line;
        assert_eq!(command.info().full_name(), recorded.text("message"), "line {line}");
        let descriptor = pool.get_message_by_name(recorded.text("message")).expect("a published message");
        let body = PduRef::parse(&recorded.frame).expect("a whole PDU").body;
        let message = DynamicMessage::decode(descriptor, body).expect("a body of its command");
        assert_eq!(to_json(&message), recorded.json["fields"], "line {line}, {command}");
    }
}

#[test]
fn the_one_unknown_command_is_told_apart() {
    let unknown: Vec<u16> = recording()
        .iter()
        .map(|recorded| PduRef::parse(&recorded.frame).expect("a whole PDU").header.command)
        .filter(|&id| Command::try_from(id).is_err())
        .collect();
    assert_eq!(unknown, [0x0999]);
}

/// As protobuf's JSON mapping has it, with the field names of the `.proto` files.
fn to_json(message: &DynamicMessage) -> Json {
    let fields = message.fields().map(|(field, value)| (field.name().to_owned(), value_to_json(&field.kind(), value)));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn value_to_json(kind: &protox::prost_reflect::Kind, value: &Value) -> Json {
    match value {
        Value::U32(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Bytes(bytes) => json!(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes)),
        Value::EnumNumber(number) => {
            let names = kind.as_enum().expect("an enum");
            json!(names.get_value(*number).expect("a known value").name())
        }
        Value::Message(message) => to_json(message),
        Value::List(items) => items.iter().map(|item| value_to_json(kind, item)).collect(),
        other => panic!("{other:?} occurs in no message"),
    }
}
