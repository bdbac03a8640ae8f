//! The command line: what can be typed, and the help that is the reference for scripts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tt_client::{ClientClass, ServerUrl};

/// Talk over a TeamTalk system from a terminal.
#[derive(Debug, Parser)]
#[command(
    name = "tt",
    version,
    about = "Talk over a TeamTalk system: an interactive chat, and commands for scripts",
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) account: Account,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Who signs in where; understood before and after a command's name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Signing in")]
pub(crate) struct Account {
    /// The login server, as http://host:port
    #[arg(long, global = true, value_name = "URL", default_value = ServerUrl::DEFAULT)]
    pub(crate) server: String,
    /// Your login name
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Read the password from the first line of this file [else: TT_PASSWORD, else a prompt]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Sign in as this class of client [default: pc for the chat and listen, mobile otherwise]
    ///
    /// A user has at most one session of each class: a new one signs the old one out. So run one
    /// command of a user at a time.
    #[arg(long = "as", global = true, value_name = "CLASS", value_enum)]
    pub(crate) class: Option<Class>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Class {
    Pc,
    Mobile,
}

/// Everything but the interactive chat.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send one message; prints its number once the server has stored it
    #[command(after_help = COMMAND_HELP)]
    Send {
        /// The receiver: a login name, '#' and a user id, or '#g' and a group's id
        who: String,
        /// The message; put -- before WHO if it begins with a dash
        text: String,
        #[command(flatten)]
        format: Format,
    },
    /// Send a recording from a file as a voice message; prints its number
    #[command(after_help = COMMAND_HELP)]
    SendVoice {
        /// The receiver: a login name, '#' and a user id, or '#g' and a group's id
        who: String,
        /// The recording, at most 256 KiB, in a format that the receiver's client plays
        file: PathBuf,
        /// How long it plays, in seconds
        #[arg(long, value_name = "S", default_value_t = 1)]
        seconds: u32,
        #[command(flatten)]
        format: Format,
    },
    /// Save the recording of a voice message into a new file
    #[command(after_help = COMMAND_HELP)]
    SaveVoice {
        /// The other person or the group: a login name, '#' and a user id, or '#g' and a group's id
        who: String,
        /// The message's number, as history prints it with --json
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        msg_id: u32,
        /// Where to; a file that exists is left alone
        file: PathBuf,
        #[command(flatten)]
        format: Format,
    },
    /// Tell somebody's clients that you type, or make them shake
    Signal {
        /// The receiver: a login name, or '#' and a user id
        who: String,
        /// What to tell
        #[arg(value_enum)]
        what: SignalKind,
    },
    /// Show your signature line, or change it
    #[command(after_help = COMMAND_HELP)]
    Signature {
        /// The new line, at most 128 bytes; '' takes it away
        text: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show the address of your picture, or change it
    #[command(after_help = COMMAND_HELP)]
    Avatar {
        /// A URL or a path on the picture server, at most 255 bytes; '' takes it away
        url: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show or set whether your phones get no push notifications at night
    #[command(after_help = COMMAND_HELP)]
    QuietNights {
        /// The new setting
        #[arg(value_enum)]
        set: Option<Switch>,
        #[command(flatten)]
        format: Format,
    },
    /// Sign your desktop client out
    KickPc,
    /// Print messages as they arrive, one line each
    #[command(after_help = COMMAND_HELP)]
    Listen {
        /// Stop after this many messages
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Stop after this many seconds; an error if --count is not reached by then
        #[arg(long, value_name = "S", value_parser = seconds)]
        timeout: Option<std::time::Duration>,
        /// Print also who types, new signatures and pictures, and your own desktop client's coming and going
        #[arg(long)]
        notices: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Print the newest messages of a conversation, oldest first
    #[command(after_help = COMMAND_HELP)]
    History {
        /// The other person or the group: a login name, '#' and a user id, or '#g' and a group's id
        who: String,
        /// How many messages
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        format: Format,
    },
    /// List everybody in the address book
    #[command(after_help = COMMAND_HELP)]
    Users {
        #[command(flatten)]
        format: Format,
    },
    /// List recent conversations, most recent first
    #[command(after_help = COMMAND_HELP)]
    Sessions {
        #[command(flatten)]
        format: Format,
    },
    /// List the groups that you are in: the fixed ones, and those that were written to
    #[command(after_help = COMMAND_HELP)]
    Groups {
        #[command(flatten)]
        format: Format,
    },
    /// Make a group, change its members, leave it or mute it
    #[command(after_help = COMMAND_HELP)]
    Group {
        #[command(subcommand)]
        action: GroupAction,
    },
    /// Tell whether somebody is online
    #[command(after_help = COMMAND_HELP)]
    Status {
        /// A login name, or '#' and a user id
        who: String,
        #[command(flatten)]
        format: Format,
    },
}

/// What one client tells another in passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignalKind {
    /// You are typing
    Typing,
    /// You have stopped typing
    Stopped,
    /// Look here
    Shake,
}

/// A setting with two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// What is to be done with a group. GROUP is '#g' and its id.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupAction {
    /// Make a group of yourself and others; prints its id
    Create {
        /// Its name
        name: String,
        /// Who else is in it
        #[arg(required = true)]
        who: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show a group and its members
    Show {
        /// The group: '#g' and its id
        group: String,
        #[command(flatten)]
        format: Format,
    },
    /// Add members to a group that you are in
    Add {
        /// The group: '#g' and its id
        group: String,
        /// Whom to add
        #[arg(required = true)]
        who: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Remove members from a group that you have made
    Remove {
        /// The group: '#g' and its id
        group: String,
        /// Whom to remove
        #[arg(required = true)]
        who: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Leave a group; coming back later hides what was said before
    Leave {
        /// The group: '#g' and its id
        group: String,
        #[command(flatten)]
        format: Format,
    },
    /// Hold a group's push notifications back
    Mute {
        /// The group: '#g' and its id
        group: String,
    },
    /// Let a group's push notifications through again
    Unmute {
        /// The group: '#g' and its id
        group: String,
    },
}

impl GroupAction {
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Create { format, .. }
            | Self::Show { format, .. }
            | Self::Add { format, .. }
            | Self::Remove { format, .. }
            | Self::Leave { format, .. } => format.json,
            Self::Mute { .. } | Self::Unmute { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cli {
    /// The class to sign in as. A command that comes and goes must not sign out the person who
    /// sits in front of the chat.
    pub(crate) fn class(&self) -> ClientClass {
        match (self.account.class, &self.command) {
            (Some(Class::Pc), _) | (None, None | Some(Command::Listen { .. })) => ClientClass::Pc,
            (Some(Class::Mobile) | None, _) => ClientClass::Mobile,
        }
    }
}

/// Seconds, possibly with a fraction.
fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match std::time::Duration::try_from_secs_f64(seconds) {
        // Beyond a century a deadline would overflow the clock.
        Ok(duration) if seconds > 0.0 && seconds < 3.2e9 => Ok(duration),
        _ => Err("expected a number of seconds above 0".to_owned()),
    }
}

const COMMAND_HELP: &str = "JSON keys and exit statuses: tt --help";

const AFTER_HELP: &str = "\
WHO is a login name, or '#' and a user id; where a group will do, '#g' and its
id. Quote what begins with '#' ('#2', '#g7'), or the shell takes it for a comment.

Without a command, tt opens the interactive chat:
  Tab, Shift-Tab      next, previous contact (also Ctrl-N, Ctrl-P)
  Enter               send (a pasted line break becomes a space)
  Up, Down            lines that you typed before
  PageUp, PageDown    scroll; PageUp at the top loads older messages
  Ctrl-Q, Ctrl-C      quit
Marks: + online, ^ with a phone only, ~ away, - offline, * a group; (3) three unread messages. The
last line says who is typing.
A line that begins with a slash is a command (two slashes: a message with one):
  /group NAME WHO...  make a group of yourself and others
  /add WHO...         add to the open group        /members  who is in it
  /remove WHO...      remove from it               /leave    leave it
  /mute, /unmute      hold its push notifications back, or not

listen prints what arrives while it runs, each message once. If the connection
is lost, it connects again by itself and prints what it missed. What --notices
adds does not count, and is not caught up.

A group that was just made is on nobody's list before its first message.

JSON, one object per line; times are seconds since 1970, a person is an object
with id and name:
  send       msg_id, from, to, client_msg_id
  listen     msg_id, from, to, time, text, kind
  history    the same, oldest first
  users      id, name, nick, email, phone, department, signature, presence
  sessions   peer, unread, latest_msg_id, time, text
  groups     id, name, creator (id), fixed, members (ids), muted
  group      create, show: as groups; add, remove, leave: as the notice below
  status     user, presence
  send-voice as send
  save-voice msg_id, seconds, bytes
  signature  signature        avatar  avatar        quiet-nights  quiet_nights
listen --notices prints objects with the key notice besides:
  typing, stopped, shake, signal   from, to, and for signal its data
  signature  user, text       avatar  user, url     own_pc  online
  group      group (id), added or removed (a list of persons), by, members (ids)
kind is text, voice or unreadable; text is null unless kind is text. presence
is online (with a desktop client), mobile (with a phone only), away or offline.
To a group, to is null and group is its id; the peer of a group's session is an
object with group, its id.

Exit status:
  0  done
  1  another failure
  2  wrong usage: an option, an unknown WHO, a text that cannot be sent
  3  wrong user name or password
  4  a server cannot be reached, or the connection was lost
  5  no answer in time, or listen --count not reached within --timeout
  6  a server refused
  7  signed out: the same user signed in elsewhere with the same class of client";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_are_understood_before_and_after_the_command() {
        for line in [
            "tt --user alice send bob hi --json",
            "tt send --user alice --json bob hi",
            "tt send bob hi --json --user alice",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.account.user.as_deref(), Some("alice"), "{line}");
            assert_eq!(cli.account.server, "http://127.0.0.1:8080");
            assert!(
                matches!(cli.command, Some(Command::Send { who, text, format: Format { json: true } }) if who == "bob" && text == "hi")
            );
        }
    }

    #[test]
    fn a_text_may_begin_with_a_dash_behind_two_dashes() {
        let cli = parse("tt send -- bob --json").unwrap();
        assert!(
            matches!(cli.command, Some(Command::Send { text, format: Format { json: false }, .. }) if text == "--json")
        );
    }

    #[test]
    fn scripts_sign_in_as_mobile_and_people_as_pc() {
        let class = |line: &str| parse(line).unwrap().class();
        assert_eq!(class("tt --user a"), ClientClass::Pc);
        assert_eq!(class("tt listen"), ClientClass::Pc);
        assert_eq!(class("tt users"), ClientClass::Mobile);
        assert_eq!(class("tt send b t"), ClientClass::Mobile);
        assert_eq!(class("tt users --as pc"), ClientClass::Pc);
        assert_eq!(class("tt --as mobile listen"), ClientClass::Mobile);
    }

    #[test]
    fn wrong_usage_exits_with_two() {
        for line in
            ["tt nonsense", "tt send bob", "tt listen --count 0", "tt listen --timeout -1", "tt history bob --limit x"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
