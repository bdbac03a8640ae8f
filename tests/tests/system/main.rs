//! The whole system under test: one module per subject, all in one program, so that the long tests
//! (an idle minute, twenty crashes) run beside the short ones.

mod bad_input;
mod chaos;
mod cluster;
mod configuration;
mod crash;
mod devices;
mod directory;
mod fleet;
mod fleet_groups;
mod groups;
mod idle;
mod load;
mod operation;
mod operator;
mod roles;
mod sign_in;
mod talk;
mod terminal_client;
