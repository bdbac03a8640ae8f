//! Stopping in order: no new clients, no new requests; what is at other servers
//! comes back; then the clients are closed, then the links (spec/servers.md §2.6).
//! One limit covers all of it.

use std::time::Duration;

use netlib::{CloseReason, Context, Listener};
use tt_common::{Ready, Role};

use crate::presence;
use crate::state::Server;

/// What clients get to read their last answers: ending the process earlier would
/// reset connections whose input was left unread.
const PARTING: Duration = Duration::from_millis(200);

/// How far a stop has come. The steps only go forward.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    step: Step,
    /// Closed when the stop begins.
    pub(crate) listener: Option<Listener>,
    /// Signalled when the server can serve for the first time.
    pub(crate) ready: Option<Ready>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Serving,
    /// Answers are awaited.
    Finishing,
    /// Clients are being closed.
    Closing,
    /// They are closed here; the last bytes are on their way to them.
    Parting,
    Done,
}

impl Drain {
    /// Whether the server is stopping.
    pub(crate) fn is_on(&self) -> bool {
        self.step != Step::Serving
    }
}

impl Role for Server {
    fn stop(&mut self, cx: &mut Context<Self>) {
        if self.drain.is_on() {
            return;
        }
        log::info!("stopping: {} clients, {} requests under way", self.clients.connections(), self.calls);
        self.drain.step = Step::Finishing;
        if let Some(listener) = &self.drain.listener {
            listener.close(cx);
        }
        let info = presence::server_info(self);
        for link in &self.peers.login {
            let _ = link.send(0, &info);
        }
        for (_, device) in self.clients.all_devices() {
            device.conn.pause();
        }
        cx.after(self.config.timeouts.drain(), |server: &mut Server, cx| server.finish(cx));
        self.drain_on(cx);
    }
}

impl Server {
    /// Takes the next step of a stop if it is time for it. Called whenever something
    /// that a stop waits for has come to its end.
    pub(crate) fn drain_on(&mut self, cx: &mut Context<Self>) {
        if self.drain.step == Step::Finishing && self.calls == 0 {
            if self.clients.connections() == 0 {
                self.finish(cx);
                return;
            }
            self.drain.step = Step::Closing;
            for (_, device) in self.clients.all_devices() {
                device.conn.close_with(CloseReason::Refused("server stops"));
            }
        }
        if self.drain.step == Step::Closing && self.clients.connections() == 0 {
            self.drain.step = Step::Parting;
            cx.after(PARTING, |server: &mut Server, cx| server.finish(cx));
        }
    }

    /// The last step, reached in order or by the limit.
    fn finish(&mut self, cx: &mut Context<Self>) {
        if self.drain.step == Step::Done {
            return;
        }
        self.drain.step = Step::Done;
        log::info!("stopped with {} clients and {} requests left", self.clients.connections(), self.calls);
        for link in self.peers.iter() {
            link.close(cx);
        }
        cx.stop();
    }
}
