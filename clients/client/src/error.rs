//! What can go wrong for a client, told so that a person knows what to do next. Every call of
//! this library fails with an [`Error`]; the variant says whose fault it is and the text names
//! the address and the step.

use std::time::Duration;

use tt_proto::im::base_define::{KickReasonType, ResultType};

/// Why a call, or a whole session, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server knows no such user with this password. Trying again with the same password is useless.
    #[error("wrong user name or password (the server says: {text})")]
    WrongPassword {
        /// The server's own words.
        text: String,
    },
    /// Nobody answers at an address, or the connection was lost.
    #[error("{what}")]
    Unreachable {
        /// What was tried at which address, why it failed and what to check.
        what: String,
    },
    /// The other side is there, but the answer did not come in time. A message whose
    /// acknowledgement is missing may still have been stored.
    #[error("no answer to {what} within {} s", .after.as_secs_f32())]
    Timeout {
        /// The step that waited.
        what: &'static str,
        /// How long it waited.
        after: Duration,
    },
    /// The server answered no.
    #[error("the server refused {what}: {text} (code {code})")]
    Refused {
        /// The step that was refused.
        what: &'static str,
        /// The result code of the reply.
        code: u32,
        /// The server's words, or what the code stands for.
        text: String,
    },
    /// The server ended this session in favour of another one.
    #[error("{0}")]
    Kicked(KickReason),
    /// The other side sent something that this protocol does not have.
    #[error("unexpected bytes from the server: {0}")]
    Protocol(String),
    /// The request could never be carried out; it was not sent.
    #[error("{0}")]
    Invalid(String),
    /// The session has ended because this side closed it.
    #[error("the session is closed")]
    Closed,
}

/// Why the server ended a session (spec/messages.md, `KickReasonType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KickReason {
    /// The same user signed in with another client of the same class.
    SignedInElsewhere,
    /// The user ended the desktop session from a mobile client.
    ByOwnMobile,
    /// A reason this library does not know.
    Other(i32),
}

impl KickReason {
    pub(crate) fn from_wire(code: i32) -> Self {
        match KickReasonType::try_from(code) {
            Ok(KickReasonType::KickReasonDuplicateUser) => Self::SignedInElsewhere,
            Ok(KickReasonType::KickReasonMobileKick) => Self::ByOwnMobile,
            Err(_) => Self::Other(code),
        }
    }
}

impl std::fmt::Display for KickReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SignedInElsewhere => {
                f.write_str("signed out: the same user signed in with another client of the same class")
            }
            Self::ByOwnMobile => f.write_str("signed out by the user's own mobile client"),
            Self::Other(code) => write!(f, "signed out by the server (reason {code})"),
        }
    }
}

impl Error {
    /// Whether trying again later can help without anybody changing anything on this side.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Refused { .. } | Self::Protocol(_))
    }

    /// The error of a sign-in that ended with `code` (spec/messages.md, `ResultType`).
    pub(crate) fn from_login(code: i32, text: &str) -> Self {
        /// What servers say when they failed themselves. A failing store and a wrong password
        /// share their code, so only the text tells them apart (spec/flows.md §3.1).
        const SERVER_FAULT: &str = "服务端异常";
        /// What a message server says when it is not full but asked too often.
        const TOO_OFTEN: &str = "登录过于频繁，请稍后再试";
        const WHAT: &str = "the sign-in";
        let explained = |default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let text = match ResultType::try_from(code) {
            Ok(ResultType::RefuseReasonDbValidateFailed) if text == SERVER_FAULT => {
                "the server could not check the password, try again later".to_owned()
            }
            Ok(ResultType::RefuseReasonDbValidateFailed) => {
                return Self::WrongPassword { text: explained("no reason given") };
            }
            Ok(ResultType::RefuseReasonNoDbServer) => "no database proxy is connected to the message server".to_owned(),
            Ok(ResultType::RefuseReasonNoLoginServer) => {
                "no login server is connected to the message server".to_owned()
            }
            Ok(ResultType::RefuseReasonNoRouteServer) => {
                "no route server is connected to the message server".to_owned()
            }
            Ok(ResultType::RefuseReasonMsgServerFull) if text == TOO_OFTEN => {
                "too many sign-ins of this user or from this address at once (limits.user_sign_ins_per_minute, \
                 limits.address_sign_ins_per_second of the message server); try again later"
                    .to_owned()
            }
            Ok(ResultType::RefuseReasonMsgServerFull) => "the message server is full".to_owned(),
            Ok(ResultType::RefuseReasonVersionTooOld) => "this client is too old".to_owned(),
            _ => explained("no reason given"),
        };
        Self::Refused { what: WHAT, code: code as u32, text }
    }

    /// The error of a send whose acknowledgement carried `code` (spec/gaps.md §6).
    pub(crate) fn from_ack(code: u32) -> Self {
        let text = match code {
            1 => "it could not be stored",
            2 => "too many messages at once",
            3 => "not allowed by policy",
            4 => "muted",
            5 => "the message is too large",
            6 => "its message id was already used for another content",
            7 => "the server is overloaded, try again later",
            _ => "no reason given",
        };
        Self::Refused { what: "the message", code, text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_validation_is_a_wrong_password_and_a_missing_peer_is_not() {
        assert!(matches!(Error::from_login(6, "nope"), Error::WrongPassword { .. }));
        assert!(matches!(Error::from_login(3, ""), Error::Refused { code: 3, .. }));
        assert!(!Error::from_login(6, "nope").is_transient());
        assert!(Error::from_login(6, "服务端异常").is_transient(), "a failing store is no wrong password");
        assert!(Error::from_login(4, "").is_transient());
    }
}
