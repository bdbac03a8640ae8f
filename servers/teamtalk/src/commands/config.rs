//! `teamtalk config ROLE`: the template that the role's own configuration is checked against.

use clap::{Args, ValueEnum};
use tt_common::config::RoleConfig;

use crate::commands::say;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which role
    role: Role,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Login,
    Msg,
    Route,
    DbProxy,
}

pub(crate) fn run(options: &Options) {
    let template = match options.role {
        Role::Login => tt_login::Config::TEMPLATE,
        Role::Msg => tt_msg::Config::TEMPLATE,
        Role::Route => tt_route::Config::TEMPLATE,
        Role::DbProxy => tt_db_proxy::Config::TEMPLATE,
    };
    say(template.trim_end());
}
