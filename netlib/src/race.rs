//! Connecting to a host of several addresses, so that one that does not answer costs a quarter of
//! a second and not the whole time limit ("happy eyeballs", RFC 8305): the families take turns, each
//! attempt has a head start of [`HEAD_START`] before the next one, a failure starts the next at once,
//! and the first to connect wins. The losers' sockets are closed.
//!
//! The connection has its slot, handle and deadline from the beginning; it is given its socket when
//! there is a winner. Until then the attempts are sources of the loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Interest;
use crate::conn::{State, flag};
use crate::conn_options::CloseReason;
use crate::connector::ConnectOptions;
use crate::context::Context;
use crate::layer::LayerFactory;
use crate::resolver::Resolver;
use crate::socket::{SocketOptions, Stream};
use crate::source::SourceId;
use crate::timer::TimerId;
use crate::token::Token;
use crate::transport::Transport;

/// RFC 8305 §5, "Connection Attempt Delay".
const HEAD_START: Duration = Duration::from_millis(250);

/// The connects by name that are under way.
#[derive(Debug, Default)]
pub(crate) struct Dialling {
    pub(crate) resolver: Resolver,
    races: HashMap<Token, Race>,
}

#[derive(Debug)]
struct Race {
    name: Arc<str>,
    port: u16,
    socket: SocketOptions,
    layer: Option<Arc<dyn LayerFactory>>,
    /// Not tried yet.
    left: VecDeque<SocketAddr>,
    running: Vec<Attempt>,
    /// How many were begun.
    begun: usize,
    /// The end of the latest one's head start.
    next: Option<TimerId>,
    /// Why the latest failure was one.
    failure: io::ErrorKind,
}

#[derive(Debug)]
struct Attempt {
    number: usize,
    addr: SocketAddr,
    /// The source has another handle to it, until it is removed.
    stream: Rc<Stream>,
    source: SourceId,
}

