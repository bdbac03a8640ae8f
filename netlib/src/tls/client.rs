//! The client's side: whom it calls, whom it trusts to vouch for the answer, and who it says it
//! is. There is no way to accept any certificate: for tests, trust the one you made.

use std::sync::Arc;
use std::{fmt, io};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::error::{Error, Origin};
use super::identity::{Identity, Roots, provider};
use super::layer::TlsLayer;
use super::{Version, alpn_list};
use crate::layer::{Layer, LayerFactory};

/// Makes the TLS of connections to one server. Its connections remember the server's last
/// sessions together and resume them, which saves both sides the certificates.
///
/// Thread rule: it may be shared and cloned freely.
///
/// ```
/// use std::sync::Arc;
/// use netlib::{ConnectOptions, tls};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let pem = made.cert.pem();
/// let client = tls::Client::builder("localhost", tls::Roots::from_pem(pem.as_bytes())?).alpn(["http/1.1"]).build()?;
/// let options = ConnectOptions { layer: Some(Arc::new(client)), ..ConnectOptions::default() };
/// # drop(options);
/// # Ok::<(), tls::Error>(())
/// ```
pub struct Client {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Client {
    /// For the server of this name, or address, which its certificate must be made out to, and
    /// which `roots` must vouch for.
    pub fn builder(server: impl Into<String>, roots: Roots) -> ClientBuilder {
        ClientBuilder { server: server.into(), roots, alpn: Vec::new(), identity: None, oldest: Version::default() }
    }

    /// The same for another server: shares the settings and the memory of sessions.
    ///
    /// # Errors
    ///
    /// If `server` is neither a name nor an address.
    pub fn for_server(&self, server: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { config: Arc::clone(&self.config), server: server_name(server.into())? })
    }
}

impl LayerFactory for Client {
    fn layer(&self) -> io::Result<Box<dyn Layer>> {
        let connection =
            ClientConnection::new(Arc::clone(&self.config), self.server.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsLayer::new(connection.into(), Some(self.server.to_str().into()))))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("tls::Client").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What a [`Client`] is built from.
///
/// ```no_run
/// use netlib::tls::{Client, Identity, Roots};
///
/// let client = Client::builder("db.example", Roots::system()?)
///     .identity(Identity::from_pem_files("ours.pem", "ours-key.pem")?)
///     .build()?;
/// let spare = client.for_server("db2.example")?;
/// # drop(spare);
/// # Ok::<(), netlib::tls::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    server: String,
    roots: Roots,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
    oldest: Version,
}

impl ClientBuilder {
    /// The application protocols to offer (ALPN). A server that knows ALPN and speaks none of
    /// them refuses; one that does not know it is accepted, with none chosen.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// The certificate to show to servers that ask for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
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
    pub fn build(self) -> Result<Client, Error> {
        if self.roots.is_empty() {
            return Err(Error::NoRoots { origin: Origin::Bytes });
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.oldest.and_newer())
            .map_err(|error| Error::Settings { why: error.to_string() })?
            .with_root_certificates(self.roots.store());
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                Arc::clone(identity.certified()),
            ))),
        };
        config.alpn_protocols = alpn_list(self.alpn)?;
        Ok(Client { config: Arc::new(config), server: server_name(self.server)? })
    }
}

fn server_name(name: String) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.as_str()).map(|name| name.to_owned()).map_err(|_| Error::BadServerName { name })
}
