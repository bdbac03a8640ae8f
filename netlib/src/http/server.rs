//! The server's surface: its limits, what a service is, and two ways to serve. What happens on a
//! connection is in `connection.rs`, how an answer gets out in `exchange.rs`.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::connection::Connection;
use super::date::DateLine;
use super::exchange::Exchange;
use super::message::{Request, RequestHead, Response};
use super::parse::HeadLimits;
use crate::socket::ListeningSocket;
use crate::{CloseReason, Conn, Context, Handler, ListenOptions, Listener, OutputPolicy};

/// The limits of a server.
///
/// ```
/// use netlib::http::ServerOptions;
///
/// // One request per connection.
/// let options = ServerOptions { keep_alive: None, max_body: 0, ..ServerOptions::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Of the listener and its connections. The watermarks in it bound what waits on one
    /// connection to be sent: above the high one a response is told to wait.
    pub listen: ListenOptions,
    /// From the connection, or the first byte of a later request, to the end of the head; over
    /// it the answer is 408.
    pub head_timeout: Duration,
    /// From the same moment to the last byte of the body; over it the answer is 408. Each
    /// [`min_body_rate`](Self::min_body_rate) bytes of body that arrive extend it by a second,
    /// and time in which the service has paused the body does not count.
    pub request_timeout: Duration,
    /// Bytes per second that a client must send of a body in the long run. 0: the request
    /// timeout is never extended.
    pub min_body_rate: u64,
    /// A client that takes nothing of its answer for so long is dropped.
    pub send_timeout: Duration,
    /// How long a connection may wait for its next request. None: one request per connection.
    pub keep_alive: Option<Duration>,
    /// Requests per connection.
    pub max_requests: u32,
    /// Bytes of the request line; over it the answer is 414.
    pub max_request_line: usize,
    /// Bytes of request line and headers; over it the answer is 431.
    pub max_head: usize,
    /// Bytes of the body; over it the answer is 413. A service may say otherwise per request
    /// ([`Service::max_body`]).
    pub max_body: u64,
    /// Bytes of a body that nobody wants which are read and dropped so that the connection can
    /// be kept; a longer one ends the connection.
    pub max_discard: u64,
    /// HTTP/1.1 wants a `Host` of every request: without one the answer is 400.
    pub require_host: bool,
    /// Answers carry the time of day in `Date`.
    pub date: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: ListenOptions::default(),
            head_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            min_body_rate: 4 * 1024,
            send_timeout: Duration::from_secs(30),
            keep_alive: Some(Duration::from_mins(1)),
            max_requests: 1000,
            max_request_line: 8 * 1024,
            max_head: 16 * 1024,
            max_body: 1024 * 1024,
            max_discard: 64 * 1024,
            require_host: true,
            date: true,
        }
    }
}

impl ServerOptions {
    pub(super) fn head_limits(&self) -> HeadLimits {
        HeadLimits { line: self.max_request_line, head: self.max_head, strict: true }
    }
}

/// What the connections of one server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) date: DateLine,
}

/// Answers requests. One value serves all connections of a server; what belongs to one request
/// lives in its [`RequestHandler`] and its [`Exchange`].
///
/// Every function of that shape is a service.
///
/// ```
/// use netlib::http::{self, Exchange, RequestHandler, Response, ServerOptions};
/// use netlib::{Context, Reactor, ReactorConfig};
///
/// /// Sends the body back while it comes in.
/// struct Echo;
///
/// impl RequestHandler<()> for Echo {
///     fn on_body(&mut self, _: &mut (), cx: &mut Context<()>, exchange: &Exchange, chunk: &[u8]) {
///         // Taken up again by `on_drain`, so a client that does not read is not read from.
///         if exchange.write(cx, chunk.to_vec()) == Ok(http::Flow::Wait) {
///             exchange.pause_body(cx);
///         }
///     }
///     fn on_drain(&mut self, _: &mut (), cx: &mut Context<()>, exchange: &Exchange) {
///         exchange.resume_body(cx);
///     }
///     fn on_end(&mut self, _: &mut (), cx: &mut Context<()>, exchange: &Exchange) {
///         exchange.finish(cx);
///     }
/// }
///
/// let mut reactor: Reactor<()> = Reactor::new(ReactorConfig::default())?;
/// let listener = netlib::socket::bind_tcp("127.0.0.1:0".parse().unwrap(), 1024)?;
/// let service = |_: &mut (), cx: &mut Context<()>, exchange: &Exchange| -> Option<Box<dyn RequestHandler<()>>> {
///     exchange.start(cx, Response::new(200)).ok()?;
///     Some(Box::new(Echo))
/// };
/// http::serve_with(reactor.context(), listener, ServerOptions::default(), service)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Service<S: 'static>: 'static {
    /// A request's head is there. The result is what takes the body; None leaves it unread.
    ///
    /// The answer may be given here or later, through `exchange` or a clone of it. A service
    /// that lets go of an exchange it has not answered, or panics, is answered for with 500.
    fn on_request(
        &mut self,
        state: &mut S,
        cx: &mut Context<S>,
        exchange: &Exchange,
    ) -> Option<Box<dyn RequestHandler<S>>>;

    /// The most bytes that the body of this request may have, if not
    /// [`ServerOptions::max_body`]. Asked before [`on_request`](Self::on_request).
    fn max_body(&self, head: &RequestHead) -> Option<u64> {
        let _ = head;
        None
    }
}

