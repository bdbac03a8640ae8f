//! The ready file: written once every role serves, so that a script knows where everything is and
//! when it may begin. Removed at a clean stop. What a crash left is removed as soon as the next
//! start owns the data directory, so nobody waits for ports that are gone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::accounts::Account;

/// A written ready file; goes with the value.
#[derive(Debug)]
pub(crate) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Takes away what a process that crashed has left at `path`.
    pub(crate) fn clear(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file under a temporary name beside it, readable by its owner alone because it
    /// carries passwords, and renames it: whoever sees it sees all of it.
    pub(crate) fn write(path: &Path, listeners: &[(&'static str, SocketAddr)], users: &[Account]) -> io::Result<Self> {
        let temporary = temporary_name(path);
        let written =
            write_private(&temporary, &contents(listeners, users)).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            // Nothing of it may stay behind; the first error is the one to report.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // It may have been taken away already; there is nobody left to tell.
        let _ = fs::remove_file(&self.path);
    }
}

fn contents(listeners: &[(&'static str, SocketAddr)], users: &[Account]) -> String {
    let mut root: Map<String, Value> =
        listeners.iter().map(|(name, address)| ((*name).to_owned(), json!(address.to_string()))).collect();
    let users =
        users.iter().map(|user| json!({ "name": user.name, "password": user.password, "id": user.id })).collect();
    root.insert("users".to_owned(), Value::Array(users));
    format!("{:#}\n", Value::Object(root))
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// Writes a new file that only its owner can read, and has it on disk on return.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_complete_private_and_gone_with_its_value() {
        let path = std::env::temp_dir().join(format!("teamtalk-ready-{}", std::process::id()));
        let users = [Account { name: "alice".into(), password: "secret".into(), id: 1 }];
        let address = "127.0.0.1:8000".parse().expect("an address");
        let file = ReadyFile::write(&path, &[("msg", address)], &users).expect("a writable place");

        let value: Value = serde_json::from_str(&fs::read_to_string(&path).expect("written")).expect("JSON");
        let user = json!({ "name": "alice", "password": "secret", "id": 1 });
        assert_eq!(value, json!({ "msg": "127.0.0.1:8000", "users": [user] }));
        let mode = fs::metadata(&path).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_left_is_cleared_and_nothing_is_no_error() {
        let path = std::env::temp_dir().join(format!("teamtalk-stale-{}", std::process::id()));
        fs::write(&path, "{}").expect("a writable place");
        ReadyFile::clear(&path).expect("it is ours");
        assert!(!path.exists());
        ReadyFile::clear(&path).expect("nothing to do");
    }
}
