//! What the log must not say: passwords and the text of messages, at any level.

use std::sync::{Mutex, Once};

use tt_proto::im::base_define::ResultType;
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::message::ImMsgDataAck;
use tt_proto::im::server::{ImValidateReq, ImValidateRsp};
use tt_proto::pdu::MAX_TEXT;

use crate::support::{PC, World, login_request, text};

/// Keeps every line of every server in this process.
struct Recorder;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().expect("no test panics while it logs").push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Recorder).expect("the only logger");
        log::set_max_level(log::LevelFilter::Trace);
    });
}

#[test]
fn no_password_and_no_text_is_in_a_log_line() {
    record();
    let mut world = World::new();
    let mut refused = world.server.connect();
    let password = "secret-password-digest";
    refused.send(1, &ImLoginReq { password: password.into(), ..login_request(5, PC) });
    let (seq, request) = world.db.expect::<ImValidateReq>();
    assert_eq!(request.password, password, "passed on as it is");
    let refusal = ImValidateRsp {
        user_name: request.user_name,
        result_code: 1,
        attach_data: request.attach_data,
        ..ImValidateRsp::default()
    };
    world.db.send(seq, &refusal);
    let (_, answer) = refused.expect::<ImLoginRes>();
    assert_eq!(answer.result_code, ResultType::RefuseReasonDbValidateFailed as i32);

    let mut sender = world.sign_in(1, PC);
    let words = "secret-words";
    sender.send(1, &text(2, words));
    world.store(1);
    sender.expect::<ImMsgDataAck>();
    sender.send(2, &text(1, words));
    sender.send(3, &text(2, &words.repeat(MAX_TEXT)));
    sender.send(4, &text(2, words));
    world.store(0);
    world.expect_nothing_at_the_store(&mut sender);

    let lines = LINES.lock().expect("no test panics while it logs");
    assert!(lines.iter().any(|line| line.contains("refused")), "the refusals are logged: {lines:?}");
    for line in lines.iter() {
        for secret in [password, words, "5f4dcc3b5aa765d61d8327deb882cf99"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}
