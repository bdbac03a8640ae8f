//! The few verbs that every test of a store needs.

#![allow(dead_code)] // not each test needs all of them

use bytes::Bytes;
use tt_db_proxy::store::{
    Accounts, Applied, Message, MessageKind, NewMessage, NewUser, Peer, Store, StoreError, Write,
};
use tt_proto::password::wire_digest;

/// Adds an account whose password is its name.
pub(crate) fn user(store: &(impl Accounts + ?Sized), name: &str) -> u32 {
    let user = NewUser { name: name.to_owned(), wire_digest: wire_digest(name), ..NewUser::default() };
    store.add_user(&user).expect("a new account")
}

/// A text message.
pub(crate) fn text(from: u32, to: u32, content: &str) -> NewMessage {
    NewMessage {
        from,
        to: Peer::User(to),
        created: 1_700_000_000,
        kind: MessageKind::Text,
        content: Bytes::copy_from_slice(content.as_bytes()),
        client_msg_id: None,
    }
}

/// Applies one write.
pub(crate) fn apply(store: &(impl Store + ?Sized), write: Write) -> Result<Applied, StoreError> {
    let mut answers = store.apply(&[write]);
    assert_eq!(answers.len(), 1, "one answer per member");
    answers.remove(0)
}

/// Stores one message and returns its id.
pub(crate) fn send(store: &(impl Store + ?Sized), message: NewMessage) -> u32 {
    match apply(store, Write::Message(message)) {
        Ok(Applied::Message { msg_id, .. }) => msg_id,
        other => panic!("not stored: {other:?}"),
    }
}

/// The ids of a page.
pub(crate) fn ids(page: &[Message]) -> Vec<u32> {
    page.iter().map(|message| message.msg_id).collect()
}
