//! Bad input, made from the descriptor of a message: its plain form, and from that each field in turn missing,
//! twice, of the wrong type, out of range, too long, not text, too many; and the whole of it empty, cut, and with
//! more behind it. A command that is added to the table needs nothing here.

use protox::prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::schema;

/// Who does it, to whom, and ids that nobody has.
pub(crate) const ATTACKER: u32 = 1;
pub(crate) const VICTIM: u32 = 2;
pub(crate) const UNKNOWN: u32 = 999_999;

/// A body and what is wrong with it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) body: Vec<u8>,
}

/// An encoded field.
#[derive(Debug, Clone)]
struct Field {
    number: u32,
    bytes: Vec<u8>,
}

/// Lengths at which some limit of the servers lies, and one above each.
const TEXTS: &[usize] =
    &[0, 1, 32, 33, 64, 65, 100, 101, 128, 129, 255, 256, 512, 513, 1_024, 1_025, 4_096, 4_097, 100_000, 395_000];
const BODIES: &[usize] = &[0, 1, 4, 5, 64, 65, 4_096, 4_097, 262_144, 262_145, 395_000];
const MANY: u32 = 100_000;
/// As many as fit a client's frame when they are packed: twice as long in an answer, which is not.
const MANY_PACKED: u32 = 390_000;

/// A message with sensible values in every field.
pub(crate) fn plain(message: &MessageDescriptor) -> Vec<u8> {
    concat(&fields(message))
}

/// Everything that can be wrong with it.
pub(crate) fn cases(message: &MessageDescriptor) -> Vec<Case> {
    let plain = fields(message);
    let mut cases = vec![Case { what: "nothing wrong".to_owned(), body: concat(&plain) }];
    let mut add = |what: String, body: Vec<u8>| cases.push(Case { what, body });
    for field in message.fields() {
        let name = field.name();
        let others: Vec<Field> = plain.iter().filter(|other| other.number != field.number()).cloned().collect();
        let with = |bytes: Vec<u8>| {
            let mut all = others.clone();
            all.push(Field { number: field.number(), bytes });
            concat(&all)
        };
        add(format!("{name} missing"), concat(&others));
        let one = sensible(&field);
        add(format!("{name} twice"), with([one.clone(), one.clone()].concat()));
        add(format!("{name} of another type"), with(wrong_type(&field)));
        for (what, bytes) in values(&field) {
            if bytes.len() < 16 {
                add(format!("{name} twice, the second: {what}"), with([one.clone(), bytes.clone()].concat()));
            }
            add(format!("{name}: {what}"), with(bytes));
        }
    }
    let whole = concat(&plain);
    add("empty".to_owned(), Vec::new());
    add("cut in the middle".to_owned(), whole[..whole.len() / 2].to_vec());
    add("cut at the last byte".to_owned(), whole[..whole.len().saturating_sub(1)].to_vec());
    add("with a broken field behind it".to_owned(), [&whole[..], &[0xff; 12]].concat());
    add("with an unknown field behind it".to_owned(), [&whole[..], &encoded(900, b"new")].concat());
    cases
}

fn concat(fields: &[Field]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.bytes.iter().copied()).collect()
}

fn fields(message: &MessageDescriptor) -> Vec<Field> {
    let present = message.fields().filter(|field| !is_extension(field));
    present.map(|field| Field { number: field.number(), bytes: sensible(&field) }).collect()
}

/// Fields of ours, and the cookie, which are not in the plain form.
fn is_extension(field: &FieldDescriptor) -> bool {
    field.number() == 20 || (field.number() >= 100 && field.parent_message().package_name() != "IM.Extension")
}

/// A field with a value that a well-meaning peer would send.
fn sensible(field: &FieldDescriptor) -> Vec<u8> {
    let number = field.number();
    match field.kind() {
        Kind::Message(inner) => encoded(number, &plain(&inner)),
        Kind::String | Kind::Bytes => encoded(number, text(field.name()).as_bytes()),
        Kind::Bool => varint_field(number, 1),
        Kind::Enum(_) | Kind::Uint32 | Kind::Uint64 | Kind::Int32 => varint_field(number, amount(field.name())),
        other => panic!("no message has a field of {other:?}"),
    }
}

fn text(name: &str) -> &'static str {
    match name {
        "user_name" => "ann",
        "password" => "7e0d7f8a5d96c24ffcc840f31bce72b2",
        "msg_data" | "latest_msg_data" => "Q86LjI5C0w5zckkEFxEXrg==",
        "cmd_msg_data" => "{\"cmd_id\":1}",
        "ip" | "ip1" | "ip2" => "127.0.0.1",
        "attach_data" => "\0\0\0\x01\0\0\0\x07\0\0\0\0",
        _ => "x",
    }
}

fn amount(name: &str) -> u64 {
    match name {
        "user_id" | "from_user_id" | "changed_user_id" | "latest_msg_from_user_id" => ATTACKER.into(),
        "to_session_id" | "session_id" | "to_user_id" | "user_id_list" => VICTIM.into(),
        "member_id_list" | "chg_user_id_list" => 3,
        "group_type" => 2,
        "msg_cnt" => 10,
        "port" => 8_000,
        "msg_id_begin" | "latest_update_time" | "version" | "result_code" | "signed_in_at" => 0,
        _ => 1,
    }
}

