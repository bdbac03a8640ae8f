//! Which back end runs: the one that was asked for, or in production, where the kernel refuses
//! io_uring, epoll and a line in the log that says why.

use std::io::{ErrorKind, Write};
use std::process::{Command, Output};
use std::thread;

use netlib::backend::BackendKind;
use netlib::sys::faults::refuse_io_uring;
use netlib::{Reactor, ReactorConfig};

#[test]
fn a_refused_io_uring_is_an_error_where_it_is_asked_for_strictly() {
    in_a_sandbox("a_refused_io_uring_is_an_error_where_it_is_asked_for_strictly", || {
        let io_uring = [BackendKind::UringPoll, BackendKind::Uring];
        for kind in io_uring {
            let refused = kind.open().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            let config = ReactorConfig { backend: Some(kind), fallback: false, ..ReactorConfig::default() };
            assert_eq!(Reactor::<()>::new(config).unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        // The others are not concerned.
        for kind in BackendKind::ALL.into_iter().filter(|kind| !io_uring.contains(kind)) {
            assert_eq!(kind.open_or_fall_back().unwrap().0, kind);
        }
    });
}

#[test]
fn a_swap_to_a_refused_io_uring_leaves_the_loop_where_it_is() {
    in_a_sandbox("a_swap_to_a_refused_io_uring_leaves_the_loop_where_it_is", || {
        let config = ReactorConfig { backend: Some(BackendKind::Poll), ..ReactorConfig::default() };
        let mut reactor = Reactor::<()>::new(config).unwrap();
        let before = reactor.context().backend_name();
        assert_eq!(reactor.swap_backend(BackendKind::UringPoll).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(reactor.context().backend_name(), before);
    });
}

#[test]
fn a_server_told_to_use_a_refused_io_uring_runs_on_epoll_and_logs_why() {
    let output = child("a_server_in_a_sandbox", |command| command.env_remove(BackendKind::ENV_STRICT));
    let said = String::from_utf8_lossy(&output.stderr);
    if skipped(&said) {
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("runs on epoll-et"), "{said}");
    let warning =
        "WARN the back end uring-poll is refused here (Operation not permitted (os error 1)): epoll-et takes its place";
    assert!(said.contains(warning), "{said}");
}

#[test]
fn nothing_falls_back_while_tests_run() {
    let output = child("a_server_in_a_sandbox", |command| command.env(BackendKind::ENV_STRICT, "1"));
    let said = String::from_utf8_lossy(&output.stderr);
    if skipped(&said) {
        return;
    }
    assert!(!output.status.success(), "{said}");
    assert!(!said.contains("runs on"), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
}

#[test]
fn cargo_forbids_the_fallback() {
    assert_eq!(std::env::var(BackendKind::ENV_STRICT).as_deref(), Ok("1"), "see .cargo/config.toml");
}

#[test]
#[ignore = "run by the tests above in a process of its own"]
fn a_server_in_a_sandbox() {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            eprintln!("{} {}", record.level(), record.args());
        }
        fn flush(&self) {}
    }
    log::set_logger(&Stderr).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    in_a_sandbox("a_server_in_a_sandbox", || {
        // As a server does it: what NETLIB_BACKEND says.
        let mut reactor = Reactor::<()>::new(ReactorConfig::default()).unwrap();
        eprintln!("runs on {}", reactor.context().backend_name());
    });
}

fn child(test: &str, configure: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", test]).env(BackendKind::ENV, "uring-poll");
    configure(&mut command).output().unwrap()
}

/// The kernel's filter is for one thread and does not come off, so it gets a thread of its own.
fn in_a_sandbox(test: &'static str, body: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(move || match refuse_io_uring() {
        Ok(()) => body(),
        Err(error) => say(&format!("SKIPPED {test}: no system call filters here: {error}")),
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

fn skipped(said: &str) -> bool {
    let line = said.lines().find(|line| line.starts_with("SKIPPED"));
    if let Some(line) = line {
        say(line);
    }
    line.is_some()
}

/// Past the harness, which keeps what a test that passes prints.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
