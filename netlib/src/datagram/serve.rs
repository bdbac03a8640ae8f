//! What the loop does with datagram sockets: receiving within a budget, flushing, ending.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::handle::State;
use super::{
    Datagram, DatagramError, DatagramHandler, DatagramOptions, DatagramSocket, Packets, ReceiveBatch, SendBatch,
};
use crate::CloseReason;
use crate::backend::{Backend, Event, Interest, Trigger};
use crate::context::Context;
use crate::slot::Slot;
use crate::token::Token;

/// When a Unix socket that was full is tried again.
const PEER_RETRY: Duration = Duration::from_millis(2);
/// Errors read from one socket before others get their turn.
const ERRORS_PER_TICK: usize = 32;

/// What all datagram handles of one loop share with it.
pub(super) struct Shared {
    /// Sockets to look at in the next *Flush*.
    pub(super) marked: RefCell<Vec<Token>>,
    pub(super) send_batch: RefCell<SendBatch>,
}

/// The loop's part of it. Nothing of it takes memory before the first socket.
#[derive(Default)]
pub(crate) struct Datagrams {
    shared: Option<Rc<Shared>>,
    /// All sockets receive into this one; taken while a callback uses it.
    batch: Option<Box<ReceiveBatch>>,
    /// The list that *Flush* works on, kept for its memory.
    flushing: Vec<Token>,
    /// Closed sockets for this tick's *Reap*.
    closed: Vec<Token>,
}

impl Datagrams {
    /// Something is to be done without waiting.
    pub(crate) fn has_work(&self) -> bool {
        !self.closed.is_empty() || self.shared.as_ref().is_some_and(|shared| !shared.marked.borrow().is_empty())
    }

    fn shared(&mut self) -> Rc<Shared> {
        let fresh = || Rc::new(Shared { marked: RefCell::default(), send_batch: RefCell::new(SendBatch::new()) });
        Rc::clone(self.shared.get_or_insert_with(fresh))
    }
}

/// A datagram socket as the loop sees it.
pub(crate) struct DatagramSlot<S: 'static> {
    pub(crate) datagram: Datagram,
    /// Taken out while one of its callbacks runs.
    handler: Option<Box<dyn DatagramHandler<S>>>,
    /// What the back end watches for; None: not registered.
    pub(crate) registered: Option<Interest>,
    /// Stands in the loop's local ready list.
    pub(crate) ready: bool,
}

impl<S: 'static> DatagramSlot<S> {
    /// Registers it, as it is to be, with a back end that does not know it.
    pub(crate) fn add_to(&self, backend: &mut dyn Backend, token: Token, trigger: Trigger) -> io::Result<()> {
        match (self.datagram.0.socket.borrow().as_ref(), self.registered) {
            (Some(socket), Some(interest)) => backend.add(socket.as_fd(), token, interest, trigger),
            _ => Ok(()),
        }
    }
}

