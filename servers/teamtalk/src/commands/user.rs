//! `teamtalk user …`: accounts, managed in the store itself. A running system sees the change at
//! the next sign-in; connections that are signed in stay.

use std::{
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use tt_common::config;
use tt_db_proxy::store::{Accounts, NewUser, User, UserStatus, embedded::Operator};
use tt_proto::password::wire_digest;
use unicode_width::UnicodeWidthStr;

use crate::{
    accounts::password_changed,
    commands::{DEFAULT_DATA, say},
    failure::{Failure, Kind, Outcome},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Make an account; its password comes from a prompt or from standard input
    Add {
        /// Login name
        name: String,
        /// The name that others see [default: the login name]
        #[arg(long, value_name = "TEXT")]
        nick: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Print every account: id, login name, status, shown name
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Set a password, from a prompt or from standard input
    Passwd {
        /// Login name
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Refuse sign-ins of an account from now on and hide it from the address book
    Disable {
        /// Login name
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Let a disabled account sign in again
    Enable {
        /// Login name
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the accounts are.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Place {
    /// Data directory [default: ./teamtalk-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration of the db-proxy that serves the accounts
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    pub(crate) fn directory(&self) -> Outcome<PathBuf> {
        match (&self.data, &self.config) {
            (Some(data), _) => Ok(data.clone()),
            (None, Some(file)) => {
                let config: tt_db_proxy::Config = config::load(Some(file))?;
                Ok(config.data)
            }
            (None, None) => Ok(DEFAULT_DATA.into()),
        }
    }
}

pub(crate) fn run(action: &Action) -> Outcome {
    match action {
        Action::Add { name, nick, place } => add(name, nick.as_deref(), &place.directory()?),
        Action::List { place } => list(&place.directory()?),
        Action::Passwd { name, place } => set_password(name, &place.directory()?),
        Action::Disable { name, place } => set_status(name, UserStatus::Left, "disabled", &place.directory()?),
        Action::Enable { name, place } => set_status(name, UserStatus::Active, "enabled", &place.directory()?),
    }
}

fn add(name: &str, nick: Option<&str>, data: &Path) -> Outcome {
    let store = Operator::open(data)?;
    let password = read_password(name)?;
    let user = NewUser {
        name: name.to_owned(),
        nick: nick.unwrap_or_default().to_owned(),
        wire_digest: wire_digest(&password),
        ..NewUser::default()
    };
    let id = store.add_user(&user)?;
    say(format_args!("{name} is account #{id}"));
    Ok(())
}

fn list(data: &Path) -> Outcome {
    let users = Operator::open(data)?.list_users()?;
    let width = users.iter().map(|user| user.name.width()).max().unwrap_or(0).max(4);
    say(format_args!("{:>6}  {:width$}  {:9}  nick", "id", "name", "status"));
    for User { id, name, nick, status, .. } in &users {
        // Padded by hand: what `format!` counts are characters, and Chinese ones take two columns.
        let padding = " ".repeat(width - name.width());
        say(format_args!("{id:>6}  {name}{padding}  {:9}  {nick}", status_word(*status)));
    }
    Ok(())
}

/// What an operator calls a status. Staff on probation, regular staff and interns are the recorded
/// administration console's words for people who cannot sign in either.
fn status_word(status: UserStatus) -> &'static str {
    match status {
        UserStatus::Active => "active",
        UserStatus::Left => "disabled",
        UserStatus::Probation => "probation",
        UserStatus::Regular => "regular",
        UserStatus::Intern => "intern",
    }
}

fn set_password(name: &str, data: &Path) -> Outcome {
    let store = Operator::open(data)?;
    // Nobody types a password twice to learn that the name was wrong.
    if !store.list_users()?.iter().any(|user| user.name == name) {
        return Err(tt_db_proxy::store::Refusal::UnknownName(name.to_owned()).into());
    }
    let password = read_password(name)?;
    store.set_password(name, &wire_digest(&password))?;
    password_changed(data, name, &password)?;
    say(format_args!("{name} has a new password; it counts from the next sign-in"));
    Ok(())
}

fn set_status(name: &str, status: UserStatus, word: &str, data: &Path) -> Outcome {
    Operator::open(data)?.set_status(name, status)?;
    say(format_args!("{name} is {word}; it counts from the next sign-in"));
    Ok(())
}

/// The new password: typed twice at a terminal, otherwise the first line of standard input.
fn read_password(name: &str) -> Outcome<String> {
    let unreadable = |error: io::Error| Failure::new(Kind::Other, format!("password of {name}: {error}"));
    let password = if io::stdin().is_terminal() {
        let password = rpassword::prompt_password(format!("New password of {name}: ")).map_err(unreadable)?;
        if rpassword::prompt_password("The same again: ").map_err(unreadable)? != password {
            let text = "the two passwords differ: nothing was changed, try again";
            return Err(Failure::new(Kind::Account, text));
        }
        password
    } else {
        let mut line = Vec::new();
        io::stdin().lock().read_until(b'\n', &mut line).map_err(unreadable)?;
        let line = String::from_utf8(line)
            .map_err(|_| Failure::new(Kind::Account, format!("the password of {name} is not UTF-8 text")))?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        let text = format!("the password of {name} may not be empty: type one, or send one line to standard input");
        return Err(Failure::new(Kind::Account, text));
    }
    Ok(password)
}
