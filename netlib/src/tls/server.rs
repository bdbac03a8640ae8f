//! The server's side: which certificates it shows, to whom, and how they are exchanged while it
//! runs. What happens on a connection is in `layer.rs`.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use super::error::Error;
use super::identity::{Identity, Roots, provider};
use super::layer::TlsLayer;
use super::{Version, alpn_list};
use crate::layer::{Layer, LayerFactory};

/// Makes the TLS of each connection that a listener accepts. Shared by listeners, reactors and
/// threads.
///
/// Thread rule: it may be shared; every call may come from any thread.
///
/// ```
/// use std::sync::Arc;
/// use netlib::{ListenOptions, tls};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// let server = tls::Server::builder()
///     .identity(tls::Identity::from_pem(chain.as_bytes(), key.as_bytes())?)
///     .alpn(["http/1.1"])
///     .build()?;
/// let server = Arc::new(server);
/// let options = ListenOptions { layer: Some(server.clone()), ..ListenOptions::default() };
///
/// // Later, on SIGHUP: what fails leaves the old certificate in place.
/// server.reload()?;
/// # drop(options);
/// # Ok::<(), tls::Error>(())
/// ```
pub struct Server {
    config: Arc<ServerConfig>,
    identities: Arc<Identities>,
}

impl Server {
    /// Begins with nothing: at least one [`identity`](ServerBuilder::identity) is needed.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The common case: one certificate from files, nothing else.
    ///
    /// # Errors
    ///
    /// [`Error`] says in which file, and what to do.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().identity(Identity::from_pem_files(chain, key)?).build()
    }

    /// Reads the files of all identities again and shows what they hold to new connections. Open
    /// ones go on undisturbed. If any file is unusable nothing changes. Reads the disk, so it
    /// waits for it; may be called from any thread.
    ///
    /// # Errors
    ///
    /// [`Error`] says in which file; the old certificates stay.
    pub fn reload(&self) -> Result<(), Error> {
        let now = self.identities.all();
        let again = now.iter().map(Identity::read_again).collect::<Result<Vec<_>, _>>()?;
        self.replace(again)
    }

    /// Shows these to new connections instead. Open ones go on undisturbed.
    ///
    /// # Errors
    ///
    /// If one cannot be used, or there is none; the old ones stay.
    pub fn replace(&self, identities: impl IntoIterator<Item = Identity>) -> Result<(), Error> {
        let identities: Arc<[Identity]> = identities.into_iter().collect();
        if identities.is_empty() {
            return Err(Error::NoIdentity);
        }
        *self.identities.0.write().unwrap_or_else(PoisonError::into_inner) = identities;
        Ok(())
    }
}

impl LayerFactory for Server {
    fn layer(&self) -> io::Result<Box<dyn Layer>> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        Ok(Box::new(TlsLayer::new(connection.into(), None)))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("tls::Server").field("identities", &self.identities.all()).finish_non_exhaustive()
    }
}

/// What a [`Server`] is built from.
///
/// ```no_run
/// use netlib::tls::{Identity, Roots, Server, Version};
///
/// let server = Server::builder()
///     .identity(Identity::from_pem_files("chain.pem", "key.pem")?)
///     .identity(Identity::from_pem_files("other-chain.pem", "other-key.pem")?)
///     .alpn(["h2", "http/1.1"])
///     .require_client_certificate(Roots::from_pem_file("staff.pem")?)
///     .oldest_version(Version::Tls13)
///     .build()?;
/// # drop(server);
/// # Ok::<(), netlib::tls::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServerBuilder {
    identities: Vec<Identity>,
    alpn: Vec<Vec<u8>>,
    clients: Option<(Roots, Need)>,
    oldest: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

impl ServerBuilder {
    /// Adds a certificate. With several, each client gets the first that is valid for the name
    /// it asks for (SNI) and that it can verify the signatures of; the very first serves those
    /// that ask for none or for another. The names are looked through in a row, at every
    /// handshake: fine for dozens.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// The application protocols that are spoken here (ALPN), the preferred first. A client that
    /// offers only others is refused; one that offers none is served, with none chosen.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Serves only clients that show a certificate which these roots vouch for. Who it was is in
    /// the [`Session`](super::Session).
    pub fn require_client_certificate(mut self, roots: Roots) -> Self {
        self.clients = Some((roots, Need::Required));
        self
    }

    /// Asks clients for a certificate and serves those without one too. One that is shown must be
    /// good.
    pub fn request_client_certificate(mut self, roots: Roots) -> Self {
        self.clients = Some((roots, Need::Optional));
        self
    }

    /// The oldest version that is accepted; 1.2 unless said otherwise.
    pub fn oldest_version(mut self, version: Version) -> Self {
        self.oldest = version;
        self
    }

    /// Checks it all.
    ///
    /// # Errors
    ///
    /// [`Error`] names the setting, the file and the remedy.
    pub fn build(self) -> Result<Server, Error> {
        if self.identities.is_empty() {
            return Err(Error::NoIdentity);
        }
        let settings = |error: &dyn fmt::Display| Error::Settings { why: error.to_string() };
        let identities = Arc::new(Identities(RwLock::new(self.identities.into())));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.oldest.and_newer())
            .map_err(|error| settings(&error))?;
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some((roots, need)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), provider());
                let verifier = if need == Need::Optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| settings(&error))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&identities) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = alpn_list(self.alpn)?;
        // Clients that come back keep the state of their session themselves: resuming costs no
        // memory here, however many they are.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| settings(&error))?;
        Ok(Server { config: Arc::new(config), identities })
    }
}

/// Never empty.
struct Identities(RwLock<Arc<[Identity]>>);

impl Identities {
    /// Those of now. A handshake under way keeps them, whatever comes after.
    fn all(&self) -> Arc<[Identity]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.all()).finish()
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.all();
        let usable = |identity: &&Identity| identity.certified().key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            all.iter().find(|identity| usable(identity) && is_for(identity, &name))
        });
        let chosen = named.or_else(|| all.iter().find(usable)).or_else(|| all.first());
        chosen.map(|identity| Arc::clone(identity.certified()))
    }
}

fn is_for(identity: &Identity, name: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(identity.certificate()).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}
