//! The slab of everything registered with the loop. A token names a slot and a
//! generation, so an event for something that is gone finds nothing.

use std::rc::Rc;
use std::time::Instant;

use slab::Slab;

use crate::backend::Interest;
use crate::buffer::InputTail;
use crate::conn::Conn;
use crate::connector::Keeper;
use crate::datagram::DatagramSlot;
use crate::handler::Handler;
use crate::listener::ListenerSlot;
use crate::rate::{Bucket, Rate};
use crate::source::SourceSlot;
use crate::timer::TimerId;
use crate::token::Token;

/// Bytes that a back end which receives by itself may be ahead of a handler that has had its turn, before it is told to
/// wait.
const MOST_AHEAD: usize = 64 << 10;

pub(crate) enum Slot<S: 'static> {
    Conn(ConnSlot<S>),
    /// In a box, as there are few: the slots are as large as their largest kind.
    Listener(Box<ListenerSlot<S>>),
    Source(SourceSlot<S>),
    Datagram(DatagramSlot<S>),
}

/// A connection as the loop sees it. Every byte here is paid for by each idle connection.
pub(crate) struct ConnSlot<S: 'static> {
    pub(crate) conn: Conn,
    /// Taken out while one of its callbacks runs; gone once `on_close` is done.
    pub(crate) handler: Option<Box<dyn Handler<S>>>,
    /// What the handler says of [`Handler::watches_flushes`].
    pub(crate) watches_flushes: bool,
    /// Input that the handler has not used yet.
    pub(crate) tail: InputTail,
    /// What the back end watches for; None: not registered.
    pub(crate) registered: Option<Interest>,
    /// The tick in which a connection that completes was last shown input, by its last bits (one that seems to be this
    /// one and is not shortens a turn), and how much. They lie where there would be padding.
    shown_in: u8,
    shown: u32,
    /// What only some connections have, and those only at times.
    rare: Option<Box<Rare<S>>>,
}

pub(crate) struct Rare<S: 'static> {
    /// The handler's own timers.
    pub(crate) timers: Vec<TimerId>,
    /// The limit of connecting and handshaking, later that of lingering.
    pub(crate) deadline: Option<TimerId>,
    pub(crate) lifetime: Option<TimerId>,
    pub(crate) read_limit: Option<Limit>,
    pub(crate) write_limit: Option<Limit>,
    /// The connector that will make the next one.
    pub(crate) keeper: Option<Rc<Keeper<S>>>,
}

/// A rate and the end of its rest, if it is exhausted.
pub(crate) struct Limit {
    pub(crate) bucket: Bucket,
    pub(crate) rest: Option<TimerId>,
}

impl Limit {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { bucket: Bucket::full(rate, now), rest: None }
    }
}