impl<S: 'static, F> Service<S> for F
where
    F: FnMut(&mut S, &mut Context<S>, &Exchange) -> Option<Box<dyn RequestHandler<S>>> + 'static,
{
    fn on_request(
        &mut self,
        state: &mut S,
        cx: &mut Context<S>,
        exchange: &Exchange,
    ) -> Option<Box<dyn RequestHandler<S>>> {
        self(state, cx, exchange)
    }
}

/// Takes the body of one request, and is told when its answer may go on. Lives until both are
/// complete. See [`Service`] for an example.
///
/// ```
/// use netlib::Context;
/// use netlib::http::{Exchange, RequestHandler, Response};
///
/// /// Answers an upload of any length with its number of bytes.
/// struct Count(u64);
///
/// impl RequestHandler<()> for Count {
///     fn on_body(&mut self, _: &mut (), _: &mut Context<()>, _: &Exchange, chunk: &[u8]) {
///         self.0 += chunk.len() as u64;
///     }
///     fn on_end(&mut self, _: &mut (), cx: &mut Context<()>, exchange: &Exchange) {
///         exchange.send(cx, Response::new(200).body(format!("{}\n", self.0)));
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait RequestHandler<S: 'static>: 'static {
    /// The next part of the body; its borders mean nothing.
    fn on_body(&mut self, state: &mut S, cx: &mut Context<S>, exchange: &Exchange, chunk: &[u8]) {}

    /// The body is complete, also if there was none.
    fn on_end(&mut self, state: &mut S, cx: &mut Context<S>, exchange: &Exchange) {}

    /// A write was told to [`Wait`](super::Flow::Wait), and it is time for the next.
    fn on_drain(&mut self, state: &mut S, cx: &mut Context<S>, exchange: &Exchange) {}

    /// The connection ended before the exchange did; says how.
    fn on_gone(&mut self, state: &mut S, cx: &mut Context<S>, reason: &CloseReason) {}
}

/// Serves HTTP on a bound listener, request by request as their heads arrive. This is the form
/// for bodies that are streamed, answers that come later, and connections that become something
/// else; [`serve`] is the simple one.
///
/// Requests of one connection are answered in their order: the next is looked at when the answer
/// to the one before it is complete. Requests that are malformed or over a limit are answered
/// without the service (400, 408, 413, 414, 417, 431, 500, 501, 505).
///
/// # Errors
///
/// Those of [`Context::listen_on`].
pub fn serve_with<S: 'static, V: Service<S>>(
    cx: &mut Context<S>,
    listener: impl Into<ListeningSocket>,
    options: ServerOptions,
    service: V,
) -> io::Result<Listener> {
    let mut listen = options.listen.clone();
    // The marks are kept by `outgoing.rs`; another policy would act on top of that.
    listen.conn.policy = OutputPolicy::Notify;
    let server = Server::new(options, service);
    cx.listen_on(listener, listen, move |_, _, conn| Some(server.handler(conn)))
}

