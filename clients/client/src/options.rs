//! What a session needs to know before it starts, and what it reports while it lives.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tt_proto::im::base_define::ClientType;
use tt_proto::password;

use crate::{Error, GroupChange, Message, Peer, Presence, ServerUrl, Signal, User};

/// A user may have one session of each class; signing in again with the same class ends the
/// earlier one (spec/wire.md §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientClass {
    /// Desktop clients. Only they count as online.
    Pc,
    /// Mobile clients.
    Mobile,
}

impl ClientClass {
    /// The client type that stands for the class in the sign-in.
    pub(crate) fn client_type(self) -> ClientType {
        match self {
            Self::Pc => ClientType::ClientTypeWindows,
            Self::Mobile => ClientType::ClientTypeAndroid,
        }
    }
}

/// Who signs in where, and how patient the session is.
#[derive(Clone)]
pub struct Options {
    /// The login server.
    pub server: ServerUrl,
    /// The login name.
    pub user: String,
    /// The password's digest, as it goes over the wire.
    digest: String,
    /// As which class of client.
    pub class: ClientClass,
    /// What this device calls itself, the same at each sign-in: push tokens are kept per device.
    /// At most 64 bytes; none for a device that needs no name.
    pub device_id: Option<String>,
    /// To be told of everybody who comes or goes with a desktop client, as clients of 2015 are. Else the session
    /// is told of the users whose status it has asked for, of phones and absence too (presence v2).
    pub presence_of_all: bool,
    /// Whether to connect again, without end, when the connection is lost or cannot be made.
    pub reconnect: bool,
    /// The first pause before connecting again; it doubles up to [`Options::longest_retry`], with
    /// 20 % of jitter either way.
    pub first_retry: Duration,
    /// The longest pause before connecting again.
    pub longest_retry: Duration,
    /// The limit of one attempt: discovery, connect and sign-in together.
    pub login_timeout: Duration,
    /// The default limit of a request.
    pub request_timeout: Duration,
    /// The message server to connect to, without asking the login server for one.
    pub message_server: Option<SocketAddr>,
    /// The address of this machine to connect to the message server from; None leaves it to the
    /// system.
    pub local_address: Option<IpAddr>,
}

impl Options {
    /// Options with the usual limits: one attempt 15 s, one request 8 s, no reconnect; with it,
    /// pauses from 3 s to 60 s (spec/gaps.md §8).
    pub fn new(server: ServerUrl, user: &str, password: &str, class: ClientClass) -> Self {
        Self {
            server,
            user: user.to_owned(),
            digest: password::wire_digest(password),
            class,
            device_id: None,
            presence_of_all: false,
            reconnect: false,
            first_retry: Duration::from_secs(3),
            longest_retry: Duration::from_mins(1),
            login_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(8),
            message_server: None,
            local_address: None,
        }
    }

    /// With automatic reconnection.
    pub fn reconnecting(mut self) -> Self {
        self.reconnect = true;
        self
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

impl std::fmt::Debug for Options {
    /// Without the digest: it is as good as the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("server", &self.server)
            .field("user", &self.user)
            .field("class", &self.class)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

/// How fast the server reads messages from a session, as it says at the sign-in. Over it nothing is
/// lost: the connection is not read for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimit {
    /// Messages a second in the long run.
    pub per_second: u32,
    /// Messages at once.
    pub burst: u32,
}

/// What happens in a session without having been asked for.
#[derive(Debug, Clone)]
pub enum Event {
    /// Signed in, for the first time or again after [`Event::Offline`].
    Online {
        /// The user's own card.
        me: User,
    },
    /// The connection could not be made or was lost; only in sessions that reconnect.
    Offline {
        /// Why.
        error: Error,
        /// When the next attempt begins.
        retry_in: Duration,
    },
    /// A message arrived: from somebody else, or one's own from another device. Each comes once.
    Message(Message),
    /// Another device of this user has read a conversation.
    Read {
        /// Which one.
        conversation: Peer,
        /// Up to this message.
        msg_id: u32,
    },
    /// Another device of this user took a conversation off the recent list.
    SessionRemoved {
        /// Which one.
        conversation: Peer,
    },
    /// A signal from another client, such as "is typing": somebody's to this user, or this user's
    /// own from another device. Signals are not kept; who is not online does not get them.
    Signal {
        /// Who sent it; the server vouches for it.
        from: u32,
        /// To whom.
        to: u32,
        /// What it says.
        signal: Signal,
    },
    /// Somebody has a new signature line.
    Signature {
        /// Who.
        user_id: u32,
        /// The line.
        text: String,
    },
    /// Somebody has a new picture.
    Avatar {
        /// Who.
        user_id: u32,
        /// Its URL, or path on the picture server.
        url: String,
    },
    /// This user's desktop client came or went; only mobile clients are told.
    OwnPc {
        /// Whether one is signed in.
        online: bool,
    },
    /// The members of a group have changed. Comes to those who are in it and to those who were.
    Group(GroupChange),
    /// Somebody came or went: one whose status was asked for, or anybody with [`Options::presence_of_all`] and
    /// from an old server.
    Presence {
        /// Who.
        user_id: u32,
        /// The new state.
        presence: Presence,
    },
    /// The session has ended and will do nothing more. Always the last event, and always sent.
    Closed(Error),
}
