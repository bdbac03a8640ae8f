//! Messages by their descriptors: what a table, a recording or a generator says by name.

use std::sync::LazyLock;

use protox::prost_reflect::{DescriptorPool, MessageDescriptor};

/// The published `.proto` files and ours.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto");
    let files = std::fs::read_dir(root).expect("the protocol's files").map(|entry| entry.expect("an entry").path());
    DescriptorPool::from_file_descriptor_set(protox::compile(files, [root]).expect("they compile"))
        .expect("they resolve")
});

/// A message by its full name.
pub(crate) fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name).unwrap_or_else(|| panic!("there is no message {name}"))
}
