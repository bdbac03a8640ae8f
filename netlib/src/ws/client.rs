//! The client's side of the handshake.

use std::rc::Rc;

use tungstenite::handshake::client::generate_key;

use super::frame::Role;
use super::handshake::{self, Url};
use super::session::{Endpoint, Opening, Session};
use super::socket::WebSocket;
use super::{Closed, Options, WsHandler};
use crate::{CloseReason, Conn, ConnectOptions, Context, Handler, Target};

/// What a client asks for.
///
/// ```
/// use netlib::ws::ClientOptions;
///
/// let options = ClientOptions { protocols: vec!["chat".into()], ..ClientOptions::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Limits and times.
    pub common: Rc<Options>,
    /// The sub-protocols to offer, the best first.
    pub protocols: Vec<String>,
    /// Headers to add to the request: cookies, Origin, Authorization.
    pub headers: Vec<(String, String)>,
}

/// Connects to `target`, an address or a name and a port, and asks there for `url`. The outcome is always reported later and on one
/// path: [`WsHandler::on_open`], or [`WsHandler::on_close`]. The handle aborts the attempt.
///
/// A `wss` address needs [`ConnectOptions::layer`] to be the TLS layer; without one it is
/// refused as any failed connect, rather than spoken to in the clear.
///
/// ```
/// use netlib::ws::{self, ClientOptions, Message, Url, WebSocket, WsHandler};
/// use netlib::{ConnectOptions, Context, Reactor, ReactorConfig};
///
/// struct Hello;
/// impl WsHandler<()> for Hello {
///     fn on_open(&mut self, (): &mut (), _: &mut Context<()>, ws: &WebSocket) {
///         let _ = ws.send_text("hello");
///     }
///     fn on_message(&mut self, (): &mut (), _: &mut Context<()>, _: &WebSocket, message: Message<'_>) {
///         println!("{message:?}");
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let url: Url = "ws://chat.example/lobby".parse().expect("an address");
/// let addr: std::net::SocketAddr = "127.0.0.1:8080".parse().expect("an address");
/// ws::connect(reactor.context(), addr, &url, ConnectOptions::default(), ClientOptions::default(), Hello);
/// # Ok(())
/// # }
/// ```
pub fn connect<S: 'static>(
    cx: &mut Context<S>,
    target: impl Into<Target>,
    url: &Url,
    connect: ConnectOptions,
    options: ClientOptions,
    handler: impl WsHandler<S>,
) -> Conn {
    let in_the_clear = url.is_secure() && connect.layer.is_none();
    let conn = cx.connect(target, connect, client(url, options, handler));
    if in_the_clear {
        conn.close_with(CloseReason::Refused("wss without a TLS layer"));
    }
    conn
}

/// The handler that [`connect`] uses, for [`Context::keep_connected`] and other ways to connect.
pub fn client<S: 'static>(url: &Url, options: ClientOptions, handler: impl WsHandler<S>) -> Box<dyn Handler<S>> {
    let common = Rc::clone(&options.common);
    let opening = Asking { url: url.clone(), key: generate_key(), options, handler: Some(Box::new(handler)) };
    Box::new(Endpoint::opening(Box::new(opening), common))
}

/// A connection whose request is not answered yet.
struct Asking<S: 'static> {
    url: Url,
    key: String,
    options: ClientOptions,
    handler: Option<Box<dyn WsHandler<S>>>,
}

impl<S: 'static> Asking<S> {
    fn socket(&self, conn: &Conn) -> WebSocket {
        WebSocket::new(conn, Role::Client, self.options.common.close_timeout)
    }
}

impl<S: 'static> Opening<S> for Asking<S> {
    fn begin(&mut self, conn: &Conn) {
        let head = handshake::request_head(&self.url, &self.key, &self.options.protocols, &self.options.headers);
        // Fails only on a connection that has ended, which will be reported.
        let _ = conn.send(head);
    }

    fn head(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, head: &[u8]) -> Option<Session<S>> {
        match handshake::check_answer(head, &self.key, &self.options.protocols) {
            Ok(protocol) => {
                let ws = self.socket(conn);
                ws.set_protocol(protocol);
                Some(Session::new(ws, Rc::clone(&self.options.common), self.handler.take()?))
            }
            Err(what) => {
                conn.close_with(CloseReason::Protocol(what.into()));
                None
            }
        }
    }

    fn too_long(&mut self, conn: &Conn) {
        conn.close_with(CloseReason::Protocol("the answer's head is too long".into()));
    }

    fn too_late(&mut self, conn: &Conn) {
        conn.close_with(CloseReason::HandshakeTimeout);
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, cause: &CloseReason) {
        let ws = self.socket(conn);
        if let Some(handler) = &mut self.handler {
            let closed = Closed { sent: None, received: None, cause: cause.clone() };
            handler.on_close(state, cx, &ws, &closed);
        }
    }
}
