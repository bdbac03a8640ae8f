//! Reads the login server's answer to `GET /msg_server`: which message server to connect to.
//! Sans-I/O; the session fetches the bytes.

use std::net::{IpAddr, SocketAddr};

use netlib::http::{ClientError, ClientResponse};
use serde_json::Value;

use crate::{Error, Options};

/// The path that clients ask (spec/http.md §1).
pub(crate) const PATH: &str = "/msg_server";

/// The step's name where it takes too long.
pub(crate) const TIMEOUT: &str = "the question for a message server";

/// The addresses to try, in order; never empty and without repetition.
pub(crate) fn read(answer: Result<ClientResponse, ClientError>, options: &Options) -> Result<Vec<SocketAddr>, Error> {
    let server = &options.server;
    match answer {
        Ok(response) if response.status == 200 => parse(&response.body).map_err(|error| match error {
            Error::Protocol(why) => Error::Protocol(format!("{server} answers {PATH}, but {why}")),
            other => other,
        }),
        Ok(response) => Err(Error::Protocol(format!(
            "{server} answers {PATH} with status {}; is it a TeamTalk login server?",
            response.status
        ))),
        Err(ClientError::Timeout) => Err(Error::Timeout { what: TIMEOUT, after: options.login_timeout }),
        Err(ClientError::Connection(reason)) => Err(Error::Unreachable {
            what: format!(
                "cannot reach the login server at {server}: {reason}; check that it runs there, or name another one"
            ),
        }),
        Err(error) => {
            Err(Error::Protocol(format!("{server} does not answer {PATH} as a TeamTalk login server: {error}")))
        }
    }
}

/// Codes 1 and 2 (no message server, all full) are [`Error::Refused`]: the system is there but
/// cannot take a client now.
fn parse(body: &[u8]) -> Result<Vec<SocketAddr>, Error> {
    let answer: Value = serde_json::from_slice(body)
        .map_err(|_| Error::Protocol("not with JSON; is it a TeamTalk login server?".to_owned()))?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str);
    let code =
        answer.get("code").and_then(Value::as_u64).ok_or_else(|| Error::Protocol("without a code".to_owned()))?;
    if code != 0 {
        let text = match code {
            1 => "no message server has registered at the login server yet",
            2 => "all message servers are full, try again later",
            _ => field("msg").unwrap_or("no reason given"),
        };
        return Err(Error::Refused { what: "to name a message server", code: code as u32, text: text.to_owned() });
    }
    // Published servers send the port as text; a number is accepted as well.
    let port = match answer.get("port") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        None => None,
    };
    let port: u16 =
        port.filter(|port| *port != 0).ok_or_else(|| Error::Protocol("without a usable port".to_owned()))?;
    let mut addresses = Vec::new();
    for name in ["priorIP", "backupIP"] {
        if let Some(ip) = field(name).and_then(|text| text.parse::<IpAddr>().ok()) {
            let addr = SocketAddr::new(ip, port);
            if !addresses.contains(&addr) {
                addresses.push(addr);
            }
        }
    }
    if addresses.is_empty() {
        let named = field("priorIP").unwrap_or_default();
        return Err(Error::Protocol(format!(
            "it names {named:?} as the message server's address, which is no IP address"
        )));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_answer_gives_one_address() {
        let body = r#"{ "backupIP" : "127.0.0.1", "code" : 0, "discovery" : "", "msfsBackup" : "", "msfsPrior" : "",
                        "msg" : "", "port" : "8000", "priorIP" : "127.0.0.1" }"#;
        assert_eq!(parse(body.as_bytes()), Ok(vec!["127.0.0.1:8000".parse().unwrap()]));
    }

    #[test]
    fn two_addresses_are_tried_in_order_and_a_numeric_port_is_accepted() {
        let body = br#"{"code":0,"priorIP":"10.0.0.1","backupIP":"10.0.0.2","port":8000}"#;
        let expected = ["10.0.0.1:8000", "10.0.0.2:8000"].map(|a| a.parse().unwrap());
        assert_eq!(parse(body), Ok(expected.to_vec()));
    }

    #[test]
    fn no_server_and_full_servers_are_refusals() {
        assert!(matches!(parse(br#"{"code":1,"msg":""}"#), Err(Error::Refused { code: 1, .. })));
        assert!(matches!(parse(br#"{"code":2,"msg":""}"#), Err(Error::Refused { code: 2, .. })));
    }

    #[test]
    fn foreign_answers_are_protocol_errors() {
        for body in [
            &b"<html>"[..],
            b"",
            b"[]",
            b"{}",
            br#"{"code":0}"#,
            br#"{"code":0,"priorIP":"10.0.0.1","port":"0"}"#,
            br#"{"code":0,"priorIP":"10.0.0.1","port":"70000"}"#,
            br#"{"code":0,"priorIP":"nowhere","port":"8000"}"#,
        ] {
            assert!(matches!(parse(body), Err(Error::Protocol(_))), "{}", String::from_utf8_lossy(body));
        }
    }
}
