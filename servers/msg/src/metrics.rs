//! What a msg server counts: every limit, every refusal, every reason for which a
//! client leaves.

use bytes::Bytes;
use netlib::{CloseReason, Conn};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tt_common::metrics::{Label, Labelled};
use tt_proto::Command;
use tt_proto::im::base_define::ResultType;
use tt_proto::pdu::PduRef;

use crate::state::Clients;

/// The counts of one msg server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// PDUs by command, of links and clients alike.
    pdus: tt_common::Metrics,
    /// Connections that have not signed in.
    pub(crate) visitors: Gauge,
    connections: Gauge,
    users: Gauge,
    sign_ins: Labelled,
    sign_ins_limited: Labelled,
    closed: Family<Closed, Counter>,
    pub(crate) kicked: Counter,
    /// Kicks from other servers that came from an older sign-in than the one here.
    pub(crate) kicks_answered: Counter,
    /// Changes of presence gathered for clients, and writes with them.
    pub(crate) presence_changes: Counter,
    pub(crate) presence_writes: Counter,
    /// Users that a client asked to be told of and is not, for their number.
    pub(crate) watches_refused: Counter,
    /// Requests of signed-in clients.
    pub(crate) requests: Counter,
    /// Times a client over its rate was not read for a while.
    pub(crate) paused: Counter,
    ignored: Labelled,
    refused: Labelled,
    unanswered: Labelled,
    pub(crate) lists_cut: Counter,
    pub(crate) acked: Counter,
    /// Messages whose copies had gone out before.
    pub(crate) repeated: Counter,
    /// Messages sent to the store once more because their link failed.
    pub(crate) repeats: Counter,
    pub(crate) copies: Counter,
    pub(crate) copies_missed: Counter,
    /// Group messages whose receivers could not be found out.
    pub(crate) group_messages_missed: Counter,
    pub(crate) relays_dropped: Counter,
    /// Messages sent once more to a new route server.
    pub(crate) relays_resent: Counter,
    /// Times a message came with others missing before it.
    pub(crate) gaps: Counter,
    /// Messages fetched because their relay was lost.
    pub(crate) recovered: Counter,
    /// Lost messages (or users with some) for which the store gave no answer.
    pub(crate) gaps_unfilled: Counter,
    /// Signals handed to clients.
    pub(crate) signals: Counter,
    /// Writes to clients with notices of changed cards.
    pub(crate) card_writes: Counter,
    /// Changes of cards refused because there were too many.
    pub(crate) card_changes_refused: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Closed {
    client: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// All zero, shown by `common`.
    pub(crate) fn new(common: &tt_common::Metrics) -> Self {
        let all = Self { pdus: common.clone(), ..Self::default() };
        common.register("visitors", "Client connections that have not signed in", all.visitors.clone());
        common.register("connections", "Client connections that are signed in", all.connections.clone());
        common.register("users", "Users with a connection here", all.users.clone());
        common.register("sign_ins", "Sign-ins by result", all.sign_ins.clone());
        common.register("sign_ins_limited", "Sign-ins refused for their number", all.sign_ins_limited.clone());
        common.register("clients_closed", "Client connections closed, by kind and reason", all.closed.clone());
        common.register("kicked", "Client connections told to leave", all.kicked.clone());
        common.register("kicks_answered", "Kicks by an older sign-in than the one here", all.kicks_answered.clone());
        common.register("presence_changes", "Changes of presence gathered", all.presence_changes.clone());
        common.register("presence_writes", "Writes of gathered changes to clients", all.presence_writes.clone());
        common.register("watches_refused", "Users not watched for their number", all.watches_refused.clone());
        common.register("requests", "Requests of signed-in clients", all.requests.clone());
        common.register("rate_pauses", "Times a client over its rate was not read", all.paused.clone());
        common.register("requests_ignored", "Requests without answer, by reason", all.ignored.clone());
        common.register("messages_refused", "Messages not accepted, by reason", all.refused.clone());
        common.register("unanswered", "Requests another server did not answer", all.unanswered.clone());
        common.register("lists_cut", "Questions with more ids than are answered", all.lists_cut.clone());
        common.register("messages_acked", "Messages stored and acknowledged", all.acked.clone());
        common.register("messages_repeated", "Messages stored and delivered before", all.repeated.clone());
        common.register("messages_repeats", "Messages sent to the store again on a failed link", all.repeats.clone());
        common.register("copies", "Copies of messages sent to clients", all.copies.clone());
        common.register("copies_missed", "Copies not acknowledged in 15 s", all.copies_missed.clone());
        common.register("relays_resent", "Messages relayed again after a route loss", all.relays_resent.clone());
        common.register("gaps", "Times messages of a conversation were missing", all.gaps.clone());
        common.register("messages_recovered", "Messages fetched for a lost relay", all.recovered.clone());
        common.register("gaps_unfilled", "Lost messages the store did not answer for", all.gaps_unfilled.clone());
        common.register(
            "group_messages_missed",
            "Group messages not delivered here",
            all.group_messages_missed.clone(),
        );
        common.register("relays_dropped", "PDUs for other msg servers without a route", all.relays_dropped.clone());
        common.register("signals", "Signals between clients, handed to one", all.signals.clone());
        common.register("card_writes", "Writes to clients with notices of changed cards", all.card_writes.clone());
        common.register(
            "card_changes_refused",
            "Signature lines and pictures not changed for their number",
            all.card_changes_refused.clone(),
        );
        all
    }

    /// Shows how many are here.
    pub(crate) fn show(&self, clients: &Clients) {
        self.connections.set(i64::try_from(clients.connections()).unwrap_or(i64::MAX));
        self.users.set(i64::try_from(clients.users()).unwrap_or(i64::MAX));
    }

    /// Counts a PDU from a client.
    pub(crate) fn received(&self, pdu: &PduRef<'_>) {
        self.pdus.received(pdu.header.command, pdu.header.length as usize);
    }

    /// Queues a PDU for a client and counts it. A connection that is closing has no
    /// use for it; one that does not read is closed by its output limit.
    pub(crate) fn send(&self, conn: &Conn, pdu: Bytes) {
        let (command, len) = (PduRef::parse(&pdu).map_or(0, |pdu| pdu.header.command), pdu.len());
        if conn.send(pdu).is_ok() {
            self.pdus.sent(command, len);
        }
    }

    /// Queues `count` notices of presence, encoded one behind the other, as one write.
    pub(crate) fn send_notices(&self, conn: &Conn, notices: Bytes, count: u64) {
        let len = notices.len();
        if conn.send(notices).is_ok() {
            self.pdus.sent_many(Command::UserStatNotify.id(), count, len);
            self.presence_writes.inc();
        }
    }

    pub(crate) fn sign_in(&self, result: ResultType) {
        count(&self.sign_ins, result.as_str_name());
    }

    /// A sign-in too many, of an address or of a user.
    pub(crate) fn sign_ins_limited(&self, whose: &'static str) {
        count(&self.sign_ins_limited, whose);
    }

    pub(crate) fn closed(&self, client: &'static str, reason: &CloseReason) {
        // Our own refusals are told apart; their texts are constants.
        let reason = match reason {
            CloseReason::Refused(why) => why,
            other => other.label(),
        };
        self.closed.get_or_create(&Closed { client, reason }).inc();
    }

    pub(crate) fn ignored(&self, why: &'static str) {
        count(&self.ignored, why);
    }

    pub(crate) fn refused(&self, why: &'static str) {
        count(&self.refused, why);
    }

    pub(crate) fn unanswered(&self, why: &'static str) {
        count(&self.unanswered, why);
    }
}

fn count(family: &Labelled, kind: &'static str) {
    family.get_or_create(&Label { kind }).inc();
}
