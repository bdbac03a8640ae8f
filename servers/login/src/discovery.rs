//! The HTTP answer to "where do I sign in?", with the bytes that every published client has been parsing since
//! 2015 (spec/http.md §1): indented by three spaces, keys in alphabetical order, the port as a string, and
//! header lines without a space after the colon.

use std::fmt::Write;

use netlib::http::Response;

use crate::config::Config;
use crate::directory::Choice;

/// Whether a request is for us: the recorded server compares the beginning of the target, nothing else.
pub(crate) fn is_asked_for(target: &str) -> bool {
    target.starts_with("/msg_server")
}

/// The whole response.
pub(crate) fn answer(choice: Choice<'_>, config: &Config) -> Response {
    let body = body(choice, config);
    Response::new(200)
        .header_raw("Connection:close")
        .header_raw(&format!("Content-Length:{}", body.len()))
        .header_raw("Content-Type:text/html;charset=utf-8")
        .body(body)
}

fn body(choice: Choice<'_>, config: &Config) -> String {
    match choice {
        Choice::Server(server) => object(&[
            ("backupIP", quoted(&server.ip2)),
            ("code", "0".to_owned()),
            ("discovery", quoted(&config.discovery)),
            ("msfsBackup", quoted(&config.msfs)),
            ("msfsPrior", quoted(&config.msfs)),
            ("msg", quoted("")),
            ("port", quoted(&server.port.to_string())),
            ("priorIP", quoted(&server.ip1)),
        ]),
        Choice::NoServer => object(&[("code", "1".to_owned()), ("msg", quoted("没有msg_server"))]),
        Choice::AllFull => object(&[("code", "2".to_owned()), ("msg", quoted("负载过高"))]),
    }
}

fn object(members: &[(&str, String)]) -> String {
    let lines: Vec<String> = members.iter().map(|(key, value)| format!("   {} : {value}", quoted(key))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// A JSON string; what is not ASCII stays as it is, as the recorded server has it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a String cannot fail.
            c if c < ' ' => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::MsgServer;

    /// Recorded from the published server; its msg server was at port 28000.
    const RECORDED: &str = include_str!("../tests/recorded/msg_server.http");

    #[test]
    fn the_answer_has_the_recorded_bytes() {
        let config = Config { msfs: "http://127.0.0.1:28700/".to_owned(), ..Config::default() };
        let ip = || "127.0.0.1".to_owned();
        let server = MsgServer { ip1: ip(), ip2: ip(), port: 28_000, max: 10, current: 0 };
        assert_eq!(answer(Choice::Server(&server), &config).to_bytes(), RECORDED);
    }

    #[test]
    fn a_refusal_is_as_published() {
        let config = Config::default();
        assert_eq!(body(Choice::NoServer, &config), "{\n   \"code\" : 1,\n   \"msg\" : \"没有msg_server\"\n}\n");
        assert_eq!(body(Choice::AllFull, &config), "{\n   \"code\" : 2,\n   \"msg\" : \"负载过高\"\n}\n");
    }

    #[test]
    fn whatever_is_configured_stays_inside_its_string() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é"), r#""a\"b\\c\nd\u0001é""#);
    }
}
