//! What each command does. A handler reads its request, says what it touches, and hands the store's
//! part over as a closure; the answer echoes the request's sequence number and its routing cookie
//! byte for byte.
//!
//! Answers are bound for clients, so lists are cut to fit [`MAX_TO_CLIENT`]: sessions and unread
//! counts lose their oldest rows, the address book goes on at the next pull (`address_book.rs`).

mod account;
mod address_book;
mod devices;
mod groups;
mod messages;
mod sessions;
mod sign_in;

use std::sync::LazyLock;

use bytes::Bytes;
use netlib::Context;
use tt_common::Link;
use tt_proto::content::{Content, Kind};
use tt_proto::im::base_define::SessionType;
use tt_proto::pdu::{self, MAX_TO_CLIENT, PduRef};
use tt_proto::{Body, Command, cipher};

use crate::lanes::{Access, Conversation};
use crate::server::{Answer, Server};
use crate::store::{Applied, MessageKind, Peer, Preview, Store, StoreError, Write};
use crate::writer::WriteError;

/// A command's handler.
type Handler = fn(&mut Request<'_>);

/// The table.
fn handler(command: Command) -> Option<Handler> {
    Some(match command {
        Command::ValidateReq => sign_in::validate,
        Command::DeviceTokenReq => devices::token,
        Command::GetDeviceTokenReq => devices::tokens,
        Command::PushShieldReq => account::push_shield,
        Command::QueryPushShieldReq => account::query_push_shield,
        Command::ChangeSignInfoReq => account::sign_info,
        Command::ChangeAvatarReq => account::avatar,
        Command::AllUserReq => address_book::all_users,
        Command::UsersInfoReq => address_book::users_info,
        Command::DepartmentReq => address_book::departments,
        Command::RecentContactSessionReq => sessions::recent,
        Command::UnreadMsgCntReq => sessions::unread,
        Command::RemoveSessionReq => sessions::remove,
        Command::MsgData => messages::send,
        Command::MsgDataReadAck => messages::read,
        Command::GetMsgListReq => messages::list,
        Command::GetMsgByIdReq => messages::by_id,
        Command::GetLatestMsgIdReq => messages::latest_id,
        Command::NormalGroupListReq => groups::list,
        Command::GroupInfoListReq => groups::info,
        Command::GroupCreateReq => groups::create,
        Command::GroupChangeMemberReq => groups::change,
        Command::GroupShieldReq => groups::shield,
        Command::GroupGetShieldReq => groups::shields,
        _ => return None,
    })
}

/// Handles a PDU from a link. A command that is not in the table is counted, logged and ignored.
pub(crate) fn handle(server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, pdu: PduRef<'_>) {
    let handler = Command::try_from(pdu.header.command).ok().and_then(handler);
    match handler {
        Some(handler) => handler(&mut Request { server, cx, link, pdu }),
        None => link.ignore(cx, pdu),
    }
}

/// A request and what it takes to answer it.
struct Request<'a> {
    server: &'a mut Server,
    cx: &'a mut Context<Server>,
    link: &'a Link<Server>,
    pdu: PduRef<'a>,
}

