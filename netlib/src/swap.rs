//! Moving a running loop to another back end.
//!
//! Between two ticks no event is held anywhere: the last batch has been worked through, and what it
//! left unfinished stands in the loop's own ready list, which stays. So everything registered is
//! added to the new mechanism with the interest it has now, and by the contract of
//! [`Backend::add`] that reports all readiness that exists, whatever the old one
//! had said or kept to itself, and whichever trigger the two use.

use std::io;
use std::os::fd::AsFd;

use crate::backend::{Backend, BackendKind, Interest, Trigger};
use crate::context::Context;
use crate::reactor::{Reactor, WAKE};
use crate::slot::Slot;
use crate::token::Token;

impl<S: 'static> Reactor<S> {
    /// Moves everything registered to another back end. No event is lost. Both must work by readiness: `uring` can
    /// neither be left nor entered (`Unsupported`).
    ///
    /// If that one cannot be opened, or refuses a descriptor, the loop stays on the one that it has.
    /// A descriptor by which another loop watches this one is a new one afterwards.
    ///
    /// ```
    /// use netlib::{BackendKind, Reactor, ReactorConfig};
    ///
    /// let config = ReactorConfig { backend: Some(BackendKind::Poll), ..ReactorConfig::default() };
    /// let mut reactor = Reactor::<()>::new(config)?;
    /// reactor.swap_backend(BackendKind::EpollEt)?;
    /// assert_eq!(reactor.context().backend_name(), "epoll-et");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If it cannot be opened or refuses a descriptor; the loop stays where it is.
    pub fn swap_backend(&mut self, kind: BackendKind) -> io::Result<()> {
        self.context().swap_backend(kind)?;
        self.swap_if_asked()
    }

    /// What stands at the beginning of a tick.
    pub(crate) fn swap_if_asked(&mut self) -> io::Result<()> {
        match self.cx.next_backend.take() {
            Some((kind, backend)) => self.cx.move_to(kind, backend),
            None => Ok(()),
        }
    }
}

impl<S: 'static> Context<S> {
    /// [`Reactor::swap_backend`] from inside a callback: the back end is opened now, and the next tick
    /// begins with the move. Should the new one refuse a descriptor then, that is logged as an error and
    /// the loop stays where it is.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or refuses a descriptor; the loop stays where it is.
    pub fn swap_backend(&mut self, kind: BackendKind) -> io::Result<()> {
        let backend = kind.open()?;
        if self.completes || backend.caps().completions {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "{} and {kind}: a back end that moves bytes itself cannot be left or entered while connections are open",
                    self.backend.name()
                ),
            ));
        }
        self.next_backend = Some((kind, backend));
        Ok(())
    }

    fn move_to(&mut self, kind: BackendKind, mut backend: Box<dyn Backend>) -> io::Result<()> {
        let trigger = kind.default_trigger();
        backend.add(self.inbox.as_fd(), WAKE, Interest::READABLE, trigger)?;
        for (token, slot) in self.slots.iter_with_tokens() {
            add(&mut *backend, token, slot, trigger)?;
        }
        log::info!("the back end {} gives way to {kind}", self.backend.name());
        self.trigger = trigger;
        self.reads_to_end = !backend.caps().reports_read_closed;
        // Dropping the old one ends its registrations.
        self.backend = backend;
        Ok(())
    }
}

fn add<S: 'static>(backend: &mut dyn Backend, token: Token, slot: &Slot<S>, trigger: Trigger) -> io::Result<()> {
    match slot {
        Slot::Conn(slot) => match (slot.conn.0.transport.borrow().stream(), slot.registered) {
            (Some(stream), Some(interest)) => backend.add(stream.as_fd(), token, interest, trigger),
            // Not registered yet.
            _ => Ok(()),
        },
        Slot::Listener(slot) => match slot.as_fd() {
            Some(fd) if slot.exclusive() && backend.caps().exclusive_wakeup => {
                backend.add_exclusive(fd, token, slot.interest(), trigger)
            }
            Some(fd) => backend.add(fd, token, slot.interest(), trigger),
            None => Ok(()),
        },
        Slot::Datagram(slot) => slot.add_to(backend, token, trigger),
        Slot::Source(slot) => match &slot.source {
            Some(source) => backend.add(source.fd(), token, slot.interest, trigger),
            // Lost in a panic that was not contained.
            None => Ok(()),
        },
    }
}
