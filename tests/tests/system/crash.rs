//! G1, G3 and G7 against `kill -9`: whatever was acknowledged is stored, numbering has no holes,
//! and nothing is stored twice. (A kill leaves the page cache alone, so this says nothing about
//! power cuts.)

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc,
    thread,
    time::Duration,
};

use tt_proto::im::message;
use tt_tests::{Class, Client, Dev, Ended, Home, Message, PATIENCE, Pdu, Random, command, report::say};

const ROUNDS: u32 = 20;
const SENDS: u32 = 1000;

/// What one round's two clients saw of it.
struct Round {
    sent: u32,
    /// Text and id of every message whose ack arrived.
    acked: HashMap<String, u32>,
    delivered: Vec<Message>,
}

/// Alice sends a thousand messages with up to `window` of them unanswered; somewhere in the middle
/// the process is killed.
fn crash(dev: Dev, round: u32, random: &mut Random) -> Round {
    let (mut alice, mut bob) = dev.alice_and_bob();
    let receiver = thread::spawn(move || {
        let mut delivered = Vec::new();
        while let Some(pdu) = until_closed(&mut bob) {
            if pdu.command == command::MSG_DATA {
                delivered.push(bob.delivered(&pdu));
            }
        }
        delivered
    });
    let window = random.between(8, 128) as usize;
    let begin = random.between(20, 850) as u32;
    // About what a transaction takes: the kill may hit any moment of it.
    let delay = Duration::from_micros(random.between(0, 4000));
    let (begun, may_kill) = mpsc::channel();
    let (to, server) = (dev.account("bob").id, dev.server);
    let killer = thread::spawn(move || {
        may_kill.recv().expect("the sends begin");
        thread::sleep(delay); // not for something, but for nothing in particular
        server.kill_9();
    });

    let mut sent = 0;
    let mut waiting = HashMap::new();
    let mut acked = HashMap::new();
    loop {
        while sent < SENDS && waiting.len() < window {
            let text = format!("round {round}, message {}", sent + 1);
            let Ok(seq) = alice.try_post(to, &text) else { break };
            sent += 1;
            waiting.insert(seq, text);
            if sent == begin {
                begun.send(()).expect("the killer waits");
            }
        }
        // After the kill: what was on its way already, and then the end.
        let Some(pdu) = until_closed(&mut alice) else { break };
        if pdu.command == command::MSG_DATA_ACK {
            let ack: message::ImMsgDataAck = pdu.decode();
            let text = waiting.remove(&pdu.seq).expect("one ack per message, with its seq");
            acked.insert(text, ack.msg_id);
        }
    }
    killer.join().expect("the process was running until it was killed");
    Round { sent, acked, delivered: receiver.join().expect("the receiving thread") }
}

fn until_closed(client: &mut Client) -> Option<Pdu> {
    match client.next(PATIENCE) {
        Ok(pdu) => Some(pdu),
        Err(Ended::Closed) => None,
        Err(Ended::TimedOut) => panic!("neither a PDU nor the end of the connection"),
    }
}

/// The messages with ids above `known`, oldest first.
fn stored_since(dev: &Dev, known: u32) -> Vec<Message> {
    let mut alice = dev.sign_in("alice", Class::Mobile);
    let mut stored = alice.history_since(dev.account("bob").id, known);
    stored.reverse();
    stored
}

/// Nothing acked is lost, nothing has a hole, nothing is there twice, and what Bob was shown is what
/// is stored. Ids up to `known` belong to earlier rounds.
fn assert_conserved(round: u32, crashed: &Round, stored: &[Message], known: u32) {
    let ids: Vec<u32> = stored.iter().map(|message| message.id).collect();
    let dense: Vec<u32> = (known + 1..=known + stored.len() as u32).collect();
    assert_eq!(ids, dense, "ids are dense in round {round}");
    let by_text: HashMap<&str, u32> = stored.iter().map(|message| (message.text.as_str(), message.id)).collect();
    assert_eq!(by_text.len(), stored.len(), "a message is stored twice in round {round}");
    for (text, id) in &crashed.acked {
        assert_eq!(by_text.get(text.as_str()), Some(id), "acked: {text}");
    }
    for message in &crashed.delivered {
        assert_eq!(by_text.get(message.text.as_str()), Some(&message.id), "{message:?}");
    }
    let order: Vec<u32> = crashed.delivered.iter().map(|message| message.id).collect();
    assert!(order.is_sorted_by(|a, b| a < b), "delivered out of order: {order:?}");
    // What is stored was sent in this round, in the order in which it was sent.
    let numbers: Vec<u32> = stored
        .iter()
        .map(|message| message.text.strip_prefix(&format!("round {round}, message ")))
        .map(|number| number.and_then(|number| number.parse().ok()).expect("a message of this round"))
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "stored out of order: {numbers:?}");
    assert!(numbers.last().is_none_or(|last| *last <= crashed.sent));
}

#[test]
fn g7_kill_9_loses_no_acked_message() {
    let mut random = Random::seeded("kill -9");
    let home = Home::new();
    let (mut sent, mut acked, mut unknown, mut unknown_but_stored) = (0, 0, 0, 0);
    let (mut known, mut landed, mut between) = (0, 0, 0);
    let mut dev = home.start();
    for round in 1.. {
        let crashed = crash(dev, round, &mut random);
        dev = home.start();
        let stored = stored_since(&dev, known);
        assert_conserved(round, &crashed, &stored, known);

        let acks = crashed.acked.len() as u32;
        sent += crashed.sent;
        acked += acks;
        unknown += crashed.sent - acks;
        unknown_but_stored += stored.len() as u32 - acks;
        known += stored.len() as u32;
        // A kill that found nothing in flight is checked like the others, and does not count.
        if crashed.sent > acks {
            landed += 1;
        } else {
            between += 1;
        }
        assert!(between <= ROUNDS, "the kills do not meet the requests");
        if landed == ROUNDS {
            break;
        }
    }
    say(&format!(
        "kill -9: {landed} with requests in flight, {between} between them: sent {sent} = acked {acked} \
         + refused 0 + unknown {unknown} (of those stored {unknown_but_stored}); stored {known}"
    ));
    assert_eq!(sent, acked + unknown);
    assert_eq!(known, acked + unknown_but_stored);

    let mut bob = dev.sign_in("bob", Class::Pc);
    let whole = bob.history(dev.account("alice").id);
    assert_eq!(whole.len() as u32, known, "the whole conversation after the last crash");
    assert!(whole.is_sorted_by(|a, b| a.id == b.id + 1));
    let texts: HashSet<&str> = whole.iter().map(|message| message.text.as_str()).collect();
    assert_eq!(texts.len(), whole.len(), "and nothing in it twice");
}
