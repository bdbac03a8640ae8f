//! HTTPS and WSS: the HTTP server and client and WebSockets over the TLS layer, on every back end.
//! Each protocol has its own tests elsewhere; here it is that none of them notices the layer.
#![cfg(all(feature = "http", feature = "tls", feature = "ws"))]

mod support;
mod tls_support;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use netlib::backend::BackendKind;
use netlib::http::{
    self, Call, ClientError, ClientRequest, ClientResponse, Exchange, File, Flow, Pool, PoolOptions, RequestHandler,
    Response, ResponseHandler, ServerOptions,
};
use netlib::ws::{self, Accept, ClientOptions, CloseCode, Closed, Message, Url, WebSocket, WsHandler};
use netlib::{CloseReason, ConnectOptions, Context, ListenOptions, Reactor, socket, tls};
use support::{drive, local, peer, reactor, read_some};
use tls_support::Authority;

on_every_backend! {
    requests_of_one_connection_share_a_handshake,
    a_file_arrives_whole_and_in_parts,
    a_chunked_echo_comes_back_as_it_went,
    a_websocket_echoes_over_the_port_of_the_pages,
    nothing_is_said_in_the_clear,
    a_client_that_trusts_another_gets_no_answer,
}

const HOST: &str = "a.example";
const ALPN: &str = "http/1.1";
/// Many records, and no multiple of their length.
const LARGE: usize = (3 << 20) + 77;

#[derive(Default)]
struct Log {
    file: Option<File>,
    /// The port and the protocol of each request's connection.
    served: Vec<(u16, Option<Vec<u8>>)>,
    results: Vec<Result<ClientResponse, ClientError>>,
    echoed: Vec<u8>,
    done: Vec<Result<(), ClientError>>,
    heard: Vec<Vec<u8>>,
    closed: Vec<Closed>,
}

/// Sends the body back while it comes in.
struct Echo;

impl RequestHandler<Log> for Echo {
    fn on_body(&mut self, _: &mut Log, cx: &mut Context<Log>, exchange: &Exchange, chunk: &[u8]) {
        if exchange.write(cx, chunk.to_vec()) == Ok(Flow::Wait) {
            exchange.pause_body(cx);
        }
    }

    fn on_drain(&mut self, _: &mut Log, cx: &mut Context<Log>, exchange: &Exchange) {
        exchange.resume_body(cx);
    }

    fn on_end(&mut self, _: &mut Log, cx: &mut Context<Log>, exchange: &Exchange) {
        exchange.finish(cx);
    }
}

struct WsEcho;

impl WsHandler<Log> for WsEcho {
    fn on_message(&mut self, _: &mut Log, _: &mut Context<Log>, ws: &WebSocket, message: Message<'_>) {
        match message {
            Message::Text(text) => ws.send_text(text).unwrap(),
            Message::Binary(bytes) => ws.send_binary(bytes).unwrap(),
        }
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, closed: &Closed) {
        log.closed.push(closed.clone());
    }
}

