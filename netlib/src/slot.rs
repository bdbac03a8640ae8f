//! The slab of everything registered with the loop. A token names a slot and a
//! generation, so an event for something that is gone finds nothing.

use std::cell::Cell;
use std::rc::Rc;

use slab::Slab;

use crate::backend::Interest;
use crate::buffer::InputTail;
use crate::conn::{Conn, Handler};
use crate::connector::Keeper;
use crate::datagram::DatagramSlot;
use crate::listener::ListenerSlot;
use crate::source::SourceSlot;
use crate::timer::TimerId;
use crate::token::Token;

pub(crate) enum Slot<S: 'static> {
    Conn(ConnSlot<S>),
    Listener(ListenerSlot<S>),
    Source(SourceSlot<S>),
    Datagram(DatagramSlot<S>),
}

/// A connection as the loop sees it.
pub(crate) struct ConnSlot<S: 'static> {
    pub(crate) conn: Conn,
    /// Taken out while one of its callbacks runs; gone once `on_close` is done.
    pub(crate) handler: Option<Box<dyn Handler<S>>>,
    /// Input that the handler has not used yet.
    pub(crate) tail: InputTail,
    /// What the back end watches for; None: not registered.
    pub(crate) registered: Option<Interest>,
    /// The handler's own timers.
    pub(crate) timers: Vec<TimerId>,
    pub(crate) idle_timer: Option<TimerId>,
    /// The limit of connecting, later that of lingering.
    pub(crate) deadline: Option<TimerId>,
    pub(crate) origin: Origin<S>,
}

/// Who wants to know when a connection is gone.
pub(crate) enum Origin<S: 'static> {
    /// Nobody: connected once.
    Dialled,
    /// The count of a listener.
    Accepted(Rc<Cell<usize>>),
    /// The connector that will make the next one.
    Kept(Rc<Keeper<S>>),
}

impl<S: 'static> ConnSlot<S> {
    pub(crate) fn new(conn: Conn, handler: Option<Box<dyn Handler<S>>>, origin: Origin<S>) -> Self {
        Self {
            conn,
            handler,
            tail: InputTail::default(),
            registered: None,
            timers: Vec::new(),
            idle_timer: None,
            deadline: None,
            origin,
        }
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
        let entry = self.slab.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("fewer than 2^32 descriptors exist");
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let token = Token::new(slot, generation);
        entry.insert((generation, make(token)));
        token
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Slot<S>> {
        match self.slab.get_mut(token.slot() as usize) {
            Some((generation, slot)) if *generation == token.generation() => Some(slot),
            _ => None,
        }
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<S>> {
        self.slab.iter().map(|(_, (_, slot))| slot)
    }
}
