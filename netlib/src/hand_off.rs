//! How a connection gets from the loop that accepted it to the one that serves it: a door on each
//! of the other loops, and the accepting loop's turns over them. What it is not: a way to move a
//! connection that is served already. Which loops have doors is decided in `reactor_pool.rs`, and
//! what comes in is admitted in `listener.rs` like what a socket accepts.
//!
//! A descriptor on its way is owned by its door, so it cannot be lost with a post: a door that is
//! dropped with its loop closes what waits there.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::context::Remote;
use crate::socket::{self, Address, ListeningSocket, SocketOptions, Stream};
use crate::token::Token;

/// Connections that may wait at one door: a loop that is held up holds up no more than these. The
/// others pass it by.
const ROOM: usize = 128;

/// An accepted socket and its peer.
pub(crate) type Arrival = (Stream, Address);

/// Where a listener's connections come from.
#[derive(Debug)]
pub(crate) enum Intake {
    Socket(ListeningSocket),
    /// From the loop that has the socket.
    Door(Inside),
}

impl Intake {
    /// The next connection; `WouldBlock` if none waits.
    pub(crate) fn accept(&self, options: &SocketOptions) -> io::Result<Arrival> {
        match self {
            Self::Socket(socket) => socket::accept_with(socket, options),
            Self::Door(inside) => inside.door.take().ok_or_else(|| io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Gets it ready for a reactor.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.prepare(),
            Self::Door(_) => Ok(()),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Socket(socket) => socket.local_addr(),
            Self::Door(inside) => Ok(inside.local.clone()),
        }
    }

    /// What the back end is to watch, if anything.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Door(_) => None,
        }
    }
}

/// A queue of connections between two loops.
#[derive(Debug, Default)]
struct Door(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    arrivals: VecDeque<Arrival>,
    shut: bool,
}

/// Why a door did not take a connection, which is given back.
#[derive(Debug)]
enum Closed {
    /// As many wait as may.
    Full(Arrival),
    /// Nobody will ever come for it.
    Shut(Arrival),
}

impl Door {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds the lock can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if nobody else waited, so that the loop behind is to be told.
    fn put(&self, arrival: Arrival) -> Result<bool, Closed> {
        let mut waiting = self.waiting();
        if waiting.shut {
            return Err(Closed::Shut(arrival));
        }
        if waiting.arrivals.len() >= ROOM {
            return Err(Closed::Full(arrival));
        }
        waiting.arrivals.push_back(arrival);
        Ok(waiting.arrivals.len() == 1)
    }

    fn take(&self) -> Option<Arrival> {
        self.waiting().arrivals.pop_front()
    }

    fn shut(&self) -> VecDeque<Arrival> {
        let mut waiting = self.waiting();
        waiting.shut = true;
        std::mem::take(&mut waiting.arrivals)
    }
}

/// A door as the loop behind it has it. Dropping it shuts the door and closes what waits there.
#[derive(Debug)]
pub(crate) struct Inside {
    door: Arc<Door>,
    local: Address,
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.door.shut());
    }
}

/// A door as the accepting loop has it.
#[derive(Debug)]
pub(crate) struct Outside(Arc<Door>);

/// A door for the connections of a listener at `local`.
pub(crate) fn door(local: &Address) -> (Outside, Inside) {
    let door = Arc::new(Door::default());
    (Outside(Arc::clone(&door)), Inside { door, local: local.clone() })
}

/// A door, and how to tell the loop behind it.
struct Way<S: 'static> {
    door: Arc<Door>,
    remote: Remote<S>,
    /// The loop's listener that has the other side of the door.
    token: Token,
}

