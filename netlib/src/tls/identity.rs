//! Who we are and whom we trust: a certificate chain with its private key, and root
//! certificates, both from PEM. Nothing here speaks to a peer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::{Error, Origin};

/// The cryptography of every connection. Given to each configuration explicitly: a provider
/// installed for the whole process would be a global that two libraries could quarrel about.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate chain and the private key of its first certificate. Cloning shares them.
///
/// ```
/// use netlib::tls::Identity;
///
/// // For tests: a certificate made on the spot (crate `rcgen`).
/// let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// let identity = Identity::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())?;
/// assert_eq!(identity.certificates(), 1);
/// # Ok::<(), netlib::tls::Error>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    /// Chain and key, where they came from files: to read them again.
    files: Option<Arc<(PathBuf, PathBuf)>>,
}

impl Identity {
    /// From PEM text: the chain with our own certificate first and its issuers behind it, and a
    /// private key (PKCS#8, PKCS#1 or SEC1, without a passphrase). A key that belongs to another
    /// certificate is an error here, not at the first handshake.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        Ok(Self { key: certified(chain, key, &Origin::Bytes, &Origin::Bytes)?, files: None })
    }

    /// The same from two files, which may be one. It reads the disk, so it waits for it.
    ///
    /// # Errors
    ///
    /// [`Error`] says in which file, and what to do.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, Error> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let certified = certified(&read(chain)?, &read(key)?, &Origin::file(chain), &Origin::file(key))?;
        Ok(Self { key: certified, files: Some(Arc::new((chain.to_owned(), key.to_owned()))) })
    }

    /// Certificates in the chain.
    pub fn certificates(&self) -> usize {
        self.key.cert.len()
    }

    /// What its files hold now; itself if it came from none.
    pub(super) fn read_again(&self) -> Result<Self, Error> {
        match self.files.as_deref() {
            Some((chain, key)) => Self::from_pem_files(chain, key),
            None => Ok(self.clone()),
        }
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Our own certificate. A chain is never empty.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }
}

/// Without the key, and without the bytes of the certificates.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.certificates())
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Certificates whose word about other certificates is taken.
///
/// ```no_run
/// use netlib::tls::Roots;
///
/// let mut roots = Roots::system()?;
/// roots.add(&Roots::from_pem_file("/etc/teamtalk/our-own-ca.pem")?);
/// # Ok::<(), netlib::tls::Error>(())
/// ```
#[derive(Clone)]
pub struct Roots(RootCertStore);

/// Where systems keep the bundle of public roots: Debian and its kin, Fedora and its kin,
/// openSUSE, Alpine and the BSDs.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Roots {
    /// From PEM text with one or more certificates, each of which must be usable.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        Self::strict(pem, &Origin::Bytes)
    }

    /// The same from a file.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::strict(&read(path)?, &Origin::file(path))
    }

    /// The bundle that the system keeps. Certificates in it that cannot be used (some are older
    /// than the rules) are passed over, as everybody does.
    ///
    /// # Errors
    ///
    /// If the system has none, or none that is usable.
    pub fn system() -> Result<Self, Error> {
        let Some(path) = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()) else {
            return Err(Error::NoSystemRoots { tried: SYSTEM_ROOTS.iter().map(PathBuf::from).collect() });
        };
        let origin = Origin::file(path);
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates(&read(path)?, &origin)?);
        if added == 0 {
            return Err(Error::NoRoots { origin });
        }
        Ok(Self(store))
    }

    /// Trusts those of `other` as well.
    pub fn add(&mut self, other: &Self) {
        self.0.extend(other.0.roots.iter().cloned());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is trusted. That never happens: the constructors refuse it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn store(self) -> Arc<RootCertStore> {
        Arc::new(self.0)
    }

    fn strict(pem: &[u8], origin: &Origin) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for (n, certificate) in certificates(pem, origin)?.into_iter().enumerate() {
            store.add(certificate).map_err(|error| Error::BadCertificate {
                origin: origin.clone(),
                number: n + 1,
                why: error.to_string(),
            })?;
        }
        Ok(Self(store))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.0.len()).finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}

fn certificates(pem: &[u8], origin: &Origin) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| Error::BadPem { origin: origin.clone(), why: pem_fault(&error) })?;
    if found.is_empty() {
        return Err(Error::NoCertificate { origin: origin.clone() });
    }
    Ok(found)
}

fn private_key(pem: &[u8], origin: &Origin) -> Result<PrivateKeyDer<'static>, Error> {
    // Both forms say so in their text: the block "ENCRYPTED PRIVATE KEY", and the header
    // "Proc-Type: 4,ENCRYPTED" of older ones, whose body would decode to noise.
    let encrypted = pem.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED");
    match PrivateKeyDer::from_pem_slice(pem) {
        _ if encrypted => Err(Error::EncryptedKey { origin: origin.clone() }),
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(Error::NoKey { origin: origin.clone() }),
        Err(error) => Err(Error::BadPem { origin: origin.clone(), why: pem_fault(&error) }),
    }
}

/// The parser prints markers as lists of byte values.
fn pem_fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("a block is not ended: the line {} is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("a block is begun badly, by {:?}", String::from_utf8_lossy(line))
        }
        other => other.to_string(),
    }
}

fn certified(chain: &[u8], key: &[u8], chain_from: &Origin, key_from: &Origin) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(chain, chain_from)?;
    let key = private_key(key, key_from)?;
    let key = aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| Error::BadKey { origin: key_from.clone(), why: error.to_string() })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(Error::KeyMismatch { chain: chain_from.clone(), key: key_from.clone() })
        }
        Err(error) => Err(Error::BadCertificate { origin: chain_from.clone(), number: 1, why: error.to_string() }),
    }
}