/// Makes the handlers of connections that come from elsewhere than [`serve_with`]'s listener: from
/// the listeners of a [`ReactorPool`](crate::ReactorPool), where each loop keeps a server of its own in
/// its state, or from [`Context::adopt`]. Those connections keep [`OutputPolicy::Notify`].
///
/// Thread rule: it belongs to its reactor's thread.
///
/// ```
/// use netlib::http::{Exchange, RequestHandler, Response, Server, ServerOptions};
/// use netlib::reactor_pool::{PoolOptions, ReactorPool, Spread};
/// use netlib::{Context, ListenOptions};
///
/// type Service = fn(&mut State, &mut Context<State>, &Exchange) -> Option<Box<dyn RequestHandler<State>>>;
///
/// struct State {
///     server: Server<Service>,
/// }
///
/// fn hello(_: &mut State, cx: &mut Context<State>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<State>>> {
///     exchange.send(cx, Response::new(200).body("hello\n"));
///     None
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let pool = ReactorPool::start(PoolOptions { threads: 2, ..PoolOptions::default() }, |_, _, _| {
///     Ok(State { server: Server::new(ServerOptions::default(), hello as Service) })
/// })?;
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// pool.listen(address, Spread::ReusePort, ListenOptions::default(), |state: &mut State, _, conn| {
///     Some(state.server.handler(conn))
/// })?;
/// pool.stop()
/// # }
/// ```
#[derive(Debug)]
pub struct Server<V> {
    shared: Rc<Shared>,
    service: Rc<RefCell<V>>,
}

impl<V> Server<V> {
    /// Of `options`, those of the listener are not used.
    pub fn new(options: ServerOptions, service: V) -> Self {
        let shared = Rc::new(Shared { options, date: DateLine::default() });
        Self { shared, service: Rc::new(RefCell::new(service)) }
    }

    /// The handler of one connection.
    pub fn handler<S: 'static>(&self, conn: &Conn) -> Box<dyn Handler<S>>
    where
        V: Service<S>,
    {
        Box::new(Connection::new(Rc::clone(&self.shared), Rc::clone(&self.service), conn))
    }
}

/// Serves HTTP on a bound listener. `service` is called once per complete request, whatever its
/// method, and answers at once; answers to HEAD lose their body on the way out.
///
/// ```
/// use netlib::http::{self, Response, ServerOptions};
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor: Reactor<u64> = Reactor::new(ReactorConfig::default())?;
/// let listener = netlib::socket::bind_tcp("127.0.0.1:0".parse().unwrap(), 1024)?;
/// http::serve(reactor.context(), listener, ServerOptions::default(), |served, _, request| {
///     *served += 1;
///     match request.path() {
///         "/healthz" => Response::new(200).body("ok\n"),
///         _ => Response::new(404),
///     }
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`Context::listen_on`].
pub fn serve<S: 'static>(
    cx: &mut Context<S>,
    listener: impl Into<ListeningSocket>,
    options: ServerOptions,
    service: impl FnMut(&mut S, &mut Context<S>, &Request<'_>) -> Response + 'static,
) -> io::Result<Listener> {
    let service = Rc::new(RefCell::new(service));
    serve_with(cx, listener, options, move |_: &mut S, _: &mut Context<S>, _: &Exchange| {
        let service = Rc::clone(&service);
        Some(buffered(move |state, cx, exchange, body| {
            let head = exchange.head();
            let request =
                Request { method: head.method(), target: head.target(), body, peer: exchange.conn().peer_addr(), head };
            let response = (service.borrow_mut())(state, cx, &request);
            exchange.send(cx, response);
        }))
    })
}

/// Gathers the body and calls `then` with all of it. The body is as large as the server's
/// [`max_body`](ServerOptions::max_body) or the service's [`max_body`](Service::max_body) lets it.
///
/// ```
/// # use netlib::http::{self, Exchange, RequestHandler, Response};
/// # use netlib::Context;
/// fn on_request(_: &mut (), _: &mut Context<()>, _: &Exchange) -> Option<Box<dyn RequestHandler<()>>> {
///     Some(http::buffered(|_, cx, exchange, body| {
///         exchange.send(cx, Response::new(200).body(format!("{} bytes\n", body.len())));
///     }))
/// }
/// ```
pub fn buffered<S: 'static>(
    then: impl FnOnce(&mut S, &mut Context<S>, &Exchange, &[u8]) + 'static,
) -> Box<dyn RequestHandler<S>> {
    Box::new(Buffered { body: Vec::new(), then: Some(then) })
}

struct Buffered<F> {
    body: Vec<u8>,
    /// Taken when it is called.
    then: Option<F>,
}

impl<S: 'static, F> RequestHandler<S> for Buffered<F>
where
    F: FnOnce(&mut S, &mut Context<S>, &Exchange, &[u8]) + 'static,
{
    fn on_body(&mut self, _: &mut S, _: &mut Context<S>, _: &Exchange, chunk: &[u8]) {
        self.body.extend_from_slice(chunk);
    }

    fn on_end(&mut self, state: &mut S, cx: &mut Context<S>, exchange: &Exchange) {
        if let Some(then) = self.then.take() {
            then(state, cx, exchange, &self.body);
        }
        self.body = Vec::new();
    }
}

impl<F> fmt::Debug for Buffered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").field("body", &self.body.len()).finish_non_exhaustive()
    }
}
