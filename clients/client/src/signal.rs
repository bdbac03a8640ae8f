//! Signals between clients and their spelling on the wire: JSON of three members that the published
//! clients agreed on (spec/flows.md §13). The servers do not read it.

use serde_json::{Value, json};

/// What one client tells another in passing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// The user is typing.
    Typing,
    /// The user has stopped typing without sending anything.
    StoppedTyping,
    /// "Look here": clients shake their window.
    Shake,
    /// Something else, as it came.
    Other(String),
}

/// `service_id` and `cmd_id` of the signals that the published clients know.
const SHAKE: (u64, u64) = (1, 0x1_0001);
const TYPING: (u64, u64) = (2, 0x2_0001);
const STOPPED: (u64, u64) = (2, 0x2_0002);

impl Signal {
    pub(crate) fn to_wire(&self) -> String {
        let (service, command) = match self {
            Self::Typing => TYPING,
            Self::StoppedTyping => STOPPED,
            Self::Shake => SHAKE,
            Self::Other(data) => return data.clone(),
        };
        json!({ "cmd_id": command, "content": "", "service_id": service }).to_string()
    }

    /// Never fails: what is not known is [`Signal::Other`].
    pub(crate) fn from_wire(data: &str) -> Self {
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        match (value["service_id"].as_u64(), value["cmd_id"].as_u64()) {
            (Some(service), Some(command)) if (service, command) == SHAKE => Self::Shake,
            (Some(service), Some(command)) if (service, command) == TYPING => Self::Typing,
            (Some(service), Some(command)) if (service, command) == STOPPED => Self::StoppedTyping,
            _ => Self::Other(data.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reads_as_it_was_written() {
        let other = Signal::Other("anything \u{1f642}".to_owned());
        for signal in [Signal::Typing, Signal::StoppedTyping, Signal::Shake, other] {
            assert_eq!(Signal::from_wire(&signal.to_wire()), signal);
        }
        assert_eq!(Signal::Typing.to_wire(), r#"{"cmd_id":131073,"content":"","service_id":2}"#);
    }

    #[test]
    fn what_is_no_signal_of_ours_stays_as_it_is() {
        for data in ["", "[1]", "{\"service_id\":-1}", "{\"service_id\":2,\"cmd_id\":\"131073\"}", &"[".repeat(5_000)] {
            assert_eq!(Signal::from_wire(data), Signal::Other(data.to_owned()));
        }
    }
}
