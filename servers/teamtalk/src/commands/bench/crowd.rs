//! What loads with many clients share: the reactor that they live in, and the addresses that they
//! come from. A client machine has 28,000 ports for each address it connects from, and servers limit
//! what one address may do; on loopback a crowd therefore comes from many addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netlib::{Context, Reactor, ReactorConfig};
use tt_client::{ClientClass, Event, Options, SendLimit, Session};

use super::{System, client_failed};
use crate::failure::{Failure, Kind, Outcome};

/// Addresses of 127.0.0.0/8 that clients come from.
const ADDRESSES: usize = 1_000;

/// Where the `number`th client of a crowd connects from: None leaves it to the system.
pub(super) fn address(server: SocketAddr, number: usize) -> Option<IpAddr> {
    let number = number % ADDRESSES;
    server.ip().is_loopback().then_some(()).filter(|()| server.is_ipv4())?;
    Some(Ipv4Addr::new(127, 100, (number / 250) as u8, 1 + (number % 250) as u8).into())
}

/// Runs `state` until it stops itself. `begin` starts its clients.
pub(super) fn run<S: 'static>(state: &mut S, begin: impl FnOnce(&mut S, &mut Context<S>)) -> Outcome {
    let failed = |error: std::io::Error| Failure::new(Kind::Other, format_args!("the clients' loop: {error}"));
    let mut reactor = Reactor::<S>::new(ReactorConfig::default()).map_err(failed)?;
    begin(state, reactor.context());
    reactor.run(state).map_err(failed)
}

/// What a msg server says of itself to the first client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scouted {
    pub(super) server: SocketAddr,
    pub(super) limit: Option<SendLimit>,
}

/// The sign-in of the person with that number, at the server that was found and from an address of its own. It may
/// take long: many sign in at once.
pub(super) fn member(system: &System, scouted: &Scouted, number: usize, class: ClientClass) -> Options {
    let mut options = system.options(&system.people[number], class);
    options.message_server = Some(scouted.server);
    options.local_address = address(scouted.server, number);
    options.login_timeout = Duration::from_mins(1);
    options
}

/// Signs one client in the way every client does, and out again: says which msg server the login
/// server names, and fails in words if something is wrong with the system or the accounts.
pub(super) fn scout(system: &System) -> Outcome<Scouted> {
    #[derive(Default)]
    struct Scout {
        session: Option<Session<Scout>>,
        found: Option<Scouted>,
        ended: Option<tt_client::Error>,
    }
    let mut scout = Scout::default();
    let options = system.options(&system.people[0], ClientClass::Mobile);
    run(&mut scout, |scout, cx| {
        scout.session = Some(Session::open(cx, options, |scout: &mut Scout, cx, event| match event {
            Event::Online { .. } => {
                let Some(session) = &scout.session else { return };
                scout.found = session.server().map(|server| Scouted { server, limit: session.send_limit() });
                session.close(cx);
            }
            Event::Closed(error) => {
                scout.ended = Some(error);
                cx.stop();
            }
            _ => {}
        }));
    })?;
    match (scout.found, scout.ended) {
        (Some(found), _) => Ok(found),
        (None, Some(error)) => Err(client_failed(&error)),
        (None, None) => Err(Failure::new(Kind::Other, "the first client got no answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_on_loopback_comes_from_many_addresses_and_elsewhere_from_the_one_there_is() {
        let loopback: SocketAddr = "127.0.0.1:8000".parse().expect("an address");
        let addresses: std::collections::HashSet<_> = (0..5_000).map(|number| address(loopback, number)).collect();
        assert_eq!(addresses.len(), ADDRESSES);
        assert!(addresses.iter().flatten().all(IpAddr::is_loopback));
        assert_eq!(address("192.0.2.1:8000".parse().expect("an address"), 3), None);
        assert_eq!(address("[::1]:8000".parse().expect("an address"), 3), None);
    }
}
