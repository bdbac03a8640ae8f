//! Certificates for the TLS tests, made on the spot: nothing secret is ever committed.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of this module

use netlib::tls::{self, Identity, Roots};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Somebody who vouches for certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate chain and its key, as PEM.
pub struct Made {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs itself").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).expect("good roots")
    }

    /// The same for rustls itself, where it plays the peer.
    pub fn rustls_roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("just made")).expect("good");
        roots
    }

    pub fn issue(&self, names: &[&str]) -> Made {
        self.issue_with(names, |_| ())
    }

    pub fn issue_rsa(&self, names: &[&str]) -> Made {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
        self.issue_for(names, &key, |_| ())
    }

    pub fn issue_expired(&self, names: &[&str]) -> Made {
        self.issue_with(names, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
        self.issue_for(names, &KeyPair::generate().expect("a key"), change)
    }

    fn issue_for(&self, names: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.distinguished_name.push(DnType::CommonName, "netlib test");
        change(&mut params);
        let chain = params.signed_by(key, &self.issuer).expect("signs").pem();
        Made { chain, key: key.serialize_pem() }
    }

    /// A server for these names with no further settings.
    pub fn server(&self, names: &[&str]) -> tls::Server {
        tls::Server::builder().identity(self.issue(names).identity()).build().expect("a server")
    }

    /// A client that trusts this authority.
    pub fn client(&self, server: &str) -> tls::Client {
        tls::Client::builder(server, self.roots()).build().expect("a client")
    }
}

impl Made {
    pub fn identity(&self) -> Identity {
        Identity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a good identity")
    }

    /// The certificate as DER, to recognise it by.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("just made").to_vec()
    }
}