impl<S: 'static> ConnSlot<S> {
    pub(crate) fn new(conn: Conn, handler: Option<Box<dyn Handler<S>>>) -> Self {
        let watches_flushes = handler.as_ref().is_some_and(|handler| handler.watches_flushes());
        Self {
            conn,
            handler,
            watches_flushes,
            tail: InputTail::default(),
            registered: None,
            shown_in: 0,
            shown: 0,
            rare: None,
        }
    }

    /// Gives it that handler. True if it had one.
    pub(crate) fn replace_handler(&mut self, handler: Box<dyn Handler<S>>) -> bool {
        self.watches_flushes = handler.watches_flushes();
        self.handler.replace(handler).is_some()
    }

    /// The back end has received more ahead than the handler can use now.
    pub(crate) fn is_full(&self) -> bool {
        self.tail.unseen() > MOST_AHEAD
    }

    /// How many of so many bytes the handler may be shown in this tick, which counts them as shown.
    pub(crate) fn allow_turn(&mut self, tick: u64, bytes: usize) -> usize {
        let tick = tick as u8;
        if self.shown_in != tick {
            (self.shown_in, self.shown) = (tick, 0);
        }
        let shown = self.shown as usize;
        let allowed = bytes.min(self.conn.options().read_budget.max(1).saturating_sub(shown));
        self.shown = u32::try_from(shown + allowed).unwrap_or(u32::MAX);
        allowed
    }

    pub(crate) fn rare(&self) -> Option<&Rare<S>> {
        self.rare.as_deref()
    }

    pub(crate) fn rare_if_any(&mut self) -> Option<&mut Rare<S>> {
        self.rare.as_deref_mut()
    }

    pub(crate) fn rare_mut(&mut self) -> &mut Rare<S> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                timers: Vec::new(),
                deadline: None,
                lifetime: None,
                read_limit: None,
                write_limit: None,
                keeper: None,
            })
        })
    }

    pub(crate) fn take_deadline(&mut self) -> Option<TimerId> {
        let deadline = self.rare.as_mut()?.deadline.take();
        self.tidy();
        deadline
    }

    /// Gives the box back when nothing is in it.
    pub(crate) fn tidy(&mut self) {
        if let Some(rare) = &self.rare
            && let Rare { timers, deadline: None, lifetime: None, read_limit: None, write_limit: None, keeper: None } =
                &**rare
            && timers.is_empty()
        {
            self.rare = None;
        }
    }

    /// Takes all timers, to be disarmed.
    pub(crate) fn take_timers(&mut self) -> Vec<TimerId> {
        let mut timers = Vec::new();
        if let Some(rare) = &mut self.rare {
            timers.append(&mut rare.timers);
            timers.extend(rare.deadline.take());
            timers.extend(rare.lifetime.take());
            for limit in [&mut rare.read_limit, &mut rare.write_limit].into_iter().flatten() {
                timers.extend(limit.rest.take());
            }
        }
        timers
    }
}

pub(crate) struct Slots<S: 'static> {
    slab: Slab<(u32, Slot<S>)>,
    next_generation: u32,
}

impl<S: 'static> Slots<S> {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), next_generation: 0 }
    }

    /// Generations are counted over all slots, so a pair comes back only after
    /// 2^32 registrations that end in the very same slot.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Token) -> Slot<S>) -> Token {
        if self.slab.len() == self.slab.capacity() {
            // A quarter and not, as a vector would, all of it again: most slots are idle
            // connections, whose memory is what limits their number.
            self.slab.reserve_exact((self.slab.len() / 4).max(64));
        }
        let entry = self.slab.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer than 2^32 descriptors exist");
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let token = Token::new(slot, generation);
        entry.insert((generation, make(token)));
        token
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Slot<S>> {
        let (generation, slot) = self.slab.get_mut(token.slot() as usize)?;
        if *generation == token.generation() { Some(slot) } else { None }
    }

    pub(crate) fn conn_mut(&mut self, token: Token) -> Option<&mut ConnSlot<S>> {
        match self.get_mut(token) {
            Some(Slot::Conn(slot)) => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn listener_mut(&mut self, token: Token) -> Option<&mut ListenerSlot<S>> {
        match self.get_mut(token) {
            Some(Slot::Listener(slot)) => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn source_mut(&mut self, token: Token) -> Option<&mut SourceSlot<S>> {
        match self.get_mut(token) {
            Some(Slot::Source(slot)) => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn datagram_mut(&mut self, token: Token) -> Option<&mut DatagramSlot<S>> {
        match self.get_mut(token) {
            Some(Slot::Datagram(slot)) => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Slot<S>> {
        self.get_mut(token)?;
        Some(self.slab.remove(token.slot() as usize).1)
    }

    pub(crate) fn iter_with_tokens(&self) -> impl Iterator<Item = (Token, &Slot<S>)> {
        self.slab.iter().map(|(key, (generation, slot))| (Token::new(key as u32, *generation), slot))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<S>> {
        self.slab.iter().map(|(_, (_, slot))| slot)
    }
}
