//! The password digests of the 2015 system: what a client sends and what the user table holds.
//!
//! Neither protects anybody by today's measure: what is sent can be replayed, and MD5 is fast to guess. They
//! are what old clients and existing tables contain. Formulas: spec/security.md §2, spec/storage.md §5.

use std::fmt::Write;

use md5::{Digest, Md5};

/// What a client sends for `password`: lower-case hex MD5, 32 characters.
///
/// ```
/// assert_eq!(tt_proto::password::wire_digest("123456"), "e10adc3949ba59abbe56e057f20f883e");
/// ```
pub fn wire_digest(password: &str) -> String {
    hex(&[password])
}

/// What the user table holds for a digest `wire` as received: lower-case hex MD5 of it and the salt.
///
/// ```
/// use tt_proto::password::{stored_digest, wire_digest};
/// assert_eq!(stored_digest(&wire_digest("123456"), "1234"), "b605e86d02eef8bfd0646f6a704c17c9");
/// ```
pub fn stored_digest(wire: &str, salt: &str) -> String {
    hex(&[wire, salt])
}

fn hex(parts: &[&str]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().iter().fold(String::with_capacity(32), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
