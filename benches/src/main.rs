//! What netlib is measured against.
fn main() {}
