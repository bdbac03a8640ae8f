//! What holds for every thread that touches the store: a panic ends the process. Half a server,
//! with requests that are never answered, would be worse than one that is restarted.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::process;

use tt_common::role::EXIT_LOOP_BROKE;

/// Runs `work`; if it panics, says where and ends the process.
pub(crate) fn or_exit<T>(who: &str, work: impl FnOnce() -> T) -> T {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        log::error!("{who} broke: {}; the process ends", text_of(panic.as_ref()));
        process::exit(EXIT_LOOP_BROKE)
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without text")
}
