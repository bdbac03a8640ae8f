//! WebSockets at an HTTP server (features `http` and `ws`): one port for both. It is the seam of
//! the two and knows neither protocol.

use super::handshake::{Refuse, UpgradeRequest};
use super::server::{Accept, ServerOptions, upgrade};
use crate::http::{Exchange, Response};
use crate::{Context, SendError};

/// Answers a request of an HTTP server by becoming a WebSocket. The request is checked as by
/// [`accept`](super::accept), then `decide` accepts or refuses; a refusal is sent as the
/// exchange's answer, after which the connection is kept only if the client did not ask to
/// upgrade: what such a client has sent behind its request may be frames.
///
/// True if the connection is a WebSocket now. [`WsHandler::on_open`](super::WsHandler::on_open)
/// comes in this tick or the next, and frames that arrived right behind the request after it.
/// A client that has gone already, or an exchange that has been answered, changes nothing.
///
/// ```
/// use netlib::http::{Exchange, RequestHandler, Response};
/// use netlib::ws::{self, Accept, Message, Refuse, ServerOptions, WebSocket, WsHandler};
/// use netlib::Context;
///
/// struct Echo;
/// impl WsHandler<()> for Echo {
///     fn on_message(&mut self, (): &mut (), _: &mut Context<()>, ws: &WebSocket, message: Message<'_>) {
///         if let Message::Text(text) = message {
///             let _ = ws.send_text(text);
///         }
///     }
/// }
///
/// fn on_request(_: &mut (), cx: &mut Context<()>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<()>>> {
///     match exchange.head().path() {
///         "/chat" => {
///             let options = ServerOptions::default();
///             ws::upgrade_exchange(cx, exchange, &options, |_, request| match request.query() {
///                 Some("room=1") => Ok(Accept::new(Echo)),
///                 _ => Err(Refuse::new(404)),
///             });
///         }
///         _ => exchange.send(cx, Response::new(200).body("hello\n")),
///     }
///     None
/// }
/// # let _: fn(&mut (), &mut Context<()>, &Exchange) -> _ = on_request;
/// ```
pub fn upgrade_exchange<S: 'static>(
    cx: &mut Context<S>,
    exchange: &Exchange,
    options: &ServerOptions,
    decide: impl FnOnce(&mut Context<S>, &UpgradeRequest<'_>) -> Result<Accept<S>, Refuse>,
) -> bool {
    // Before `decide`, which may count whom it accepts.
    if !exchange.is_open() {
        return false;
    }
    let head = exchange.head();
    let request = UpgradeRequest::new(head.method(), head.target(), head.minor_version(), head.headers().collect());
    let upgrade = match upgrade(options, &request, |request| decide(cx, request)) {
        Ok(upgrade) => upgrade,
        Err(refuse) => {
            refused(cx, exchange, &refuse);
            return false;
        }
    };
    let answer = upgrade.headers().iter().fold(Response::new(101), |answer, (name, value)| answer.header(name, value));
    let handler = upgrade.into_handler(cx, exchange.conn());
    let Err(error) = exchange.upgrade(cx, &answer, handler) else { return true };
    let refuse = match error {
        // The client has ended its side, and could not even answer a close frame; or `decide` has
        // answered, and this changes nothing.
        SendError::Closed => Refuse::new(400).body("a WebSocket needs both directions\n"),
        SendError::Full => Refuse::new(503),
    };
    refused(cx, exchange, &refuse);
    false
}

fn refused<S: 'static>(cx: &mut Context<S>, exchange: &Exchange, refuse: &Refuse) {
    let mut answer = refuse
        .headers()
        .iter()
        .fold(Response::new(refuse.status()), |answer, (name, value)| answer.header(name, value));
    if exchange.head().has_element("upgrade", "websocket") {
        answer = answer.header("Connection", "close");
    }
    exchange.send(cx, answer.header("Content-Type", "text/plain").body(refuse.text().to_owned()));
}