impl<S: 'static> Way<S> {
    fn offer(&self, arrival: Arrival) -> Result<(), Closed> {
        if !self.door.put(arrival)? {
            return Ok(()); // it has been told
        }
        let token = self.token;
        // One post at most is under way for a door, so a full queue has to bear it.
        if self.remote.post_result(move |state, cx| cx.accept_ready(state, token)) {
            return Ok(());
        }
        // Nothing in it: the loop has looked by itself.
        self.door.shut().pop_front().map_or(Ok(()), |arrival| Err(Closed::Shut(arrival)))
    }
}

/// Whose turn it is to get the next connection. The accepting loop itself comes last in every
/// round, and gets what no other takes.
pub(crate) struct Turns<S: 'static> {
    ways: Vec<Way<S>>,
    next: usize,
}

impl<S: 'static> Turns<S> {
    pub(crate) fn new() -> Self {
        Self { ways: Vec::new(), next: 0 }
    }

    pub(crate) fn add(&mut self, door: Outside, remote: Remote<S>, token: Token) {
        self.ways.push(Way { door: door.0, remote, token });
    }

    /// Hands a connection on. Some: it is for the accepting loop.
    pub(crate) fn pass(&mut self, mut arrival: Arrival) -> Option<Arrival> {
        while let Some(way) = self.ways.get(self.next) {
            match way.offer(arrival) {
                Ok(()) => {
                    self.next += 1;
                    return None;
                }
                Err(Closed::Full(back)) => {
                    self.next += 1;
                    arrival = back;
                }
                Err(Closed::Shut(back)) => {
                    self.ways.remove(self.next);
                    arrival = back;
                }
            }
        }
        self.next = 0;
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{Reactor, ReactorConfig};

    fn arrival() -> (UnixStream, Arrival) {
        let (peer, ours) = UnixStream::pair().unwrap();
        (peer, (OwnedFd::from(ours).into(), Address::UNSPECIFIED))
    }

    fn is_closed(peer: &UnixStream) -> bool {
        peer.set_nonblocking(true).unwrap();
        matches!(io::Read::read(&mut &*peer, &mut [0]), Ok(0))
    }

    #[test]
    fn a_loop_that_is_held_up_is_passed_by_and_one_that_is_gone_is_forgotten() {
        let reactors = [(); 2].map(|()| Reactor::<()>::new(ReactorConfig::default()).unwrap());
        let mut turns = Turns::new();
        let mut doors = Vec::new();
        let [mut held_up, mut gone] = reactors;
        for reactor in [&mut held_up, &mut gone] {
            let (outside, inside) = door(&Address::UNSPECIFIED);
            turns.add(outside, reactor.context().remote(), Token::new(0, 0));
            doors.push(inside);
        }
        let mut peers = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..3 * ROOM {
            let (peer, arrival) = arrival();
            peers.push(peer);
            kept.extend(turns.pass(arrival));
        }
        assert_eq!(kept.len(), ROOM, "each in its turn");
        kept.extend(turns.pass(arrival().1));
        assert_eq!(kept.len(), ROOM + 1, "both doors are full");

        drop(doors.pop());
        drop(gone);
        assert_eq!(peers.iter().filter(|peer| is_closed(peer)).count(), ROOM, "a door closes what waits at it");
        assert!(doors[0].door.take().is_some());
        assert!(turns.pass(arrival().1).is_none(), "the held-up one has room again");
        assert!(turns.pass(arrival().1).is_some());
        assert_eq!(turns.ways.len(), 1);
    }

    #[test]
    fn what_was_put_at_the_door_of_a_loop_that_takes_no_posts_is_taken_back() {
        let mut reactor = Reactor::<()>::new(ReactorConfig::default()).unwrap();
        let (outside, _inside) = door(&Address::UNSPECIFIED);
        let mut turns = Turns::new();
        turns.add(outside, reactor.context().remote(), Token::new(0, 0));
        reactor.context().stop_posts(crate::event_queue::Stop::Drain);
        let (peer, arrival) = arrival();
        let kept = turns.pass(arrival);
        assert!(kept.is_some() && !is_closed(&peer));
    }
}
