//! `teamtalk`: the one binary. `teamtalk dev` runs the whole system in one process; each role also
//! runs alone; the rest is for the operator. This file is the command line, `commands/` does the work.

mod accounts;
mod banner;
mod cluster;
mod commands;
mod descriptors;
mod failure;
mod ports;
mod probe;
mod ready;
mod serving;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    commands::{bench, config, dev, group, role, user},
    failure::{EXIT_CODES, Outcome},
};

/// An instant-messaging system that speaks the 2015 TeamTalk protocol.
///
/// Without a command it is `teamtalk dev`: everything in one process, with two accounts to talk as.
#[derive(Debug, Parser)]
#[command(name = "teamtalk", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every role in this process, on a durable store in a data directory
    #[command(after_help = EXIT_CODES)]
    Dev(dev::Options),
    /// Run the login server: tells clients which msg server to use
    #[command(after_help = EXIT_CODES)]
    Login(role::Options),
    /// Run the msg server: holds the clients' connections
    #[command(after_help = EXIT_CODES)]
    Msg(role::Options),
    /// Run the route server: presence, and messages between msg servers
    #[command(after_help = EXIT_CODES)]
    Route(role::Options),
    /// Run the db-proxy: the only role that touches the store
    #[command(after_help = EXIT_CODES)]
    DbProxy(role::Options),
    /// Print a role's default configuration, with a comment for every key
    Config(config::Options),
    /// Manage accounts, beside a running system or without one
    #[command(subcommand, after_help = EXIT_CODES)]
    User(user::Action),
    /// Manage groups, beside a running system or without one
    #[command(subcommand, after_help = EXIT_CODES)]
    Group(group::Action),
    /// Put load on a system, measure it, and check that its promises are kept
    #[command(subcommand, after_help = EXIT_CODES)]
    Bench(bench::Load),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Outcome {
    match cli.command.unwrap_or_else(|| Command::Dev(dev::Options::default())) {
        Command::Dev(options) => dev::run(&options),
        Command::Login(options) => role::login(&options),
        Command::Msg(options) => role::msg(&options),
        Command::Route(options) => role::route(&options),
        Command::DbProxy(options) => role::db_proxy(&options),
        Command::Config(options) => {
            config::run(&options);
            Ok(())
        }
        Command::User(action) => user::run(&action),
        Command::Group(action) => group::run(&action),
        Command::Bench(load) => bench::run(&load),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dev_alone_has_the_defaults_of_no_command_at_all() {
        let Some(Command::Dev(options)) = Cli::parse_from(["teamtalk", "dev"]).command else {
            panic!("dev is dev");
        };
        assert_eq!(options, dev::Options::default());
    }
}
