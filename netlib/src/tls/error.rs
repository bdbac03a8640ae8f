//! What can be wrong with the material that TLS is set up from. Each text says where it is, what
//! it is and what to do. What goes wrong between peers is no such error: it ends a connection.

use std::path::{Path, PathBuf};
use std::{error, fmt, io};

/// Where a certificate, a key or a list of roots came from.
///
/// ```
/// use netlib::tls::Origin;
///
/// assert_eq!(Origin::File("/etc/ssl/chain.pem".into()).to_string(), "/etc/ssl/chain.pem");
/// assert_eq!(Origin::Bytes.to_string(), "the given bytes");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// Bytes that the caller gave.
    Bytes,
}

impl Origin {
    pub(crate) fn file(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Bytes => f.write_str("the given bytes"),
        }
    }
}

/// Why TLS cannot be set up, or set up anew.
///
/// ```
/// use netlib::tls::{Error, Identity};
///
/// let error = Identity::from_pem_files("/no/such/chain.pem", "/no/such/key.pem").unwrap_err();
/// assert!(matches!(error, Error::Unreadable { .. }));
/// assert!(error.to_string().starts_with("/no/such/chain.pem: cannot be read"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text around or inside a PEM block is damaged.
    BadPem {
        /// Where.
        origin: Origin,
        /// What the parser says.
        why: String,
    },
    /// There is no certificate in it.
    NoCertificate {
        /// Where.
        origin: Origin,
    },
    /// A certificate cannot be used.
    BadCertificate {
        /// Where.
        origin: Origin,
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// There is no private key in it.
    NoKey {
        /// Where.
        origin: Origin,
    },
    /// The private key is protected by a passphrase, and nobody is there to ask.
    EncryptedKey {
        /// Where.
        origin: Origin,
    },
    /// The private key is damaged or of a kind that is not supported.
    BadKey {
        /// Where.
        origin: Origin,
        /// What is wrong.
        why: String,
    },
    /// The private key is not that of the first certificate.
    KeyMismatch {
        /// Where the chain is.
        chain: Origin,
        /// Where the key is.
        key: Origin,
    },
    /// A server needs a certificate.
    NoIdentity,
    /// Nobody is trusted, so nobody could be verified.
    NoRoots {
        /// Where none was found.
        origin: Origin,
    },
    /// None of the usual places holds the system's roots.
    NoSystemRoots {
        /// The places.
        tried: Vec<PathBuf>,
    },
    /// Neither a host name nor an address.
    BadServerName {
        /// What was given.
        name: String,
    },
    /// A protocol name of ALPN has 1 to 255 bytes.
    BadAlpn {
        /// Bytes that were given.
        len: usize,
    },
    /// The settings contradict one another.
    Settings {
        /// How.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => write!(f, "{}: cannot be read: {source}", path.display()),
            Self::BadPem { origin, why } => write!(f, "{origin}: not valid PEM: {why}"),
            Self::NoCertificate { origin } => write!(
                f,
                "{origin}: holds no certificate: a block that begins with -----BEGIN CERTIFICATE----- is expected (PEM; \
                 DER is not read)"
            ),
            Self::BadCertificate { origin, number, why } => {
                write!(f, "{origin}: certificate {number} cannot be used: {why}")
            }
            Self::NoKey { origin } => write!(
                f,
                "{origin}: holds no private key: a block that begins with -----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY \
                 or EC PRIVATE KEY is expected"
            ),
            Self::EncryptedKey { origin } => write!(
                f,
                "{origin}: the private key is protected by a passphrase: store it without one (openssl pkey -in … -out \
                 …) and protect the file by its permissions"
            ),
            Self::BadKey { origin, why } => write!(f, "{origin}: the private key cannot be used: {why}"),
            Self::KeyMismatch { chain, key } => write!(
                f,
                "{key}: this is not the private key of the first certificate in {chain}: the server's own certificate \
                 comes first there, its issuers follow"
            ),
            Self::NoIdentity => f.write_str("a TLS server needs a certificate: give it an identity"),
            Self::NoRoots { origin } => write!(f, "{origin}: holds no root certificate that can be used"),
            Self::NoSystemRoots { tried } => {
                f.write_str("the system's root certificates were found in none of these places: ")?;
                for (n, path) in tried.iter().enumerate() {
                    write!(f, "{}{}", if n == 0 { "" } else { ", " }, path.display())?;
                }
                f.write_str("; install the package ca-certificates or name a file of roots")
            }
            Self::BadServerName { name } => write!(f, "{name:?} is neither a host name nor an IP address"),
            Self::BadAlpn { len } => write!(f, "a protocol name of {len} bytes: ALPN allows 1 to 255"),
            Self::Settings { why } => write!(f, "the TLS settings do not go together: {why}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}
