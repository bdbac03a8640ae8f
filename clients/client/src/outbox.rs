//! The requests that still wait for their answer, in the order they were made. A request is either
//! queued (no connection yet, or the last one was lost) or in flight under a sequence number.
//! Generic over what is called at the end, so that it is tested without a network.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tt_proto::Command;

use crate::request::Repeat;

/// Writes a request's frame for a sequence number and a user id.
pub(crate) type Encode = Box<dyn Fn(u16, u32) -> Bytes>;

/// One request from its making to its end.
pub(crate) struct Exchange<D> {
    /// Only a PDU with this command and the right sequence number answers it.
    pub(crate) answer: Command,
    pub(crate) encode: Encode,
    pub(crate) repeat: Repeat,
    /// What the session calls, and cancels, at the end.
    pub(crate) done: D,
    /// The sequence number while in flight.
    pub(crate) seq: Option<u16>,
}

/// Names a request for as long as it lives.
pub(crate) type ExchangeId = u64;

pub(crate) struct Outbox<D> {
    exchanges: BTreeMap<ExchangeId, Exchange<D>>,
    in_flight: HashMap<u16, ExchangeId>,
    next_id: ExchangeId,
    next_seq: u16,
}

impl<D> Outbox<D> {
    /// The most requests that may wait at once: far above what a program needs in flight, far
    /// below the number of sequence numbers.
    pub(crate) const LIMIT: usize = 4096;

