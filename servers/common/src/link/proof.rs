//! The proof that opens a link after the greeting (0x07f1, spec/gaps.md §0.6): each side shows that it knows
//! the cluster's secret by authenticating both greetings with it, so also that they came as they were sent.
//!
//! The nonces make every proof good for one connection; the side keeps a proof from being sent back to who
//! made it. It shows who is at the other end, not what comes over the link later: links between machines
//! belong on a private network.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tt_proto::im::extension::ImLinkProof;

/// Which end of the connection proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Side {
    Dialler = 1,
    Listener = 2,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }
}

/// Bytes that a nonce must have for a proof over it to be worth something.
pub(super) const MIN_NONCE: usize = 16;

const LABEL: &[u8] = b"teamtalk link proof 1";

/// The proof of `side`, whose greeting was `own`, to a peer whose greeting was `peers`: their encoded bodies.
pub(super) fn prove(secret: &[u8], side: Side, own: &[u8], peers: &[u8]) -> ImLinkProof {
    let mac = mac(secret, side, own, peers).finalize().into_bytes();
    ImLinkProof { mac: Some(Bytes::copy_from_slice(&mac)) }
}

/// Whether that is the proof of `side` for these two greetings. Takes the same time whatever is wrong.
pub(super) fn holds(secret: &[u8], side: Side, own: &[u8], peers: &[u8], proof: &ImLinkProof) -> bool {
    mac(secret, side, own, peers).verify_slice(proof.mac.as_deref().unwrap_or_default()).is_ok()
}

fn mac(secret: &[u8], side: Side, own: &[u8], peers: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(LABEL);
    mac.update(&[side as u8]);
    for greeting in [own, peers] {
        // With its length, so that no byte can change from one greeting to the other.
        mac.update(&(greeting.len() as u64).to_be_bytes());
        mac.update(greeting);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"correct horse battery staple";

    #[test]
    fn a_proof_holds_for_its_secret_side_and_greetings_only() {
        let proof = prove(SECRET, Side::Dialler, b"own", b"peers");
        assert!(holds(SECRET, Side::Dialler, b"own", b"peers", &proof));
        assert!(!holds(b"another secret", Side::Dialler, b"own", b"peers", &proof));
        assert!(!holds(SECRET, Side::Listener, b"own", b"peers", &proof), "sent back to who made it");
        assert!(!holds(SECRET, Side::Dialler, b"peers", b"own", &proof));
        assert!(!holds(SECRET, Side::Dialler, b"ownp", b"eers", &proof));
        assert!(!holds(SECRET, Side::Dialler, b"own", b"peers", &ImLinkProof::default()));
        let cut = ImLinkProof { mac: proof.mac.map(|mac| mac.slice(..16)) };
        assert!(!holds(SECRET, Side::Dialler, b"own", b"peers", &cut), "half a proof is none");
    }

    /// RFC 2104 over what this file's head describes, computed by another implementation.
    #[test]
    fn the_bytes_are_the_documented_ones() {
        let proof = prove(b"0123456789abcdef", Side::Listener, b"\x08\x03", b"\x08\x02");
        let number = proof.mac.iter().flatten().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert_eq!(number, "f65e4b20787a40331e7f0e83981a9c0f2154c83a9ec1ecc9dd84cab222d926c7");
    }
}
