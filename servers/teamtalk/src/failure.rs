//! What a command that could not do its work says and returns: one line on standard error
//! ("teamtalk: what, on what, what to do") and an exit code that a script can tell apart.

use std::{error::Error, fmt, process::ExitCode};

use tt_common::{bind::BindError, config::ConfigError, role::RoleError};
use tt_db_proxy::store::{Refusal, StoreError, embedded::OpenError};

/// The exit codes, as `--help` prints them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped cleanly
  1  something else went wrong; the line on standard error says what
  2  the command line is wrong
  3  a port cannot be had
  4  the data directory is in use by another process
  5  the data directory cannot be used: read-only, full, damaged, somebody else's
  6  the configuration is wrong
  7  no such account, or the name or password is not acceptable
  8  a measurement found a promise broken
 70  a role failed while it served";

/// Why a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Other = 1,
    Usage = 2,
    Port = 3,
    InUse = 4,
    Data = 5,
    Config = 6,
    Account = 7,
    Violation = 8,
    Role = 70,
}

/// A failed command: the kind gives the exit code, the text is one line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl fmt::Display) -> Self {
        // Whatever a library's error looks like, the operator gets one line.
        let text = text.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, text }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "teamtalk: {}", self.text)
    }
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(Kind::Port, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Read { .. } => {
                Self::new(Kind::Config, format_args!("{error}; `teamtalk config ROLE` prints one to start from"))
            }
            _ => Self::new(Kind::Config, error),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(kind_of(&error), error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal.into(),
            _ => Self::new(Kind::Data, error),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(Kind::Account, refusal)
    }
}

impl From<RoleError> for Failure {
    fn from(error: RoleError) -> Self {
        let kind = match &error {
            RoleError::Start { source, .. } => {
                source.downcast_ref::<OpenError>().map_or_else(|| kind_of_source(source.as_ref()), kind_of)
            }
            RoleError::Ended(_) | RoleError::NotReady(_) => Kind::Role,
        };
        Self::new(kind, error)
    }
}

fn kind_of(error: &OpenError) -> Kind {
    match error {
        OpenError::InUse { .. } => Kind::InUse,
        _ => Kind::Data,
    }
}

fn kind_of_source(error: &(dyn Error + 'static)) -> Kind {
    if error.is::<BindError>() { Kind::Port } else { Kind::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new(Kind::Config, "line 3:\n  | port = x\n  | ^ not a number");
        assert_eq!(failure.to_string(), "teamtalk: line 3: | port = x | ^ not a number");
    }
}