    pub(crate) fn new() -> Self {
        Self { exchanges: BTreeMap::new(), in_flight: HashMap::new(), next_id: 0, next_seq: 1 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.exchanges.len() >= Self::LIMIT
    }

    /// Queues a request.
    pub(crate) fn push(&mut self, exchange: Exchange<D>) -> ExchangeId {
        let id = self.next_id;
        self.next_id += 1;
        self.exchanges.insert(id, exchange);
        id
    }

    /// The frames of everything queued, oldest first; all of it is in flight afterwards.
    pub(crate) fn take_queued(&mut self, me: u32) -> Vec<Bytes> {
        let queued: Vec<_> =
            self.exchanges.iter().filter(|(_, exchange)| exchange.seq.is_none()).map(|(id, _)| *id).collect();
        queued.into_iter().filter_map(|id| self.transmit(id, me)).collect()
    }

    /// The frame of one queued request, which is in flight afterwards.
    pub(crate) fn transmit(&mut self, id: ExchangeId, me: u32) -> Option<Bytes> {
        let seq = self.fresh_seq();
        let exchange = self.exchanges.get_mut(&id)?;
        exchange.seq = Some(seq);
        self.in_flight.insert(seq, id);
        Some((exchange.encode)(seq, me))
    }

    /// A sequence number nobody waits for. 0 is kept for what servers send of their own accord.
    pub(crate) fn fresh_seq(&mut self) -> u16 {
        // Ends: at most LIMIT of the 65,535 numbers are in use.
        loop {
            let seq = self.next_seq;
            self.next_seq = self.next_seq.wrapping_add(1);
            if seq != 0 && !self.in_flight.contains_key(&seq) {
                return seq;
            }
        }
    }

    /// Takes out the request that a PDU answers, if it answers one.
    pub(crate) fn answered(&mut self, command: Command, seq: u16) -> Option<Exchange<D>> {
        let id = *self.in_flight.get(&seq)?;
        if self.exchanges.get(&id)?.answer != command {
            return None;
        }
        self.remove(id)
    }

    /// Takes out a request, for instance one whose time is over.
    pub(crate) fn remove(&mut self, id: ExchangeId) -> Option<Exchange<D>> {
        let exchange = self.exchanges.remove(&id)?;
        if let Some(seq) = exchange.seq {
            self.in_flight.remove(&seq);
        }
        Some(exchange)
    }

    /// The connection is gone: what may be repeated is queued again in its old order, the rest of
    /// what was in flight is taken out and returned.
    pub(crate) fn connection_lost(&mut self, server_knows_message_ids: bool) -> Vec<Exchange<D>> {
        self.in_flight.clear();
        let keeps = |exchange: &Exchange<D>| match exchange.repeat {
            Repeat::Always => true,
            Repeat::IfServerKnowsMessageIds => server_knows_message_ids,
            Repeat::Never => false,
        };
        let lost = self.exchanges.extract_if(.., |_, exchange| exchange.seq.take().is_some() && !keeps(exchange));
        lost.map(|(_, exchange)| exchange).collect()
    }

    /// Takes out everything, oldest first.
    pub(crate) fn drain(&mut self) -> Vec<Exchange<D>> {
        self.in_flight.clear();
        std::mem::take(&mut self.exchanges).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(name: &'static str, repeat: Repeat) -> Exchange<&'static str> {
        Exchange {
            answer: Command::MsgDataAck,
            encode: Box::new(move |seq, me| Bytes::from(format!("{name} {seq} {me}"))),
            repeat,
            done: name,
            seq: None,
        }
    }

    fn frames(outbox: &mut Outbox<&'static str>) -> Vec<Bytes> {
        outbox.take_queued(9)
    }

    #[test]
    fn an_answer_needs_the_sequence_number_and_the_command() {
        let mut outbox = Outbox::new();
        outbox.push(exchange("a", Repeat::Always));
        assert_eq!(frames(&mut outbox), ["a 1 9"]);
        assert!(outbox.answered(Command::MsgDataAck, 2).is_none());
        assert!(outbox.answered(Command::ClientTimeRsp, 1).is_none());
        assert_eq!(outbox.answered(Command::MsgDataAck, 1).map(|e| e.done), Some("a"));
        assert!(outbox.answered(Command::MsgDataAck, 1).is_none());
    }

    #[test]
    fn sequence_numbers_skip_zero_and_those_in_use() {
        let mut outbox = Outbox::new();
        outbox.push(exchange("long", Repeat::Always));
        assert_eq!(frames(&mut outbox), ["long 1 9"]);
        outbox.next_seq = u16::MAX;
        for name in ["a", "b"] {
            outbox.push(exchange(name, Repeat::Always));
        }
        assert_eq!(frames(&mut outbox), ["a 65535 9", "b 2 9"]);
    }

    #[test]
    fn a_lost_connection_queues_again_in_order_what_may_be_repeated() {
        for known in [true, false] {
            let mut outbox = Outbox::new();
            outbox.push(exchange("read", Repeat::Always));
            outbox.push(exchange("send", Repeat::IfServerKnowsMessageIds));
            outbox.push(exchange("once", Repeat::Never));
            assert_eq!(frames(&mut outbox), ["read 1 9", "send 2 9", "once 3 9"]);
            outbox.push(exchange("queued", Repeat::Never));
            let lost: Vec<_> = outbox.connection_lost(known).into_iter().map(|e| e.done).collect();
            if known {
                assert_eq!(lost, ["once"]);
                assert_eq!(frames(&mut outbox), ["read 4 9", "send 5 9", "queued 6 9"]);
            } else {
                assert_eq!(lost, ["send", "once"]);
                assert_eq!(frames(&mut outbox), ["read 4 9", "queued 5 9"]);
            }
            assert!(outbox.answered(Command::MsgDataAck, 1).is_none(), "an old number must not answer a repeat");
        }
    }

    #[test]
    fn a_removed_request_frees_its_number_and_is_not_answered() {
        let mut outbox = Outbox::new();
        let id = outbox.push(exchange("a", Repeat::Always));
        frames(&mut outbox);
        assert_eq!(outbox.remove(id).map(|e| e.done), Some("a"));
        assert!(outbox.in_flight.is_empty());
        assert!(outbox.answered(Command::MsgDataAck, 1).is_none());
    }
}
