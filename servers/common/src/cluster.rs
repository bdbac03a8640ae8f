//! Whom a server believes on its links: servers that prove to know the cluster's secret, and, where a system
//! of 2015 is replaced server by server, those of listed addresses, which can prove nothing.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

/// The `[cluster]` table of a role's configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The file that holds the secret all servers share; empty: there is none.
    pub secret_file: PathBuf,
    /// Whether servers that cannot prove to know it are accepted from [`legacy_addresses`](Self::legacy_addresses).
    pub legacy_peers: bool,
    /// The addresses of servers of 2015.
    pub legacy_addresses: Vec<IpAddr>,
}

/// A secret shorter than this can be guessed; a longer file is not a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=1_024;

/// What may be believed of peers. Clones share it.
#[derive(Clone)]
pub struct Trust {
    secret: Option<Arc<[u8]>>,
    legacy: Arc<[IpAddr]>,
}

/// Why there is no secret to work with. One line, for a person.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file cannot be read.
    #[error(
        "cluster.secret_file {file}: {source}; `teamtalk dev` makes one in its data directory, and so does `head -c 32 /dev/urandom | base64`"
    )]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read or change it.
    #[error("cluster.secret_file {0} is open to other users: `chmod 600` it")]
    Open(PathBuf),
    /// It is too short or too long.
    #[error("cluster.secret_file {file} holds {len} bytes: {} to {} make a secret", SECRET_BYTES.start(), SECRET_BYTES.end())]
    Length {
        /// Which file.
        file: PathBuf,
        /// How long it is.
        len: usize,
    },
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            secret_file: PathBuf::from("teamtalk-data/cluster.secret"),
            legacy_peers: false,
            legacy_addresses: Vec::new(),
        }
    }
}

impl ClusterConfig {
    /// What types cannot say.
    pub fn check(&self) -> Result<(), String> {
        if self.legacy_peers && self.legacy_addresses.is_empty() {
            return Err("`cluster.legacy_peers` is on: list their addresses in `cluster.legacy_addresses`".to_owned());
        }
        if !self.legacy_peers && self.secret_file.as_os_str().is_empty() {
            return Err("`cluster.secret_file` is empty: no other server could be believed".to_owned());
        }
        Ok(())
    }

    /// Reads the secret.
    pub fn trust(&self) -> Result<Trust, ClusterError> {
        let secret = if self.secret_file.as_os_str().is_empty() { None } else { Some(read(&self.secret_file)?) };
        let legacy = if self.legacy_peers { self.legacy_addresses.as_slice() } else { &[] };
        if !legacy.is_empty() {
            log::warn!("servers of {legacy:?} are believed without proof (cluster.legacy_peers)");
        }
        Ok(Trust { secret, legacy: legacy.iter().map(IpAddr::to_canonical).collect() })
    }
}

/// The secret: the file without the line end that editors add.
fn read(path: &Path) -> Result<Arc<[u8]>, ClusterError> {
    let failed = |source| ClusterError::Read { file: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a file")));
    }
    // Root may hand it to a server's group; a server's own user needs no help.
    let strangers = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & strangers != 0 {
        return Err(ClusterError::Open(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(*SECRET_BYTES.end() as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    let secret = bytes.trim_ascii_end();
    if !SECRET_BYTES.contains(&secret.len()) {
        return Err(ClusterError::Length { file: path.to_owned(), len: secret.len() });
    }
    Ok(secret.into())
}

impl Trust {
    /// In servers that prove to know `secret`.
    pub fn in_secret(secret: &[u8]) -> Self {
        Self { secret: Some(secret.into()), legacy: Arc::new([]) }
    }

    /// In whoever has one of these addresses.
    pub fn in_addresses(addresses: &[IpAddr]) -> Self {
        Self { secret: None, legacy: addresses.iter().map(IpAddr::to_canonical).collect() }
    }

    pub(crate) fn secret(&self) -> Option<&[u8]> {
        self.secret.as_deref()
    }

    /// Whether a server at this address needs no proof.
    pub(crate) fn without_proof(&self, ip: IpAddr) -> bool {
        self.legacy.contains(&ip.to_canonical())
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = self.secret.as_ref().map(|_| "..");
        f.debug_struct("Trust").field("secret", &secret).field("legacy", &self.legacy).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secret_file: PathBuf) -> ClusterConfig {
        ClusterConfig { secret_file, ..ClusterConfig::default() }
    }

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        (directory, path)
    }

    #[test]
    fn a_secret_is_a_private_file_of_enough_bytes_without_its_line_end() {
        let (_keep, path) = file("0123456789abcdef\n", 0o600);
        let trust = config(path).trust().expect("a secret");
        assert_eq!(trust.secret(), Some(&b"0123456789abcdef"[..]));
        assert!(!format!("{trust:?}").contains("0123"), "a secret is not printed");

        let (_keep, path) = file("0123456789abcdef", 0o644);
        assert!(matches!(config(path).trust(), Err(ClusterError::Open(_))));
        let (_keep, path) = file("short\n", 0o600);
        assert!(matches!(config(path).trust(), Err(ClusterError::Length { len: 5, .. })));
        let (_keep, path) = file(&"x".repeat(1_025), 0o600);
        assert!(matches!(config(path).trust(), Err(ClusterError::Length { .. })));
        assert!(matches!(config("/nowhere/at/all".into()).trust(), Err(ClusterError::Read { .. })));
    }

    #[test]
    fn old_servers_are_believed_only_if_asked_for_and_listed() {
        let address: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut config = config(PathBuf::new());
        assert!(config.check().is_err(), "nobody could be believed");
        config.legacy_addresses = vec![address];
        assert!(!config.trust().expect("no secret").without_proof(address), "not asked for");
        config.legacy_peers = true;
        config.check().expect("addresses are a reason to believe");
        let trust = config.trust().expect("no secret");
        assert!(trust.without_proof(address));
        assert!(trust.without_proof("::ffff:192.0.2.1".parse().expect("an address")), "the same address");
        assert!(!trust.without_proof("192.0.2.2".parse().expect("an address")));
        config.legacy_addresses.clear();
        assert!(config.check().is_err(), "from nowhere");
    }
}
