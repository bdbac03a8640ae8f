//! The server's side of the handshake: the application decides about each request, and the rest
//! is answered for it.

use std::fmt;
use std::rc::Rc;

use super::frame::Role;
use super::handshake::{self, Refuse, UpgradeRequest};
use super::session::{Endpoint, Opening, Session};
use super::socket::WebSocket;
use super::{Options, WsHandler};
use crate::{CloseReason, Conn, Context, Handler};

/// What a server demands.
///
/// ```
/// use netlib::ws::ServerOptions;
///
/// // Only pages of this site may connect, and programs, which send no Origin.
/// let options = ServerOptions { origins: Some(vec!["https://example.org".into()]), ..Default::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Limits and times.
    pub common: Rc<Options>,
    /// The origins of pages that may connect; others are answered 403. A browser names the
    /// page's origin always, other clients usually do not. None: whoever asks.
    pub origins: Option<Vec<String>>,
}

/// The answer that accepts a request.
///
/// ```
/// use netlib::ws::{Accept, UpgradeRequest, WsHandler};
///
/// fn answer<S: 'static>(request: &UpgradeRequest<'_>, handler: impl WsHandler<S>) -> Accept<S> {
///     Accept::new(handler).choose_protocol(request, &["chat.v2", "chat.v1"]).header("Set-Cookie", "seen=1")
/// }
/// ```
pub struct Accept<S: 'static> {
    handler: Box<dyn WsHandler<S>>,
    protocol: Option<String>,
    headers: Vec<(String, String)>,
}

impl<S: 'static> Accept<S> {
    /// With the handler of the new WebSocket and no sub-protocol.
    pub fn new(handler: impl WsHandler<S>) -> Self {
        Self { handler: Box::new(handler), protocol: None, headers: Vec::new() }
    }

    /// Agrees on the first of `ours` that the client offers, if any.
    pub fn choose_protocol(mut self, request: &UpgradeRequest<'_>, ours: &[&str]) -> Self {
        let chosen = ours.iter().find(|ours| request.protocols().any(|theirs| theirs == **ours));
        self.protocol = chosen.map(|&protocol| protocol.to_owned());
        self
    }

    /// Appends a header to the answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl<S: 'static> fmt::Debug for Accept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

type Decide<S> = Box<dyn FnOnce(&mut S, &mut Context<S>, &UpgradeRequest<'_>) -> Result<Accept<S>, Refuse>>;

/// The handler of a connection that a client opens to speak WebSocket: what a listener's acceptor
/// returns. `decide` is called with a request that is in order and comes from an allowed origin;
/// it chooses the handler by path, cookie or what else there is, or refuses.
///
/// What is not in order is answered without it: 400, 405, 408 (too slow), 426 (no upgrade, or
/// another version), 431 (head over [`Options::max_head`]), 505. There is an example at the
/// [head of this module](super).
pub fn accept<S: 'static>(
    options: &Rc<ServerOptions>,
    decide: impl FnOnce(&mut S, &mut Context<S>, &UpgradeRequest<'_>) -> Result<Accept<S>, Refuse> + 'static,
) -> Box<dyn Handler<S>> {
    let opening = Accepting { options: Rc::clone(options), decide: Some(Box::new(decide)) };
    Box::new(Endpoint::opening(Box::new(opening), Rc::clone(&options.common)))
}

/// For a request that came in elsewhere, such as at an HTTP server: checks it as [`accept`]
/// does and asks `decide`. The result takes the connection over; the error is to be sent.
///
/// ```
/// use netlib::ws::{self, Accept, Refuse, ServerOptions, UpgradeRequest, Upgrade, WsHandler};
///
/// fn answer<S: 'static>(head: &UpgradeRequest<'_>, handler: impl WsHandler<S>) -> Result<Upgrade<S>, Refuse> {
///     ws::upgrade(&ServerOptions::default(), head, |request| match request.path() {
///         "/chat" => Ok(Accept::new(handler)),
///         _ => Err(Refuse::new(404)),
///     })
/// }
/// ```
///
/// # Errors
///
/// The refusal, to be sent as it is.
pub fn upgrade<S: 'static>(
    options: &ServerOptions,
    request: &UpgradeRequest<'_>,
    decide: impl FnOnce(&UpgradeRequest<'_>) -> Result<Accept<S>, Refuse>,
) -> Result<Upgrade<S>, Refuse> {
    let key = request.check()?;
    if let Some(origins) = &options.origins
        && let Some(origin) = request.headers().iter().find(|(name, _)| name.eq_ignore_ascii_case("origin"))
        && !origins.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.1))
    {
        return Err(Refuse::new(403).body("not from this origin\n"));
    }
    let Accept { handler, protocol, headers } = decide(request)?;
    let headers = handshake::accept_headers(key, protocol.as_deref(), headers);
    Ok(Upgrade { headers, protocol, handler, common: Rc::clone(&options.common) })
}

