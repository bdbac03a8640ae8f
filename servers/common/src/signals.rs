//! SIGINT and SIGTERM as a wait that ends, for the process as a whole.
//!
//! No code of ours runs in signal context: the signals are blocked in every thread and read from a descriptor
//! by the main thread, which has nothing else to do.

use std::io;

use netlib::{Reactor, ReactorConfig, Signal, SignalFd};

/// The process's wish to end, once it comes.
#[derive(Debug)]
pub struct Shutdown {
    signals: SignalFd,
}

impl Shutdown {
    /// Blocks both signals for this thread and all it starts. Call it first in `main`: a thread that was
    /// started before would take the signal and end the process.
    pub fn prepare() -> io::Result<Self> {
        Ok(Self { signals: SignalFd::new(&[Signal::Interrupt, Signal::Terminate])? })
    }

    /// Sleeps until one of them arrives.
    pub fn wait(self) -> io::Result<Signal> {
        let mut reactor = Reactor::<Option<Signal>>::new(ReactorConfig::default())?;
        reactor.context().on_signals(self.signals, |came, cx, signal| {
            *came = Some(signal);
            cx.stop();
        })?;
        let mut came = None;
        reactor.run(&mut came)?;
        // The loop stops for nothing else.
        Ok(came.unwrap_or(Signal::Terminate))
    }
}
