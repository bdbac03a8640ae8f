//! What a chat message may carry: the four kinds of [`MsgType`] taken apart, and the rules for their bodies.
//! Every server on a message's way holds it to the same rules, and so does a client before it sends.
//!
//! A text is base64 of the message cipher and is taken as it comes: who has another key may use it. A voice
//! message is a duration in seconds, [`VOICE_HEADER`] bytes in big-endian, and a recording in a format that only
//! clients know; servers keep it whole and give it back whole (spec/storage.md §9).

use crate::im::base_define::{MsgType, SessionType};
use crate::pdu::{MAX_TEXT, MAX_VOICE};

/// Bytes of a voice message before the recording: its duration.
pub const VOICE_HEADER: usize = 4;

/// A [`MsgType`], taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Whether it is for one user or for a group.
    pub session: SessionType,
    /// Text or voice.
    pub content: Content,
}

/// What kind of body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Enciphered text.
    Text,
    /// A duration and a recording.
    Voice,
}

/// Why a message can be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No such [`MsgType`].
    #[error("unknown kind")]
    UnknownKind,
    /// Nothing in it.
    #[error("empty")]
    Empty,
    /// A voice message of a duration and nothing else, or not even that.
    #[error("no recording")]
    NoRecording,
    /// Above [`MAX_TEXT`] or [`MAX_VOICE`].
    #[error("too large")]
    TooLarge,
}

impl Unfit {
    /// The same as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownKind => "unknown kind",
            Self::Empty => "empty",
            Self::NoRecording => "no recording",
            Self::TooLarge => "too large",
        }
    }
}

impl Kind {
    /// The kind of a number on the wire.
    pub fn from_wire(msg_type: i32) -> Option<Self> {
        let (session, content) = match MsgType::try_from(msg_type).ok()? {
            MsgType::MsgTypeSingleText => (SessionType::SessionTypeSingle, Content::Text),
            MsgType::MsgTypeSingleAudio => (SessionType::SessionTypeSingle, Content::Voice),
            MsgType::MsgTypeGroupText => (SessionType::SessionTypeGroup, Content::Text),
            MsgType::MsgTypeGroupAudio => (SessionType::SessionTypeGroup, Content::Voice),
        };
        Some(Self { session, content })
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> MsgType {
        match (self.session, self.content) {
            (SessionType::SessionTypeSingle, Content::Text) => MsgType::MsgTypeSingleText,
            (SessionType::SessionTypeSingle, Content::Voice) => MsgType::MsgTypeSingleAudio,
            (SessionType::SessionTypeGroup, Content::Text) => MsgType::MsgTypeGroupText,
            (SessionType::SessionTypeGroup, Content::Voice) => MsgType::MsgTypeGroupAudio,
        }
    }
}

/// The kind of a message, if number and body make one.
///
/// # Errors
/// What is wrong with it.
///
/// ```
/// use tt_proto::content::{Content, Unfit, check};
///
/// assert_eq!(check(1, b"QhGXlpFjvMFUNrtl1aaPzA==").map(|kind| kind.content), Ok(Content::Text));
/// assert_eq!(check(2, b"\0\0\0\x05"), Err(Unfit::NoRecording));
/// ```
pub fn check(msg_type: i32, body: &[u8]) -> Result<Kind, Unfit> {
    let kind = Kind::from_wire(msg_type).ok_or(Unfit::UnknownKind)?;
    if body.is_empty() {
        return Err(Unfit::Empty);
    }
    let (least, most) = match kind.content {
        Content::Text => (1, MAX_TEXT),
        Content::Voice => (VOICE_HEADER + 1, MAX_VOICE),
    };
    if body.len() < least {
        return Err(Unfit::NoRecording);
    }
    if body.len() > most {
        return Err(Unfit::TooLarge);
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_and_its_number_are_the_same() {
        for number in 0..=0x20 {
            let kind = Kind::from_wire(number);
            assert_eq!(kind.is_some(), matches!(number, 1 | 2 | 17 | 18), "{number}");
            assert!(kind.is_none_or(|kind| kind.to_wire() as i32 == number));
        }
    }

    #[test]
    fn each_limit_holds_to_the_byte() {
        let fits = |msg_type, len: usize| check(msg_type, &vec![b'x'; len]).map(drop);
        for text in [1, 17] {
            assert_eq!(fits(text, 0), Err(Unfit::Empty));
            assert_eq!(fits(text, 1), Ok(()));
            assert_eq!(fits(text, MAX_TEXT), Ok(()));
            assert_eq!(fits(text, MAX_TEXT + 1), Err(Unfit::TooLarge));
        }
        for voice in [2, 18] {
            assert_eq!(fits(voice, 0), Err(Unfit::Empty));
            assert_eq!(fits(voice, VOICE_HEADER), Err(Unfit::NoRecording));
            assert_eq!(fits(voice, VOICE_HEADER + 1), Ok(()));
            assert_eq!(fits(voice, MAX_VOICE), Ok(()));
            assert_eq!(fits(voice, MAX_VOICE + 1), Err(Unfit::TooLarge));
        }
        assert_eq!(fits(3, 1), Err(Unfit::UnknownKind));
    }
}
