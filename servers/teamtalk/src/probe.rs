//! The last step to readiness: a client that asks is told where to go. Each role may serve while
//! the msg server's registration is still on its way to the login server; a client that came then
//! would hear that there is no msg server.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tt_proto::{
    im::login::{ImMsgServReq, ImMsgServRsp},
    pdu::{self, PduRef},
};

use crate::failure::{Failure, Kind, Outcome};

/// How long the registration may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions. The registration is a matter of microseconds.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the login server, asked on its PDU port, names a msg server.
pub(crate) fn wait_until_named(login_pdu: SocketAddr) -> Outcome {
    let address = from_here(login_pdu);
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = is_named(address);
        match answer {
            Ok(true) => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(false) => {
                let text = format!("login on {address}: knows no msg server after {LIMIT:?}; the log says more");
                return Err(Failure::new(Kind::Role, text));
            }
            Err(error) => {
                return Err(Failure::new(Kind::Role, format_args!("login on {address}: {error}; the log says more")));
            }
        }
    }
}

fn is_named(login_pdu: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&login_pdu, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&pdu::encode(1, &ImMsgServReq::default()))?;
    // One question, one answer: the server closes after it.
    let mut frame = Vec::new();
    stream.read_to_end(&mut frame)?;
    let answer: ImMsgServRsp = PduRef::parse(&frame).map_err(io::Error::other)?.decode().map_err(io::Error::other)?;
    Ok(answer.result_code == 0)
}

/// A listener's address as a client on this machine reaches it.
pub(crate) fn from_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_reached_on_loopback_and_others_as_they_are() {
        for (listener, here) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("192.0.2.1:8080", "192.0.2.1:8080")]
        {
            let address = listener.parse().expect("an address");
            assert_eq!(from_here(address).to_string(), here);
        }
    }
}