impl<S: 'static> Context<S> {
    /// Looks `name` up and connects the connection of that token to one of its addresses.
    pub(crate) fn dial_host(
        &mut self,
        token: Token,
        name: Arc<str>,
        port: u16,
        options: &ConnectOptions,
    ) -> io::Result<()> {
        self.look_up(token, &name, port)?;
        let race = Race {
            name,
            port,
            socket: options.socket,
            layer: options.layer.clone(),
            left: VecDeque::new(),
            running: Vec::new(),
            begun: 0,
            next: None,
            failure: io::ErrorKind::NotFound,
        };
        self.dialling.races.insert(token, race);
        Ok(())
    }

    pub(crate) fn race(&mut self, token: Token, addresses: &[SocketAddr]) {
        if let Some(race) = self.dialling.races.get_mut(&token) {
            race.left = take_turns(addresses);
            self.next_attempt(token);
        }
    }

    /// Begins the next attempt; ends the connection if that was the last one.
    fn next_attempt(&mut self, token: Token) {
        let Some(race) = self.dialling.races.get_mut(&token) else { return };
        if let Some(timer) = race.next.take() {
            self.timers.remove(timer);
        }
        while let Some(race) = self.dialling.races.get_mut(&token)
            && let Some(addr) = race.left.pop_front()
        {
            match self.attempt(token, addr) {
                Ok(()) => break,
                Err(error) => self.attempt_failed(token, addr, &error),
            }
        }
        let Some(race) = self.dialling.races.get_mut(&token) else { return };
        if race.running.is_empty() {
            let failure = race.failure;
            self.race_lost(token, failure);
        } else if !race.left.is_empty() {
            let timer = self.after(HEAD_START, move |_, cx| cx.next_attempt(token));
            if let Some(race) = self.dialling.races.get_mut(&token) {
                race.next = Some(timer);
            }
        }
    }

    fn attempt(&mut self, token: Token, addr: SocketAddr) -> io::Result<()> {
        let Some(race) = self.dialling.races.get_mut(&token) else { return Ok(()) };
        let stream = Rc::new(Stream::connect_with(&addr.into(), &race.socket)?);
        let number = race.begun;
        race.begun += 1;
        let source = self.add_source(Rc::clone(&stream), Interest::WRITABLE, move |_, cx, _, _| {
            cx.attempt_ready(token, number);
        })?;
        if let Some(race) = self.dialling.races.get_mut(&token) {
            race.running.push(Attempt { number, addr, stream, source });
        }
        Ok(())
    }

    fn attempt_ready(&mut self, token: Token, number: usize) {
        let Some(race) = self.dialling.races.get_mut(&token) else { return };
        let Some(at) = race.running.iter().position(|attempt| attempt.number == number) else { return };
        let Some(outcome) = race.running[at].stream.connect_outcome() else { return };
        let attempt = race.running.swap_remove(at);
        let layer = race.layer.clone();
        // This is its callback, so it is gone only when that ends.
        self.remove_source(attempt.source);
        match outcome {
            Ok(()) => {
                self.end_race(token);
                let Attempt { addr, stream, .. } = attempt;
                self.post(move |state, cx| cx.race_won(state, token, addr, stream, layer));
            }
            Err(error) => {
                self.attempt_failed(token, attempt.addr, &error);
                self.next_attempt(token);
            }
        }
    }

    fn attempt_failed(&mut self, token: Token, addr: SocketAddr, error: &io::Error) {
        if let Some(race) = self.dialling.races.get_mut(&token) {
            log::debug!("connect to {} at {addr}: {error}", race.name);
            race.failure = error.kind();
        }
    }

    fn race_won(
        &mut self,
        state: &mut S,
        token: Token,
        addr: SocketAddr,
        stream: Rc<Stream>,
        layer: Option<Arc<dyn LayerFactory>>,
    ) {
        // It may have been closed meanwhile, and then the stream is.
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        if conn.0.state.get() != State::Connecting {
            return;
        }
        let Ok(stream) = Rc::try_unwrap(stream) else { unreachable!("its source was removed in *Ready*") };
        let layer = match layer.map(|factory| factory.layer()).transpose() {
            Ok(layer) => layer,
            Err(error) => {
                log::error!("connect to {addr}: no layer for it: {error}");
                return conn.end(CloseReason::ConnectFailed(error.kind()), true);
            }
        };
        let transport = Transport::new(stream, layer);
        if transport.is_layered() {
            conn.set(flag::LAYERED);
        }
        *conn.0.transport.borrow_mut() = transport;
        // It is set here alone, and a race is won once.
        let _ = conn.0.peer.set(addr.into());
        self.connected(state, token, &conn);
    }

    pub(crate) fn race_lost(&mut self, token: Token, failure: io::ErrorKind) {
        self.end_race(token);
        if let Some(slot) = self.slots.conn_mut(token) {
            slot.conn.end(CloseReason::ConnectFailed(failure), true);
        }
    }

    /// Stops what is under way for the connection, if it is connecting by name.
    pub(crate) fn end_race(&mut self, token: Token) {
        if self.dialling.races.is_empty() {
            return;
        }
        let Some(race) = self.dialling.races.remove(&token) else { return };
        self.forget_look_up(token, &race.name, race.port);
        if let Some(timer) = race.next {
            self.timers.remove(timer);
        }
        for attempt in race.running {
            self.remove_source(attempt.source);
        }
    }
}

/// The addresses in the order of their trying: the families alternate, beginning with that of the
/// first, each in the order of the answer (RFC 8305 §4).
fn take_turns(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let Some(first) = addresses.first() else { return VecDeque::new() };
    let (same, other): (Vec<_>, Vec<_>) = addresses.iter().partition(|addr| addr.is_ipv6() == first.is_ipv6());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut turns = VecDeque::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return turns;
        }
        for addr in pair.into_iter().flatten() {
            // Some resolvers name an address once for each kind of socket.
            if !turns.contains(addr) {
                turns.push_back(*addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_nobody_is_tried_twice() {
        let addrs = |list: &[&str]| list.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let answer = addrs(&["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let tried = addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(take_turns(&answer), tried);
        assert_eq!(take_turns(&[]), []);
    }
}
