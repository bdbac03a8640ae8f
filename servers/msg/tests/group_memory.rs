//! A message to a group of 2,000 members, 500 of whom are here, exists once in this server's
//! memory, and each of them gets it. Alone in its program, because it counts what the whole process
//! allocates.

#[path = "msg/support.rs"]
#[allow(dead_code)] // what the other tests need
mod support;

use bytes::Bytes;
use netlib::sys::CountingAllocator;
use support::{PC, Wire, World, text};
use tt_proto::im::base_define::{GroupInfo, MsgType};
use tt_proto::im::group::{ImGroupInfoListReq, ImGroupInfoListRsp};
use tt_proto::im::message::{ImMsgData, ImMsgDataAck};
use tt_proto::pdu::MAX_TEXT;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

const ONLINE: u32 = 500;

/// What a connection that has nothing to send gets for its output queue, generously.
const QUEUE: usize = 512;

#[test]
fn all_copies_of_a_group_message_are_the_same_bytes() {
    let mut world = World::new();
    let mut members: Vec<Wire> = (1..=ONLINE).map(|user| world.sign_in(user, PC)).collect();
    let long = "x".repeat(MAX_TEXT);
    let message = ImMsgData { msg_type: MsgType::MsgTypeGroupText.into(), ..text(9, &long) };
    let say = |world: &mut World, members: &mut [Wire], msg_id| {
        members[0].send(5, &message);
        let (seq, stored) = world.db.expect::<ImMsgData>();
        world.db.send(seq, &ImMsgData { msg_id, group_version: Some(1), ..stored });
        if msg_id == 1 {
            let (seq, question) = world.db.expect::<ImGroupInfoListReq>();
            let group_member_list = (1..=2_000).collect();
            let card = GroupInfo { group_id: 9, version: 1, group_member_list, ..GroupInfo::default() };
            let attach_data = question.attach_data;
            world.db.send(seq, &ImGroupInfoListRsp { user_id: 0, group_info_list: vec![card], attach_data });
        }
        assert_eq!(members[0].expect::<ImMsgDataAck>().1.msg_id, msg_id);
        for member in &mut members[1..] {
            let (seq, copy) = member.expect::<ImMsgData>();
            assert_eq!((seq, copy.msg_id, copy.msg_data), (0, msg_id, Bytes::from(long.clone())));
        }
        world.route.expect::<ImMsgData>();
    };
    say(&mut world, &mut members, 1); // what is made once is made
    HEAP.reset_peak();
    let before = HEAP.bytes();
    say(&mut world, &mut members, 2);
    let grown = HEAP.peak() - before;
    let copied = ONLINE as usize * MAX_TEXT;
    let shared = ONLINE as usize * QUEUE + (256 << 10);
    println!("{grown} bytes for {ONLINE} copies; {copied} if each had its own");
    assert!(grown < shared && shared < copied, "{grown} bytes, expected less than {shared}");
}
