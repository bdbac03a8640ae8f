//! Stopping in order: the msg servers are told to send nothing new (0x0702), what they have sent is
//! answered, then the links are closed and the store with them (spec/wire.md §7.7).

use std::time::{Duration, Instant};

use netlib::{Context, Listener};
use tt_common::Role;
use tt_proto::im::server::ImStopReceivePacket;

use crate::server::Server;

/// Links stay open until nothing has come for so long: a request may be on its way while the word
/// to stop goes the other way.
const QUIET: Duration = Duration::from_millis(250);

/// How far a stop has come.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    step: Step,
    /// Closed when the stop begins.
    pub(crate) listener: Option<Listener>,
    /// When something last came.
    pub(crate) last_request: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Serving,
    Finishing,
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
        self.drain.step = Step::Finishing;
        log::info!("stopping: {} links, {} requests under way", self.links.len(), self.in_flight());
        if let Some(listener) = &self.drain.listener {
            listener.close(cx);
        }
        for link in self.links.values() {
            let _ = link.send(0, &ImStopReceivePacket { result: 0 });
        }
        // Counts as a request: the word to stop needs its time too.
        self.drain.last_request = Some(cx.now());
        cx.after(self.config.timeouts.drain(), |server: &mut Self, cx| server.finish(cx));
        look_again(cx);
        self.drain_on(cx);
    }
}

impl Server {
    /// Ends a stop if it is time for that. Called whenever something that it waits for has ended.
    pub(crate) fn drain_on(&mut self, cx: &mut Context<Self>) {
        if self.drain.step != Step::Finishing || self.in_flight() > 0 {
            return;
        }
        let quiet = self.drain.last_request.is_none_or(|last| cx.now().saturating_duration_since(last) >= QUIET);
        if self.links.is_empty() || quiet {
            self.finish(cx);
        }
    }

    /// The last step, reached in order or by the limit. The threads and the store are closed when
    /// the state is dropped, after the loop.
    fn finish(&mut self, cx: &mut Context<Self>) {
        if self.drain.step == Step::Done {
            return;
        }
        self.drain.step = Step::Done;
        log::info!("stopped with {} requests left", self.in_flight());
        for link in self.links.values() {
            link.close(cx);
        }
        cx.stop();
    }
}

fn look_again(cx: &mut Context<Server>) {
    cx.after(QUIET, |server: &mut Server, cx| {
        server.drain_on(cx);
        if server.drain.step == Step::Finishing {
            look_again(cx);
        }
    });
}