impl Request<'_> {
    /// The body; one that does not parse is counted and logged, and has no answer.
    fn body<M: Body>(&self) -> Option<M> {
        let body = self.pdu.decode().ok();
        if body.is_none() {
            self.link.malformed(self.cx, self.pdu);
        }
        body
    }

    fn seq(&self) -> u16 {
        self.pdu.header.seq
    }

    /// Asks the store; silence where it has no answer, because these answers have no place for a
    /// failure.
    fn query<R: Body>(
        &mut self,
        access: Access,
        query: impl FnOnce(&dyn Store) -> Result<R, StoreError> + Send + 'static,
    ) {
        self.query_or(access, query, None);
    }

    /// Asks the store; `otherwise` is the answer where it has none.
    fn query_or<R: Body>(
        &mut self,
        access: Access,
        query: impl FnOnce(&dyn Store) -> Result<R, StoreError> + Send + 'static,
        otherwise: Option<&R>,
    ) {
        let seq = self.seq();
        let otherwise = otherwise.map(|answer| pdu::encode(seq, answer));
        // Encoding is the worker's work too.
        let query = Box::new(move |store: &dyn Store| query(store).map(|answer| pdu::encode(seq, &answer)));
        self.server.query(self.cx, self.link, access, query, otherwise);
    }

    /// The body, if a user stands in it: user 0 is nobody, and no client's.
    fn body_of_user<M: Body>(&self, user: impl FnOnce(&M) -> u32) -> Option<M> {
        let body = self.body::<M>()?;
        if user(&body) == 0 {
            self.link.ignore(self.cx, self.pdu);
            return None;
        }
        Some(body)
    }

    /// Changes what a user has alone; `answer` makes one of whether that was done.
    fn change<R: Body>(&mut self, user: u32, change: Write, answer: impl FnOnce(bool) -> R + 'static) {
        let seq = self.seq();
        let answer = move |server: &mut Server, outcome: Result<Applied, WriteError>| {
            let done = matches!(outcome, Ok(Applied::Changed));
            if let Err(error) = outcome {
                server.metrics.not_changed(match error {
                    WriteError::Overloaded(_) => "overloaded",
                    WriteError::Store(StoreError::Refused(_)) => "refused",
                    WriteError::Store(_) => "store failed",
                });
            }
            Some(pdu::encode(seq, &answer(done)))
        };
        self.write(Conversation::own(user), change, Box::new(answer));
    }

    fn write(&mut self, conversation: Conversation, write: Write, answer: Answer) {
        self.server.write(self.cx, self.link, conversation, write, answer);
    }

    /// Answers at once.
    fn reply<R: Body>(&self, answer: &R) {
        if let Err(error) = self.link.send(self.seq(), answer) {
            log::debug!("link with {}: an answer was dropped: {error}", self.link);
        }
    }

    /// The other end of a session and their conversation; unknown kinds of session are ignored
    /// as unknown commands are.
    fn conversation(&self, session_type: i32, user: u32, id: u32) -> Option<(Peer, Conversation)> {
        let Ok(kind) = SessionType::try_from(session_type) else {
            self.link.ignore(self.cx, self.pdu);
            return None;
        };
        let peer = peer(kind, id);
        Some((peer, Conversation::of(user, peer)))
    }
}

/// Keeps as many items of a list as an answer has room for.
fn cut<R: Body, T: prost::Message>(answer: &R, mut items: Vec<T>) -> Vec<T> {
    items.truncate(pdu::fit(answer, &items, MAX_TO_CLIENT));
    items
}

/// What a user calls the other end of a conversation.
fn session(peer: Peer) -> (SessionType, u32) {
    match peer {
        Peer::User(id) => (SessionType::SessionTypeSingle, id),
        Peer::Group(id) => (SessionType::SessionTypeGroup, id),
    }
}

fn peer(kind: SessionType, id: u32) -> Peer {
    match kind {
        SessionType::SessionTypeSingle => Peer::User(id),
        SessionType::SessionTypeGroup => Peer::Group(id),
    }
}

fn msg_type(peer: Peer, kind: MessageKind) -> i32 {
    let content = match kind {
        MessageKind::Text => Content::Text,
        MessageKind::Voice => Content::Voice,
    };
    Kind { session: session(peer).0, content }.to_wire().into()
}

/// What the store keeps a message's body as.
fn message_kind(content: Content) -> MessageKind {
    match content {
        Content::Text => MessageKind::Text,
        Content::Voice => MessageKind::Voice,
    }
}

/// What a list shows of a message: the text, or for voice a text that says so.
fn preview_data(preview: &Preview) -> Bytes {
    match preview.kind {
        MessageKind::Text => preview.text.clone(),
        MessageKind::Voice => VOICE.clone(),
    }
}

/// "Voice", in brackets, in the language of the clients, enciphered as they expect every text to be.
static VOICE: LazyLock<Bytes> = LazyLock::new(|| {
    let cipher = cipher::Cipher::new(cipher::DEFAULT_KEY);
    cipher.encrypt("[语音]".as_bytes()).map_or_else(|_| Bytes::new(), Bytes::from)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voice_previews_read_as_the_recorded_ones() {
        assert_eq!(*VOICE, "QhGXlpFjvMFUNrtl1aaPzA==");
    }
}
