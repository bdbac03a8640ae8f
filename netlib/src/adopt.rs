//! Connections that others have made: a socket pair, a socket that a supervisor or another
//! process has handed over. Those that are made here are in `connector.rs` and `listener.rs`.

use std::io;
use std::os::fd::OwnedFd;

use crate::conn::{Conn, State};
use crate::conn_options::CloseReason;
use crate::connector::ConnectOptions;
use crate::context::Context;
use crate::group::Group;
use crate::handler::Handler;
use crate::slot::{ConnSlot, Slot};
use crate::socket::{Address, Stream};
use crate::transport::Transport;

impl<S: 'static> Context<S> {
    /// Serves a stream socket that is connected already. It is made non-blocking and closed on
    /// exec. `peer` is what [`Conn::peer_addr`] will say; None asks the socket.
    ///
    /// The outcome is reported like that of a [`connect`](Self::connect), later: `on_open`, or
    /// `on_close` with [`CloseReason::ConnectFailed`] if it is no connected socket. A
    /// [layer](crate::layer) in `options` plays the part that its factory was made for, and
    /// `options.timeout` is the limit of its handshake.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use netlib::{Conn, ConnectOptions, Context, Handler, Reactor, ReactorConfig};
    ///
    /// struct Greets;
    /// impl Handler<()> for Greets {
    ///     fn on_open(&mut self, _: &mut (), cx: &mut Context<()>, conn: &Conn) {
    ///         conn.send_slice(b"hello").unwrap();
    ///         cx.stop();
    ///     }
    ///     fn on_data(&mut self, _: &mut (), _: &mut Context<()>, _: &Conn, input: &[u8]) -> usize {
    ///         input.len()
    ///     }
    /// }
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let mut reactor = Reactor::new(ReactorConfig::default())?;
    /// reactor.context().adopt(ours, None, &ConnectOptions::default(), Box::new(Greets));
    /// reactor.run(&mut ())?;
    /// let mut text = [0; 5];
    /// std::io::Read::read_exact(&mut &theirs, &mut text)?;
    /// assert_eq!(&text, b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn adopt(
        &mut self,
        stream: impl Into<OwnedFd>,
        peer: Option<Address>,
        options: &ConnectOptions,
        handler: Box<dyn Handler<S>>,
    ) -> Conn {
        let stream = Stream::from(stream.into());
        let peer = peer.or_else(|| stream.peer_addr().ok());
        let (transport, failure) = match take_over(stream, options) {
            Ok(transport) => (transport, None),
            Err(error) => (Transport::None, Some(error.kind())),
        };
        let layered = transport.is_layered();
        let group = Group::new(&self.shared, options.conn.clone());
        let mut made = None;
        let token = self.slots.insert_with(|token| {
            let conn = Conn::new(token, group, transport, peer, State::Connecting);
            made = Some(conn.clone());
            Slot::Conn(ConnSlot::new(conn, Some(handler)))
        });
        let Some(conn) = made else { unreachable!("made above") };
        self.stats.connections += 1;
        if let Some(kind) = failure {
            conn.end(CloseReason::ConnectFailed(kind), true);
            return conn;
        }
        if layered {
            self.set_deadline(token, options.timeout);
        }
        let adopted = conn.clone();
        self.post(move |state, cx| {
            // Unless it was closed meanwhile.
            if adopted.0.state.get() == State::Connecting {
                cx.connected(state, token, &adopted);
            }
        });
        conn
    }
}

fn take_over(stream: Stream, options: &ConnectOptions) -> io::Result<Transport> {
    stream.take_over(&options.socket)?;
    // A socket that failed says so; one that was never connected has no error, and no peer.
    stream.connect_outcome().unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
    let layer = options.layer.as_ref().map(|factory| factory.layer()).transpose()?;
    Ok(Transport::new(stream, layer))
}
