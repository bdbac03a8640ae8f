//! From started roles to a stopped process. The main thread waits for news: a role serves, a role
//! cannot, or a signal asks for the end, which may come at any moment from the start on.

use std::{
    io, process,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use tt_common::{RoleHandle, signals::Shutdown};

use crate::failure::{Failure, Kind, Outcome};

/// What the main thread waits for.
pub(crate) enum News {
    /// One more role serves.
    Ready,
    /// A role ended before it served.
    Failed(Failure),
    /// SIGINT or SIGTERM.
    Stop,
}

/// Where the news come from.
pub(crate) struct Watch {
    sender: Sender<News>,
    news: Receiver<News>,
}

impl Watch {
    /// Listens for the signals that end the process. First thing in a serving command: a thread
    /// that was started before would take the signal itself. A second signal ends the process at
    /// once.
    pub(crate) fn start() -> Outcome<Self> {
        let (sender, news) = mpsc::channel();
        let first = Shutdown::prepare().map_err(|error| signals(&error))?;
        let stop = sender.clone();
        let watch = move || {
            let Ok(signal) = first.wait() else { return };
            log::info!("{signal:?}: stopping; a second one ends the process at once");
            // The main thread may be on its way out already.
            let _ = stop.send(News::Stop);
            if Shutdown::prepare().and_then(Shutdown::wait).is_ok() {
                log::warn!("ended at once, on request");
                process::exit(Kind::Other as i32);
            }
        };
        spawn("signals", watch)?;
        Ok(Self { sender, news })
    }

    /// Makes news of the role's readiness, however long that takes.
    pub(crate) fn role(&self, role: &RoleHandle) -> Outcome {
        let Some(readiness) = role.take_readiness() else { return Ok(()) };
        let sender = self.sender.clone();
        spawn("readiness", move || {
            let news = match readiness.wait(None) {
                Ok(()) => News::Ready,
                Err(error) => News::Failed(error.into()),
            };
            // As above.
            let _ = sender.send(news);
        })
    }

    /// The next news.
    pub(crate) fn next(&self) -> News {
        // The watch itself holds a sender, so the channel never ends.
        self.news.recv().unwrap_or(News::Stop)
    }

    /// Whether a signal asks for the end within that time. For before any role is started: there is no other
    /// news then.
    pub(crate) fn stops_within(&self, limit: Duration) -> bool {
        self.news.recv_timeout(limit).is_ok()
    }

    /// Waits until all of the roles serve. False if a signal came first.
    pub(crate) fn all_ready(&self, roles: &[RoleHandle], limit: Duration) -> Outcome<bool> {
        let deadline = Instant::now() + limit;
        for role in roles {
            self.role(role)?;
        }
        for _ in roles {
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Ready) => {}
                Ok(News::Failed(failure)) => return Err(failure),
                Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {
                    let text = format_args!("not all roles serve after {limit:?}; the log says which");
                    return Err(Failure::new(Kind::Role, text));
                }
            }
        }
        Ok(true)
    }
}

/// Stops the roles one after the other, in the given order: each finishes what is in flight while
/// those it depends on still serve.
pub(crate) fn stop(roles: Vec<RoleHandle>) {
    for role in roles {
        log::debug!("stopping {}", role.name());
        role.stop();
        role.join();
    }
    log::info!("stopped");
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Outcome {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| Failure::new(Kind::Other, format_args!("starting a thread: {error}")))
}

fn signals(error: &io::Error) -> Failure {
    Failure::new(Kind::Other, format_args!("waiting for signals: {error}"))
}
