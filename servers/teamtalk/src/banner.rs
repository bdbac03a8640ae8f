//! What `teamtalk dev` prints once it serves: what runs where, and the two commands to talk.

use std::{env, fmt::Write, net::SocketAddr, path::Path};

use crate::{
    accounts::{Account, password_file},
    commands::dev::Options,
    ports::{LOGIN_HTTP, PORTS, address_of},
    probe::from_here,
};

/// The whole text; its last line begins with "Ready".
pub(crate) fn text(options: &Options, listeners: &[(&'static str, SocketAddr)], accounts: &[Account]) -> String {
    let mut text = format!(
        "teamtalk {}: login, msg, route and db-proxy run in this process. Data: {}\n\n",
        env!("CARGO_PKG_VERSION"),
        options.data.display()
    );
    line(&mut text, format_args!("  {:9} {:22} {:17} {}", "role", "address", "listener", "for"));
    for (name, address) in listeners {
        if let Some(port) = PORTS.iter().find(|port| port.listener == *name) {
            let address = address.to_string();
            line(&mut text, format_args!("  {:9} {address:22} {name:17} {}", port.role, port.purpose));
        }
    }
    line(&mut text, "");
    if !options.host.is_loopback() {
        line(&mut text, "Clients are accepted from other machines. Nothing is encrypted on the way yet: use a");
        line(&mut text, "network that you trust.\n");
    }
    if !accounts.is_empty() {
        line(&mut text, "To talk, paste one of these commands into each of two terminals:\n");
        let server = from_here(address_of(listeners, &LOGIN_HTTP));
        for account in accounts {
            line(&mut text, format_args!("  {}", command(options, server, account)));
        }
        line(&mut text, "");
    }
    text.push_str("Ready. Ctrl-C stops everything.");
    text
}

fn line(text: &mut String, line: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// The command that talks as this account.
fn command(options: &Options, server: SocketAddr, account: &Account) -> String {
    let file = password_file(&options.data, &account.name);
    // A terminal opened for it starts in another directory.
    let file = std::path::absolute(&file).unwrap_or(file);
    format!("{} --server http://{server} --user {} --password-file {}", terminal_client(), account.name, quoted(&file))
}

/// How to start `tt`: the program beside this one; under cargo through cargo, which builds it first
/// where that is needed.
fn terminal_client() -> String {
    let beside = env::current_exe().ok().map(|path| path.with_file_name("tt"));
    match beside {
        Some(path) if env::var_os("CARGO").is_none() && path.is_file() => quoted(&path),
        _ => through_cargo(env::var_os("CARGO_MANIFEST_DIR").as_deref().map(Path::new)),
    }
}

/// The command for a terminal in any directory; `package` is the one that cargo runs, this one.
fn through_cargo(package: Option<&Path>) -> String {
    let workspace = package.and_then(|path| path.ancestors().nth(2)).map(|path| path.join("Cargo.toml"));
    match workspace {
        Some(manifest) => format!("cargo run --release --manifest-path {} -p tt --", quoted(&manifest)),
        None => "cargo run --release -p tt --".to_owned(),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_and_quotes_survives_the_shell() {
        assert_eq!(quoted(Path::new("/srv/team-talk/tt")), "/srv/team-talk/tt");
        assert_eq!(quoted(Path::new("/home/o'neil/my data")), r"'/home/o'\''neil/my data'");
    }

    #[test]
    fn the_command_through_cargo_works_in_any_directory() {
        let command = through_cargo(Some(Path::new("/src/my chat/servers/teamtalk")));
        assert_eq!(command, "cargo run --release --manifest-path '/src/my chat/Cargo.toml' -p tt --");
    }

    #[test]
    fn the_commands_name_the_server_the_account_and_its_password_file() {
        let options = Options { data: "/data".into(), ..Options::default() };
        let listeners = [(LOGIN_HTTP.listener, "0.0.0.0:8080".parse().expect("an address"))];
        let account = Account { name: "alice".into(), password: "secret".into(), id: 1 };
        let text = text(&options, &listeners, &[account]);
        let command = "--server http://127.0.0.1:8080 --user alice --password-file /data/accounts/alice.password";
        assert!(text.contains(command), "{text}");
        assert!(!text.contains("secret"), "a screen is no place for a password");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("Ready")));
    }
}
