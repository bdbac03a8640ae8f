//! `tt`, the terminal client: an interactive chat, and commands for scripts. This file turns the
//! command line into a session's options and hands over.

mod account;
mod cli;
mod commands;
mod directory;
mod failure;
mod interactive;
mod listen;
mod output;
mod password;
mod text;
mod voice;

use std::process::ExitCode;

use clap::Parser;
use tt_client::{Options, ServerUrl};

use crate::cli::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let account = &cli.account;
    let Some(user) = account.user.as_deref() else {
        return Err(Failure::usage("who are you? Give --user NAME (see tt --help)"));
    };
    if cli.command.is_none() {
        interactive::check_terminal()?;
    }
    let server: ServerUrl = account.server.parse()?;
    let password = password::find(user, account.password_file.as_deref())?;
    let options = Options::new(server, user, &password, cli.class());
    match cli.command {
        Some(command) => commands::run(command, options),
        None => interactive::run(options),
    }
}