/// The values to try, each with its name, encoded as the field.
fn values(field: &FieldDescriptor) -> Vec<(String, Vec<u8>)> {
    let number = field.number();
    let mut values: Vec<(String, Vec<u8>)> = Vec::new();
    match field.kind() {
        Kind::Message(inner) => {
            for case in cases_within(&inner) {
                values.push((format!("with {}", case.what), encoded(number, &case.body)));
            }
        }
        Kind::String => {
            values.extend(TEXTS.iter().map(|len| (format!("{len} bytes"), encoded(number, &vec![b'x'; *len]))));
            values.push(("not UTF-8".to_owned(), encoded(number, b"\xff\xfe\xc0")));
            values.push(("control characters".to_owned(), encoded(number, b"\0\x1b[2J\r\n")));
            values.push(("SQL".to_owned(), encoded(number, b"'; DROP TABLE user; --")));
        }
        Kind::Bytes => {
            values.extend(BODIES.iter().map(|len| (format!("{len} bytes"), encoded(number, &vec![b'A'; *len]))));
            values.push(("not base64".to_owned(), encoded(number, b"!!! not base64 !!!")));
            values.push(("not UTF-8".to_owned(), encoded(number, &[0xff; 24])));
        }
        Kind::Enum(kind) => {
            let known = kind.values().map(|value| i64::from(value.number()) as u64);
            let wrong = [0, 77, 0x7fff_ffff, u64::MAX];
            values.extend(known.chain(wrong).map(|n| (format!("{}", n as i64), varint_field(number, n))));
        }
        _ => {
            let ids = [0, 1, VICTIM.into(), 3, UNKNOWN.into(), u64::from(u32::MAX), u64::MAX];
            values.extend(ids.map(|n| (n.to_string(), varint_field(number, n))));
        }
    }
    if field.is_list() {
        let many = match field.kind() {
            Kind::Message(inner) => {
                let one = encoded(number, &plain(&inner));
                one.repeat(MANY as usize)
            }
            Kind::String | Kind::Bytes => encoded(number, b"x").repeat(MANY as usize),
            _ => (1..=MANY).flat_map(|n| varint_field(number, n.into())).collect(),
        };
        values.push((format!("{MANY} of them"), many));
        if matches!(field.kind(), Kind::Uint32) {
            let packed: Vec<u8> = (0..MANY_PACKED).map(|n| (n % 120) as u8).collect();
            values.push((format!("{MANY_PACKED} of them, packed"), encoded(number, &packed)));
            values.push(("packed, cut in a number".to_owned(), encoded(number, &[1, 2, 0x80])));
        }
    }
    values
}

/// What can be wrong with a message inside another: the short ones.
fn cases_within(message: &MessageDescriptor) -> Vec<Case> {
    let mut cases = cases(message);
    cases.retain(|case| case.body.len() < 1_024 && !case.what.contains("twice, the second"));
    cases
}

/// The field as a number if it is none, and as bytes if it is a number.
fn wrong_type(field: &FieldDescriptor) -> Vec<u8> {
    match field.kind() {
        Kind::Message(_) | Kind::String | Kind::Bytes => varint_field(field.number(), 5),
        // Four bytes of a number that a packed list would be longer than.
        _ => [varint(u64::from(field.number() << 3 | 5)), vec![1, 2, 3, 4]].concat(),
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn varint_field(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number << 3)), varint(value)].concat()
}

fn encoded(number: u32, content: &[u8]) -> Vec<u8> {
    [varint(u64::from(number << 3 | 2)), varint(content.len() as u64), content.to_vec()].concat()
}

/// Whether every enum in an encoded message has a value that exists, as far as it can be read.
pub(crate) fn enums_are_known(message: &MessageDescriptor, body: &[u8]) -> bool {
    use protox::prost_reflect::{DynamicMessage, ReflectMessage, Value};
    fn known(kind: &Kind, value: &Value) -> bool {
        match (kind, value) {
            (Kind::Enum(kind), Value::EnumNumber(number)) => kind.get_value(*number).is_some(),
            (_, Value::Message(inner)) => all(inner),
            (kind, Value::List(items)) => items.iter().all(|item| known(kind, item)),
            _ => true,
        }
    }
    fn all(message: &DynamicMessage) -> bool {
        message.descriptor().fields().all(|field| {
            if field.is_list() || message.has_field(&field) {
                known(&field.kind(), &message.get_field(&field))
            } else {
                // Missing and required: it reads as 0, which not every enum has.
                !matches!(field.kind(), Kind::Enum(kind) if kind.get_value(0).is_none())
            }
        })
    }
    DynamicMessage::decode(message.clone(), body).is_ok_and(|message| all(&message))
}

#[test]
fn every_message_has_its_cases() {
    for row in tt_proto::command::TABLE {
        let message = schema::message(&row.full_name());
        let cases = cases(&message);
        assert!(cases.len() >= 6 + 6 * message.fields().count(), "{}: {} cases", row.message, cases.len());
    }
}