/// An upgrade that is decided and not yet done.
///
/// Thread rule: it belongs to its reactor's thread (it is not `Send`).
///
/// ```
/// use netlib::ws::{self, Accept, Refuse, ServerOptions, UpgradeRequest, WsHandler};
/// use netlib::{Conn, Context};
///
/// /// In a callback of a handler of one's own that has read the head of a request.
/// fn take_over<S: 'static>(cx: &mut Context<S>, conn: &Conn, head: &UpgradeRequest<'_>, handler: impl WsHandler<S>) {
///     match ws::upgrade(&ServerOptions::default(), head, |_| Ok(Accept::new(handler))) {
///         Ok(upgrade) => upgrade.start(cx, conn),
///         Err(refuse) => {
///             let refuse: Refuse = refuse;
///             let _ = conn.send(refuse.to_string());
///             conn.close();
///         }
///     }
/// }
/// ```
pub struct Upgrade<S: 'static> {
    headers: Vec<(String, String)>,
    protocol: Option<String>,
    handler: Box<dyn WsHandler<S>>,
    common: Rc<Options>,
}

impl<S: 'static> Upgrade<S> {
    /// Sends the 101 on the connection and gives it to the WebSocket. Called by the
    /// connection's handler, from one of its callbacks; input that it has not used when that
    /// ends is taken for frames. [`WsHandler::on_open`] comes in this tick or the next.
    pub fn start(self, cx: &mut Context<S>, conn: &Conn) {
        self.send_head(conn);
        let handler = self.into_handler(cx, conn);
        cx.replace_handler(conn, handler);
    }

    /// The headers of the 101, for a server that sends its answers itself and then gives the
    /// connection to [`into_handler`](Self::into_handler).
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The handler that takes the connection over once the 101 is queued. It opens by itself in
    /// this tick or the next, since [`Handler::on_open`] is not called again.
    pub fn into_handler(self, cx: &mut Context<S>, conn: &Conn) -> Box<dyn Handler<S>> {
        let common = Rc::clone(&self.common);
        Box::new(Endpoint::upgraded(cx, conn, self.into_session(conn), common))
    }

    fn send_head(&self, conn: &Conn) {
        // Fails only on a connection that has ended, which will be reported.
        let _ = conn.send(handshake::accept_head(&self.headers));
    }

    fn into_session(self, conn: &Conn) -> Session<S> {
        let ws = WebSocket::new(conn, Role::Server, self.common.close_timeout);
        ws.set_protocol(self.protocol);
        Session::new(ws, self.common, self.handler)
    }
}

impl<S: 'static> fmt::Debug for Upgrade<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// A connection whose request has not come yet.
struct Accepting<S: 'static> {
    options: Rc<ServerOptions>,
    decide: Option<Decide<S>>,
}

fn refuse(conn: &Conn, refuse: &Refuse, why: &'static str) {
    let _ = conn.send(refuse.to_string());
    conn.close_with(CloseReason::Refused(why));
}

impl<S: 'static> Opening<S> for Accepting<S> {
    fn begin(&mut self, _: &Conn) {}

    fn head(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, head: &[u8]) -> Option<Session<S>> {
        let decide = self.decide.take()?;
        let outcome = UpgradeRequest::parse(head)
            .and_then(|request| upgrade(&self.options, &request, |request| decide(state, cx, request)));
        match outcome {
            Ok(upgrade) => {
                upgrade.send_head(conn);
                Some(upgrade.into_session(conn))
            }
            Err(answer) => {
                refuse(conn, &answer, "its request to upgrade was refused");
                None
            }
        }
    }

    fn too_long(&mut self, conn: &Conn) {
        refuse(conn, &Refuse::new(431), "its request's head is too long");
    }

    fn too_late(&mut self, conn: &Conn) {
        let _ = conn.send(Refuse::new(408).to_string());
        conn.close_with(CloseReason::HandshakeTimeout);
    }

    fn on_close(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, cause: &CloseReason) {
        log::debug!("WebSocket handshake with {}: {cause}", conn.peer_addr());
    }
}