fn serve(log: &mut Log, cx: &mut Context<Log>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<Log>>> {
    let session = tls::session(exchange.conn()).expect("the handshake comes before the request");
    log.served.push((exchange.conn().peer_addr().port().expect("TCP"), session.alpn));
    match exchange.head().path() {
        "/file" => exchange.send_file(cx, log.file.as_ref().expect("a file")),
        "/echo" => {
            exchange.start(cx, Response::new(200)).unwrap();
            return Some(Box::new(Echo));
        }
        "/ws" => {
            let options = ws::ServerOptions::default();
            assert!(ws::upgrade_exchange(cx, exchange, &options, |_, _| Ok(Accept::new(WsEcho))));
        }
        path => exchange.send(cx, Response::new(200).body(format!("this is {path}\n"))),
    }
    None
}

struct World {
    reactor: Reactor<Log>,
    log: Log,
    addr: SocketAddr,
    connect: ConnectOptions,
    pool: Pool<Log>,
}

impl World {
    fn new(kind: BackendKind) -> Self {
        let authority = Authority::new("ours");
        let server = tls::Server::builder().identity(authority.issue(&[HOST]).identity()).alpn([ALPN]);
        let client = tls::Client::builder(HOST, authority.roots()).alpn([ALPN]).build().unwrap();
        let mut reactor = reactor(kind);
        let listener = socket::bind_tcp(local(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        let listen = ListenOptions { layer: Some(Arc::new(server.build().unwrap())), ..ListenOptions::default() };
        let options = ServerOptions { listen, max_body: 1 << 30, ..ServerOptions::default() };
        http::serve_with(reactor.context(), listener, options, serve).unwrap();
        let connect = ConnectOptions { layer: Some(Arc::new(client)), ..ConnectOptions::default() };
        let options = PoolOptions { connect: connect.clone(), max_connections: 1, ..PoolOptions::default() };
        Self { reactor, log: Log::default(), addr, connect, pool: Pool::new(addr, options) }
    }

    fn ask(&mut self, request: ClientRequest) -> ClientResponse {
        self.pool.request(self.reactor.context(), request, |log: &mut Log, _, result| log.results.push(result));
        drive(&mut self.reactor, &mut self.log, "an answer", |log| !log.results.is_empty());
        self.log.results.remove(0).expect("an answer")
    }
}

fn requests_of_one_connection_share_a_handshake(kind: BackendKind) {
    let mut world = World::new(kind);
    for n in 0..5 {
        let answer = world.ask(ClientRequest::get(HOST, &format!("/{n}")));
        assert_eq!((answer.status, &answer.body[..]), (200, format!("this is /{n}\n").as_bytes()));
    }
    let first = (world.log.served[0].0, Some(ALPN.as_bytes().to_vec()));
    assert_eq!(world.log.served, vec![first; 5]);
    assert_eq!(world.reactor.context().stats().connections, 2, "both ends are kept");
}

/// There is no sendfile under a layer: the bytes take another way than without.
fn a_file_arrives_whole_and_in_parts(kind: BackendKind) {
    let mut world = World::new(kind);
    let content: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("large"), &content).unwrap();
    world.log.file = Some(fs::File::open(dir.path().join("large")).and_then(File::new).unwrap());
    let get = || ClientRequest::get(HOST, "/file").max_body(LARGE as u64);
    let whole = world.ask(get());
    assert!(whole.status == 200 && whole.body == content, "{} bytes of {LARGE}", whole.body.len());
    let part = world.ask(get().header("Range", "bytes=1000000-1099999"));
    assert_eq!(part.header("Content-Range"), Some(format!("bytes 1000000-1099999/{LARGE}").as_str()));
    assert!(part.status == 206 && part.body == content[1_000_000..1_100_000], "{} bytes", part.body.len());
    // Behind a file the connection goes on.
    assert_eq!(world.ask(ClientRequest::get(HOST, "/next")).body, "this is /next\n");
    assert!(world.log.served.iter().all(|served| served == &world.log.served[0]));
}

/// Writes as much as it is told to and keeps what comes back.
struct Upload(Vec<Bytes>);

impl ResponseHandler<Log> for Upload {
    fn on_response(&mut self, _: &mut Log, _: &mut Context<Log>, _: &Call, head: &ClientResponse) {
        assert_eq!((head.status, head.header("Transfer-Encoding")), (200, Some("chunked")));
    }

    fn on_body(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Call, chunk: &[u8]) {
        log.echoed.extend_from_slice(chunk);
    }

    fn on_drain(&mut self, _: &mut Log, _: &mut Context<Log>, call: &Call) {
        while let Some(part) = self.0.pop() {
            if call.write(part).unwrap() == Flow::Wait {
                return;
            }
        }
        call.finish().unwrap();
    }

    fn on_done(&mut self, log: &mut Log, _: &mut Context<Log>, result: Result<(), ClientError>) {
        log.done.push(result);
    }
}

fn a_chunked_echo_comes_back_as_it_went(kind: BackendKind) {
    let mut world = World::new(kind);
    let sent: Vec<u8> = (0..LARGE).map(|n| (n % 253) as u8).collect();
    let parts: Vec<Bytes> = sent.chunks(30_011).rev().map(Bytes::copy_from_slice).collect();
    let request = ClientRequest::new("POST", HOST, "/echo").streamed_body(None).max_body(u64::MAX);
    world.pool.fetch(world.reactor.context(), request, Box::new(Upload(parts)));
    drive(&mut world.reactor, &mut world.log, "the echo", |log| !log.done.is_empty());
    assert_eq!(world.log.done, [Ok(())]);
    assert!(world.log.echoed == sent, "{} bytes of {LARGE}", world.log.echoed.len());
}

/// Says one thing after the other, then closes.
struct Talker(Vec<Vec<u8>>);

impl Talker {
    fn next(&mut self, cx: &mut Context<Log>, ws: &WebSocket) {
        match self.0.pop() {
            Some(bytes) => ws.send_binary(bytes).unwrap(),
            None => ws.close(cx, CloseCode::NORMAL, "enough"),
        }
    }
}

impl WsHandler<Log> for Talker {
    fn on_open(&mut self, _: &mut Log, cx: &mut Context<Log>, ws: &WebSocket) {
        assert!(tls::session(ws.conn()).is_some());
        self.next(cx, ws);
    }

    fn on_message(&mut self, log: &mut Log, cx: &mut Context<Log>, ws: &WebSocket, message: Message<'_>) {
        let Message::Binary(bytes) = message else { panic!("bytes were sent") };
        log.heard.push(bytes.to_vec());
        self.next(cx, ws);
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, closed: &Closed) {
        log.closed.push(closed.clone());
    }
}

fn a_websocket_echoes_over_the_port_of_the_pages(kind: BackendKind) {
    let mut world = World::new(kind);
    // Of one byte, of a few records, and of one more byte than a record takes.
    let messages = vec![vec![1], vec![2; 100_000], vec![3; 16_385]];
    let url: Url = format!("wss://{HOST}/ws").parse().unwrap();
    let said: Vec<Vec<u8>> = messages.iter().rev().cloned().collect();
    let (cx, connect) = (world.reactor.context(), world.connect.clone());
    ws::connect(cx, world.addr, &url, connect, ClientOptions::default(), Talker(said));
    drive(&mut world.reactor, &mut world.log, "both ends", |log| log.closed.len() == 2);
    assert!(world.log.heard == messages);
    for closed in &world.log.closed {
        assert!(closed.is_clean() && closed.received.as_ref().unwrap().code == CloseCode::NORMAL, "{closed}");
    }
    assert_eq!(world.ask(ClientRequest::get(HOST, "/page")).body, "this is /page\n");
}

fn nothing_is_said_in_the_clear(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut client = peer(world.addr);
    client.write_all(b"GET /page HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut said = Vec::new();
    drive(&mut world.reactor, &mut world.log, "the end", |_| read_some(&mut client, &mut said));
    // At most an alert: type 21.
    assert!(said.first().is_none_or(|&kind| kind == 21), "{said:?}");
    assert!(world.log.served.is_empty());
}

fn a_client_that_trusts_another_gets_no_answer(kind: BackendKind) {
    let mut world = World::new(kind);
    let stranger = tls::Client::builder(HOST, Authority::new("theirs").roots()).build().unwrap();
    let connect = ConnectOptions { layer: Some(Arc::new(stranger)), ..ConnectOptions::default() };
    let request = ClientRequest::get(HOST, "/page").connect_options(connect);
    http::request(world.reactor.context(), world.addr, request, |log: &mut Log, _, result| log.results.push(result));
    drive(&mut world.reactor, &mut world.log, "a result", |log| !log.results.is_empty());
    let result = world.log.results.remove(0);
    assert!(matches!(result, Err(ClientError::Connection(CloseReason::Protocol(_)))), "{result:?}");
    assert!(world.log.served.is_empty());
}
