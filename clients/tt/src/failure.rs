//! How a run can fail: one line for the person, one exit status for the script. The numbers are
//! part of the command's interface and listed in `tt --help`.

use std::io;
use std::process::ExitCode;

use tt_client::Error;

use crate::text;

/// Why tt ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// The way it was called cannot work.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { status: 2, message: message.into() }
    }

    /// Anything without a status of its own.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self { status: 1, message: message.into() }
    }

    /// Whoever read the output has gone, as `head` does: nothing is wrong and nothing is said.
    pub(crate) fn reader_gone() -> Self {
        Self { status: 0, message: String::new() }
    }

    /// Not enough happened within the time that the person gave.
    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self { status: 5, message: message.into() }
    }

    /// The server ended the session in favour of another one.
    pub(crate) fn is_signed_out(&self) -> bool {
        self.status == 7
    }

    /// With what the person can do about it.
    pub(crate) fn advise(mut self, advice: &str) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    /// Part of it may be a server's words.
    fn shown(&self) -> String {
        text::printable(&self.message, true)
    }

    /// Tells the person and returns the status.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("tt: {}", self.shown());
        }
        ExitCode::from(self.status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid(_) => 2,
            Error::WrongPassword { .. } => 3,
            Error::Unreachable { .. } => 4,
            Error::Timeout { .. } => 5,
            Error::Refused { .. } => 6,
            Error::Kicked(_) => 7,
            Error::Protocol(_) | Error::Closed => 1,
        };
        Self { status, message: error.to_string() }
    }
}

impl From<io::Error> for Failure {
    /// Of writing the output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reader_gone(),
            _ => Self::other(format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tt_client::KickReason;

    #[test]
    fn a_servers_words_do_not_command_the_terminal() {
        let failure = Failure::from(Error::WrongPassword { text: "no\u{1b}]0;owned\u{7}".to_owned() });
        assert_eq!(failure.shown(), "wrong user name or password (the server says: no\u{fffd}]0;owned\u{fffd})");
    }

    #[test]
    fn each_kind_of_error_has_its_exit_status() {
        let status = |error: Error| Failure::from(error).status;
        assert_eq!(status(Error::WrongPassword { text: String::new() }), 3);
        assert_eq!(status(Error::Unreachable { what: String::new() }), 4);
        assert_eq!(status(Error::Timeout { what: "", after: Duration::ZERO }), 5);
        assert_eq!(status(Error::Refused { what: "", code: 1, text: String::new() }), 6);
        assert_eq!(status(Error::Kicked(KickReason::SignedInElsewhere)), 7);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).status, 0);
    }
}