impl<S: 'static> Context<S> {
    /// Serves a datagram socket. The handler is shown what arrives, which may be there already.
    ///
    /// # Errors
    ///
    /// If the back end refuses the socket.
    pub fn datagram(
        &mut self,
        socket: DatagramSocket,
        options: DatagramOptions,
        handler: Box<dyn DatagramHandler<S>>,
    ) -> io::Result<Datagram> {
        let shared = self.datagrams.shared();
        let mut made = None;
        let token = self.slots.insert_with(|token| {
            let datagram = Datagram::new(token, shared, options, socket);
            made = Some(datagram.clone());
            Slot::Datagram(DatagramSlot { datagram, handler: Some(handler), registered: None, ready: false })
        });
        let Some(datagram) = made else { unreachable!("made above") };
        if let Err(error) = self.watch_datagram(token, Interest::READABLE) {
            self.slots.remove(token);
            datagram.discard();
            return Err(error);
        }
        Ok(datagram)
    }

    fn watch_datagram(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        let trigger = self.trigger;
        let Some(slot) = self.slots.datagram_mut(token) else { return Ok(()) };
        if slot.registered == Some(interest) {
            return Ok(());
        }
        let before = slot.registered.replace(interest);
        if before.is_none() {
            slot.add_to(&mut *self.backend, token, trigger)
        } else if let Some(socket) = slot.datagram.0.socket.borrow().as_ref() {
            self.backend.modify(socket.as_fd(), token, interest, trigger)
        } else {
            Ok(())
        }
    }

    /// Runs one callback with the handler taken out of its slot. A panic ends the socket, not the
    /// loop.
    fn call_datagram(
        &mut self,
        state: &mut S,
        datagram: &Datagram,
        f: impl FnOnce(&mut dyn DatagramHandler<S>, &mut S, &mut Context<S>),
    ) {
        let Some(slot) = self.slots.datagram_mut(datagram.id()) else { return };
        let Some(mut handler) = slot.handler.take() else { return };
        let begun = self.begin_callback();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *handler, state, self)));
        self.end_callback(begun, "a datagram handler", Some(datagram.id()));
        if let Some(slot) = self.slots.datagram_mut(datagram.id()) {
            slot.handler = Some(handler);
        }
        if outcome.is_err() {
            log::error!("datagram socket {}: its handler panicked", datagram.local_addr());
            self.after_panic();
            datagram.close_with(CloseReason::HandlerPanic);
        }
    }

    pub(crate) fn datagram_event(&mut self, state: &mut S, event: &Event) {
        let Some(slot) = self.slots.datagram_mut(event.token) else { return };
        let datagram = slot.datagram.clone();
        // It may have had its turn in this tick and be listed for the next.
        let listed = slot.ready;
        if (event.writable || event.error) && datagram.0.blocked.replace(false) {
            datagram.mark();
        }
        if !listed && (event.readable || event.read_closed || event.error) {
            self.receive_datagrams(state, &datagram);
        }
    }

    /// A visit from the local ready list.
    pub(crate) fn datagram_revisit(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.datagram_mut(token) else { return };
        slot.ready = false;
        let datagram = slot.datagram.clone();
        self.receive_datagrams(state, &datagram);
    }

    /// Receives until nothing is there or the budget is used up.
    fn receive_datagrams(&mut self, state: &mut S, datagram: &Datagram) {
        let mut batch = self.datagrams.batch.take().unwrap_or_default();
        let options = &datagram.0.options;
        let mut budget = options.receive_budget.max(1);
        let mut errors = 0;
        while datagram.is_open() {
            // What GRO puts into a message is guessed from what it did before.
            let messages = budget.div_ceil(datagram.0.packets_per_message.get()).min(options.batch).max(1);
            let outcome = match datagram.0.socket.borrow().as_ref() {
                Some(socket) => socket.receive(&mut batch, messages, options.max_packet),
                None => break,
            };
            datagram.count(|counters| counters.calls_in += 1);
            match outcome {
                Ok(packets) => {
                    budget = budget.saturating_sub(packets.len());
                    count_received(datagram, packets);
                    self.call_datagram(state, datagram, |handler, state, cx| {
                        handler.on_packets(state, cx, datagram, packets);
                    });
                    if packets.messages() < messages {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    errors += 1;
                    self.network_error(state, datagram, DatagramError::Network(error));
                }
            }
            if budget == 0 || errors == ERRORS_PER_TICK {
                self.make_ready(datagram.id());
                break;
            }
        }
        self.datagrams.batch = Some(batch);
    }

    fn network_error(&mut self, state: &mut S, datagram: &Datagram, error: DatagramError) {
        if matches!(error, DatagramError::Network(_)) {
            datagram.count(|counters| counters.network_errors += 1);
        }
        if datagram.is_open() {
            self.call_datagram(state, datagram, |handler, state, cx| handler.on_error(state, cx, datagram, &error));
        }
    }

    /// Visits every datagram socket that was written to or closed.
    pub(crate) fn flush_datagrams(&mut self, state: &mut S) {
        let Some(shared) = &self.datagrams.shared else { return };
        let mut batch = std::mem::take(&mut self.datagrams.flushing);
        std::mem::swap(&mut *shared.marked.borrow_mut(), &mut batch);
        for token in batch.drain(..) {
            self.flush_datagram(state, token);
        }
        self.datagrams.flushing = batch;
    }

    fn flush_datagram(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.datagram_mut(token) else { return };
        let datagram = slot.datagram.clone();
        let inner = &datagram.0;
        // There is no next tick for one that was closed.
        let budget = if datagram.is_open() { inner.options.send_budget.max(1) } else { usize::MAX };
        datagram.write_now(budget);
        inner.marked.set(false);
        let errors = std::mem::take(&mut *inner.errors.borrow_mut());
        for error in errors {
            self.network_error(state, &datagram, error);
        }
        if datagram.queued() == 0 && inner.waited.replace(false) && datagram.is_open() {
            self.call_datagram(state, &datagram, |handler, state, cx| handler.on_drained(state, cx, &datagram));
        }
        if !datagram.is_open() {
            if inner.state.get() == State::Closing {
                // A mark that a callback above has set would only bring it here again.
                inner.state.set(State::Dead);
                self.datagrams.closed.push(token);
            }
            return;
        }
        if inner.retrying.get() {
            self.retry_later(&datagram);
        } else if datagram.queued() > 0 && !inner.blocked.get() {
            datagram.mark();
        }
        if let Err(error) = self.watch_datagram(token, Interest::new(true, inner.blocked.get())) {
            datagram.close_with(CloseReason::from_io(&error));
        }
    }

    /// The kernel does not tell when a Unix socket that we are not connected to has room again.
    fn retry_later(&mut self, datagram: &Datagram) {
        let datagram = datagram.clone();
        self.after(PEER_RETRY, move |_, _| {
            datagram.0.retrying.set(false);
            datagram.mark();
        });
    }

    /// Tells closed sockets so and frees them.
    pub(crate) fn reap_datagrams(&mut self, state: &mut S) {
        for token in std::mem::take(&mut self.datagrams.closed) {
            let Some(slot) = self.slots.datagram_mut(token) else { continue };
            let datagram = slot.datagram.clone();
            let reason = datagram.0.reason.borrow().clone();
            self.call_datagram(state, &datagram, |handler, state, cx| handler.on_close(state, cx, &datagram, &reason));
            let registered = self.slots.datagram_mut(token).is_some_and(|slot| slot.registered.is_some());
            if let Some(socket) = datagram.0.socket.borrow().as_ref()
                && registered
            {
                // The descriptor is closed right after, which forgets it in any case.
                let _ = self.backend.remove(socket.as_fd());
            }
            datagram.discard();
            self.slots.remove(token);
        }
    }
}

fn count_received(datagram: &Datagram, packets: Packets<'_>) {
    let (mut bytes, mut truncated, mut overflowed) = (0, 0, None);
    for message in packets.received() {
        bytes += message.length as u64;
        truncated += u64::from(message.truncated);
        overflowed = message.facts.overflow.or(overflowed);
    }
    datagram.0.packets_per_message.set((packets.len() / packets.messages().max(1)).max(1));
    datagram.count(|counters| {
        counters.packets_in += packets.len() as u64;
        counters.messages_in += packets.messages() as u64;
        counters.bytes_in += bytes;
        counters.truncated += truncated;
        if let Some(total) = overflowed {
            // The kernel's count is of 32 bits and goes round.
            let before = counters.overflowed as u32;
            counters.overflowed += u64::from(total.wrapping_sub(before));
        }
    });
}
