//! What went wrong between us and a peer, in words for the person who reads the log: they end up
//! in [`CloseReason::Protocol`](crate::CloseReason::Protocol).

use std::io;

use rustls::AlertDescription as Alert;
use rustls::{Error, InvalidMessage, PeerIncompatible};

/// A certificate with thousands of names would otherwise fill the log, at the peer's will.
const LONGEST: usize = 400;

/// What rustls refused. `opening` is how the peer's first bytes were, `server` which side we are.
pub(super) fn invalid(error: &Error, opening: &[u8], server: bool) -> io::Error {
    let mut text = match error {
        Error::InvalidMessage(what) => not_tls(what, opening, server).unwrap_or_else(|| error.to_string()),
        Error::AlertReceived(alert) => refused(*alert),
        Error::InvalidCertificate(why) => format!("the peer's certificate is refused: {why}"),
        Error::NoCertificatesPresented => "the peer shows no certificate, and one is required".to_owned(),
        Error::NoApplicationProtocol => "no application protocol (ALPN) is spoken by both sides".to_owned(),
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered | PeerIncompatible::Tls12NotOfferedOrEnabled) => {
            "the peer speaks no version of TLS that is spoken here".to_owned()
        }
        other => other.to_string(),
    };
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The stream ended without its good-bye.
pub(super) fn cut_off() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the stream was cut off: the connection ended without a TLS close_notify, so the end of the data may be missing",
    )
}

/// The peer left before there was a session.
pub(super) fn cut_off_in_handshake() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection during the TLS handshake")
}

/// The peer keeps us busy.
pub(super) fn fruitless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the peer sends TLS messages without end and no data in them")
}

/// Says so if the peer never spoke TLS at all.
fn not_tls(what: &InvalidMessage, opening: &[u8], server: bool) -> Option<String> {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS", b"CONNECT", b"PATCH ", b"TRACE "];
    // Content types of records: 20 to 24. Anything else at the very beginning is no TLS.
    if opening.first().is_none_or(|first| (20..=24).contains(first)) {
        return None;
    }
    Some(if server && METHODS.iter().any(|method| opening.starts_with(method)) {
        "plain HTTP on a port that speaks TLS: the client should use https:// (or wss://)".to_owned()
    } else if !server && opening.starts_with(b"HTTP/") {
        "the server answers in plain HTTP: this port does not speak TLS".to_owned()
    } else {
        format!("the peer does not speak TLS: it began with \"{}\" ({what:?})", opening.escape_ascii())
    })
}

/// The alerts that a person can do something about, in words.
fn refused(alert: Alert) -> String {
    let hint = match alert {
        Alert::UnknownCA => "it does not trust who issued our certificate",
        Alert::CertificateExpired => "our certificate has expired, or one of our clocks is wrong",
        Alert::CertificateRevoked => "our certificate has been revoked",
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "it does not accept our certificate"
        }
        Alert::CertificateRequired => "it requires a certificate of us",
        Alert::NoApplicationProtocol => "it speaks none of our application protocols (ALPN)",
        Alert::ProtocolVersion => "it does not speak our versions of TLS",
        Alert::HandshakeFailure | Alert::InsufficientSecurity => "we have no cipher or key type in common",
        Alert::UnrecognisedName => "it does not know the server name that we asked for",
        Alert::AccessDenied => "it denies us access",
        _ => return format!("the peer gave up with the TLS alert {alert:?}"),
    };
    format!("the peer refused us: {hint} (TLS alert {alert:?})")
}
