//! Callbacks around the wait: what an embedder does once per tick, before the loop sleeps or
//! after it woke. Without any a tick pays one look at a pointer for each.

use crate::context::Context;

type Hook<S> = Box<dyn FnMut(&mut S, &mut Context<S>)>;

pub(crate) struct Hooks<S: 'static> {
    before: Slot<S>,
    after: Slot<S>,
}

enum Slot<S: 'static> {
    Empty,
    Set(Hook<S>),
    /// Taken out while it runs.
    Running,
}

#[derive(Clone, Copy)]
pub(crate) enum Moment {
    BeforeWait,
    AfterWait,
}

impl<S: 'static> Context<S> {
    /// Calls `f` at the start of every tick, before the loop asks what is ready and sleeps if
    /// nothing is. It replaces an earlier one.
    ///
    /// What it sends leaves in the *Flush* of this tick; for that, and for whatever else it
    /// queues (posts, closes), the loop does not wait. So a hook that queues something every
    /// time keeps the loop from ever sleeping.
    pub fn on_before_wait(&mut self, f: impl FnMut(&mut S, &mut Context<S>) + 'static) {
        *self.hook(Moment::BeforeWait) = Slot::Set(Box::new(f));
    }

    /// Calls `f` in every tick when the wait is over, before any other callback. It replaces an
    /// earlier one.
    pub fn on_after_wait(&mut self, f: impl FnMut(&mut S, &mut Context<S>) + 'static) {
        *self.hook(Moment::AfterWait) = Slot::Set(Box::new(f));
    }

    /// Takes both hooks away; the one that asks for it, when it ends.
    pub fn remove_hooks(&mut self) {
        self.hooks = None;
    }

    fn hook(&mut self, moment: Moment) -> &mut Slot<S> {
        let hooks = self.hooks.get_or_insert_with(|| Box::new(Hooks { before: Slot::Empty, after: Slot::Empty }));
        match moment {
            Moment::BeforeWait => &mut hooks.before,
            Moment::AfterWait => &mut hooks.after,
        }
    }

    #[cold]
    pub(crate) fn run_hook(&mut self, state: &mut S, moment: Moment) {
        if moment.is_before() {
            // A timer that it arms counts from now, not from the end of the last wait.
            self.shared.set_now(self.clock.now());
        }
        let slot = self.hook(moment);
        let mut hook = match std::mem::replace(slot, Slot::Running) {
            Slot::Set(hook) => hook,
            Slot::Empty | Slot::Running => {
                *slot = Slot::Empty;
                return;
            }
        };
        self.contained(moment.name(), |cx| hook(state, cx));
        if self.hooks.is_some() {
            let slot = self.hook(moment);
            if matches!(slot, Slot::Running) {
                *slot = Slot::Set(hook); // unless it was replaced meanwhile
            }
        }
    }
}

impl Moment {
    const fn is_before(self) -> bool {
        matches!(self, Self::BeforeWait)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::BeforeWait => "a hook before the wait",
            Self::AfterWait => "a hook after the wait",
        }
    }
}
