//! Roles: they start, say so, stop when asked, and a broken loop ends the process.

mod support;

use std::process::Command;

use netlib::Context;
use support::{DEADLINE, http_get};
use tt_common::role::{self, EXIT_LOOP_BROKE, Ready, RoleError, StartError};
use tt_common::{Metrics, Role, metrics_http};

struct Quiet;

impl Role for Quiet {
    fn stop(&mut self, cx: &mut Context<Self>) {
        cx.stop();
    }
}

#[test]
fn a_role_is_ready_once_it_says_so_and_ends_when_asked() {
    let role = role::spawn("quiet", |cx, ready| {
        assert_eq!(std::thread::current().name(), Some("quiet"));
        // Readiness may come long after the setup, such as when links are up.
        cx.post(move |_, _| ready.signal());
        Ok(Quiet)
    })
    .expect("a thread");
    role.wait_ready(DEADLINE).expect("it is ready");
    role.stop();
    role.stop();
    role.join();
}

#[test]
fn a_setup_that_fails_is_reported_to_whoever_waits() {
    let role = role::spawn::<Quiet>("quiet", |_, _| Err("no such thing".into())).expect("a thread");
    let error = role.wait_ready(DEADLINE).expect_err("it failed");
    assert!(matches!(error, RoleError::Start { .. }));
    assert_eq!(error.to_string(), "quiet: no such thing");
    role.join();
}

#[test]
fn a_role_that_ends_without_a_word_is_not_waited_for() {
    let role = role::spawn("quiet", |cx, _ready| {
        cx.stop();
        Ok(Quiet)
    })
    .expect("a thread");
    assert!(matches!(role.wait_ready(DEADLINE), Err(RoleError::Ended("quiet"))));
}

const CHILD: &str = "TT_TEST_BROKEN_LOOP";

#[test]
fn a_broken_loop_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let fault = |_: &mut Context<Quiet>, _: Ready| -> Result<Quiet, StartError> { panic!("a planted fault") };
        let role = role::spawn("fragile", fault);
        role.expect("a thread").join();
        unreachable!("the process has ended");
    }
    let this_test = std::env::current_exe().expect("a path");
    let mut child = Command::new(this_test);
    child.args(["--exact", "a_broken_loop_ends_the_process"]).env(CHILD, "1");
    assert_eq!(child.output().expect("it runs").status.code(), Some(EXIT_LOOP_BROKE));
}

#[test]
fn the_operators_port_tells_counts_and_health() {
    struct Sick(bool);
    impl Role for Sick {
        fn stop(&mut self, cx: &mut Context<Self>) {
            // Stands for a role that drains: it says so until it ends.
            if std::mem::replace(&mut self.0, true) {
                cx.stop();
            }
        }
    }
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = socket.local_addr().expect("bound");
    let role = role::spawn("sick", |cx, ready| {
        let metrics = Metrics::new();
        metrics.received(0x0701, 16);
        metrics_http::serve(
            cx,
            socket,
            metrics,
            |role: &mut Sick| {
                if role.0 { Err("stopping".to_owned()) } else { Ok(()) }
            },
        )?;
        ready.signal();
        Ok(Sick(false))
    })
    .expect("a thread");
    let metrics = http_get(addr, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(metrics.contains("teamtalk_pdus_total{direction=\"in\",command=\"CID_OTHER_HEARTBEAT\"} 1"), "{metrics}");
    assert!(http_get(addr, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(http_get(addr, "/").starts_with("HTTP/1.1 404 "));
    role.stop();
    let sick = http_get(addr, "/healthz");
    assert!(sick.starts_with("HTTP/1.1 503 ") && sick.ends_with("stopping\n"), "{sick}");
    role.stop();
    role.join();
}
