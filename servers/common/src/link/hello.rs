//! The greeting that opens a server link (0x07f0, spec/gaps.md §0.6): who each side is.
//!
//! Both sides send it first. It is an extension: the recorded servers skip it, and a peer that stays silent
//! for two seconds or says something else first is taken for one of those.

use std::fmt;

use tt_proto::im::extension::ImLinkHello;

/// The kinds of servers. The numbers go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum LinkRole {
    /// Directory of msg servers.
    Login = 1,
    /// Where clients are connected.
    Msg = 2,
    /// Presence and forwarding between msg servers.
    Route = 3,
    /// The store.
    DbProxy = 4,
    /// File transfer.
    File = 5,
    /// Group administration over HTTP.
    HttpMsg = 6,
    /// Mobile push.
    Push = 7,
    /// Calls.
    Video = 8,
}

/// The capability of a msg server that hears of phones and absence too, and knows what of it old clients may
/// see (presence v2, spec/gaps.md §5).
pub const CAPABILITY_PRESENCE: u64 = 1 << 11;

impl LinkRole {
    const ALL: [Self; 8] =
        [Self::Login, Self::Msg, Self::Route, Self::DbProxy, Self::File, Self::HttpMsg, Self::Push, Self::Video];

    /// The name on command lines, in logs and in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Msg => "msg",
            Self::Route => "route",
            Self::DbProxy => "db-proxy",
            Self::File => "file",
            Self::HttpMsg => "http-msg",
            Self::Push => "push",
            Self::Video => "video",
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|role| *role as u32 == number)
    }
}

impl fmt::Display for LinkRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who a server says it is on its links.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What kind of server it is.
    pub role: LinkRole,
    /// Names the server across restarts, so that its peers know it again. At most [`MAX_SERVER_ID`] bytes.
    pub server_id: String,
    /// Differs at each start.
    pub instance: u64,
    /// The extensions it understands, a bit set.
    pub capabilities: u64,
}

impl Identity {
    /// An identity with a fresh instance number and no capabilities.
    pub fn new(role: LinkRole, server_id: impl Into<String>) -> Self {
        Self { role, server_id: server_id.into(), instance: rand::random(), capabilities: 0 }
    }

    /// The greeting for one connection. The nonce is what a later proof of the cluster secret answers to, so
    /// it is fresh and unpredictable.
    pub(super) fn hello(&self) -> ImLinkHello {
        ImLinkHello {
            role: Some(self.role as u32),
            server_id: Some(self.server_id.clone()),
            instance: Some(self.instance),
            capabilities: Some(self.capabilities),
            nonce: Some(rand::random::<[u8; 16]>().to_vec().into()),
        }
    }
}

/// The longest server id that is taken from a peer, in bytes; the rest is cut off.
pub const MAX_SERVER_ID: usize = 64;

/// What a peer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// What kind of server it is; None for a kind that this version does not know.
    pub role: Option<LinkRole>,
    /// Names it across its restarts; empty if it did not say.
    pub server_id: String,
    /// Differs at each of its starts.
    pub instance: u64,
    /// The extensions it understands, a bit set.
    pub capabilities: u64,
}

impl PeerInfo {
    pub(super) fn from_hello(hello: ImLinkHello) -> Self {
        // Printed in logs: no control characters, and no more than a line holds.
        let server_id = hello.server_id.unwrap_or_default();
        let server_id = server_id.chars().filter(|c| !c.is_control()).take(MAX_SERVER_ID).collect();
        Self {
            role: hello.role.and_then(LinkRole::from_number),
            server_id,
            instance: hello.instance.unwrap_or_default(),
            capabilities: hello.capabilities.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_understood_by_the_other_side() {
        let identity = Identity { capabilities: 5, ..Identity::new(LinkRole::DbProxy, "db-1") };
        let peer = PeerInfo::from_hello(identity.hello());
        assert_eq!(peer.role, Some(LinkRole::DbProxy));
        assert_eq!((peer.server_id.as_str(), peer.instance, peer.capabilities), ("db-1", identity.instance, 5));
        assert_ne!(identity.hello().nonce, identity.hello().nonce, "each connection has its own nonce");
    }

    #[test]
    fn nonsense_in_a_greeting_is_harmless() {
        let hello = ImLinkHello { role: Some(99), server_id: Some("a\nb".repeat(100)), ..ImLinkHello::default() };
        let peer = PeerInfo::from_hello(hello);
        assert_eq!(peer.role, None);
        assert_eq!(peer.server_id.len(), MAX_SERVER_ID);
        assert!(!peer.server_id.contains('\n'));
    }
}
