//! A TCP proxy that misbehaves on command: it stands in for a network between servers, or between clients and
//! servers, whose links are cut, stall or become slow. The one part of the harness that stands on netlib.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netlib::{
    CloseReason, Conn, ConnOptions, ConnectOptions, Context, Handler, ListenOptions, Reactor, ReactorConfig, Remote,
    TimerId, Token,
};

use crate::PATIENCE;

/// The proxy, on a thread of its own. Each of its ways leads from an address of the proxy to a target.
pub struct Proxy {
    remote: Remote<Ways>,
    thread: Option<JoinHandle<()>>,
}

/// The ways by name.
#[derive(Default)]
struct Ways(HashMap<String, Way>);

struct Way {
    /// Both ends of each connection, by the one that was accepted.
    open: HashMap<Token, [Conn; 2]>,
    /// Nobody is let in until then.
    closed_until: Option<Instant>,
    /// Nothing passes.
    stalled: bool,
    /// How long each byte is on its way.
    delay: Duration,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::start()
    }
}

impl Proxy {
    /// A proxy without ways.
    pub fn start() -> Self {
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new(ReactorConfig::default()).expect("an event loop");
            ready.send(reactor.context().remote()).expect("the caller waits");
            reactor.run(&mut Ways::default()).expect("the event loop");
        });
        Self { remote: started.recv().expect("the thread starts"), thread: Some(thread) }
    }

    /// Opens a way to `target`; returns where it begins. Several ways may have one name: what is done to the name
    /// is done to all of them.
    pub fn way(&self, name: &str, target: SocketAddr) -> SocketAddr {
        let name = name.to_owned();
        self.ask(move |ways, cx| {
            let fresh = || Way { open: HashMap::new(), closed_until: None, stalled: false, delay: Duration::ZERO };
            ways.0.entry(name.clone()).or_insert_with(fresh);
            let here = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = cx.listen(here, ListenOptions::default(), move |ways: &mut Ways, cx, conn| {
                let way = ways.0.get(&name)?;
                let open = way.closed_until.is_none_or(|until| until <= cx.now());
                open.then(|| Box::new(End::accepted(&name, target, conn)) as Box<dyn Handler<Ways>>)
            });
            listener.expect("a free port").local_addr().inet().expect("TCP")
        })
    }

    /// Cuts all connections of a way, at whatever byte they are, and lets nobody in for a while. Returns how many
    /// there were.
    pub fn cut(&self, name: &str, closed_for: Duration) -> usize {
        self.with(name, move |way, cx| {
            way.closed_until = Some(cx.now() + closed_for);
            let cut = way.open.len();
            for end in way.open.values().flatten() {
                end.abort();
            }
            cut
        })
    }

    /// Lets nothing pass for a while, and loses nothing.
    pub fn stall(&self, name: &str, lasting: Duration) {
        self.with(name, |way, _| way.set_stalled(true));
        let name = name.to_owned();
        let _ = self.remote.post_delayed(lasting, move |ways: &mut Ways, _| {
            if let Some(way) = ways.0.get_mut(&name) {
                way.set_stalled(false);
            }
        });
    }

    /// Makes each byte take so long from now on.
    pub fn delay(&self, name: &str, by: Duration) {
        self.with(name, move |way, _| way.delay = by);
    }

    fn with<T: Send + 'static>(
        &self,
        name: &str,
        then: impl FnOnce(&mut Way, &mut Context<Ways>) -> T + Send + 'static,
    ) -> T {
        let name = name.to_owned();
        self.ask(move |ways, cx| then(ways.0.get_mut(&name).unwrap_or_else(|| panic!("no way {name}")), cx))
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Ways, &mut Context<Ways>) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let posted = self.remote.post(move |ways, cx| {
            // The caller waits for it.
            let _ = answer.send(question(ways, cx));
        });
        posted.expect("the loop runs");
        answered.recv_timeout(PATIENCE).expect("an answer of the proxy")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.remote.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself in a test already.
            let _ = thread.join();
        }
    }
}

impl Way {
    fn set_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
        for end in self.open.values().flatten() {
            if stalled { end.pause() } else { end.resume() }
        }
    }
}

/// One end of a connection: what comes in here goes out at the other.
struct End {
    name: String,
    /// Where to connect; the accepted end has it.
    target: Option<SocketAddr>,
    other: Option<Conn>,
    /// The accepted end's.
    key: Token,
    /// What is on its way, with its time of arrival.
    under_way: VecDeque<(Instant, Vec<u8>)>,
}

impl End {
    fn accepted(name: &str, target: SocketAddr, conn: &Conn) -> Self {
        let (name, target, key) = (name.to_owned(), Some(target), conn.id());
        Self { name, target, other: None, key, under_way: VecDeque::new() }
    }

    fn pass(&self, bytes: &[u8]) {
        if let Some(other) = &self.other {
            // A closed end ends this one too, by itself.
            let _ = other.send_slice(bytes);
        }
    }
}

impl Handler<Ways> for End {
    fn on_open(&mut self, ways: &mut Ways, cx: &mut Context<Ways>, conn: &Conn) {
        let Some(target) = self.target else { return };
        let end = Self {
            name: self.name.clone(),
            target: None,
            other: Some(conn.clone()),
            key: self.key,
            under_way: VecDeque::new(),
        };
        let options = ConnectOptions { conn: ConnOptions::default(), ..ConnectOptions::default() };
        let other = cx.connect(target, options, Box::new(end));
        if let Some(way) = ways.0.get_mut(&self.name) {
            way.open.insert(self.key, [conn.clone(), other.clone()]);
            way.set_stalled(way.stalled);
        }
        self.other = Some(other);
    }

    fn on_data(&mut self, ways: &mut Ways, cx: &mut Context<Ways>, conn: &Conn, input: &[u8]) -> usize {
        let delay = ways.0.get(&self.name).map_or(Duration::ZERO, |way| way.delay);
        if delay.is_zero() && self.under_way.is_empty() {
            self.pass(input);
        } else {
            // Nothing overtakes what was sent when the way was slower.
            let last = self.under_way.back().map_or(cx.now(), |(arrival, _)| *arrival);
            let arrival = last.max(cx.now() + delay);
            if self.under_way.is_empty() {
                cx.conn_timer(conn, delay);
            }
            self.under_way.push_back((arrival, input.to_vec()));
        }
        input.len()
    }

    fn on_timer(&mut self, _: &mut Ways, cx: &mut Context<Ways>, conn: &Conn, _: TimerId) {
        while let Some((_, bytes)) = self.under_way.pop_front_if(|(arrival, _)| *arrival <= cx.now()) {
            self.pass(&bytes);
        }
        if let Some((arrival, _)) = self.under_way.front() {
            let wait = arrival.saturating_duration_since(cx.now());
            cx.conn_timer(conn, wait);
        }
    }

    fn on_close(&mut self, ways: &mut Ways, _: &mut Context<Ways>, _: &Conn, reason: &CloseReason) {
        if let Some(way) = ways.0.get_mut(&self.name) {
            way.open.remove(&self.key);
        }
        if matches!(reason, CloseReason::PeerClosed) {
            while let Some((_, bytes)) = self.under_way.pop_front() {
                self.pass(&bytes);
            }
        }
        if let Some(other) = &self.other {
            if matches!(reason, CloseReason::PeerClosed) { other.close() } else { other.abort() }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair(proxy: &Proxy) -> (SocketAddr, TcpListener) {
        let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
        (proxy.way("way", target.local_addr().expect("bound")), target)
    }

    fn read(stream: &mut TcpStream, wanted: &[u8]) {
        stream.set_read_timeout(Some(PATIENCE)).expect("above zero");
        let mut found = vec![0; wanted.len()];
        stream.read_exact(&mut found).expect("it arrives");
        assert_eq!(found, wanted);
    }

    #[test]
    fn bytes_pass_both_ways_and_so_does_the_end() {
        let proxy = Proxy::start();
        let (at, target) = pair(&proxy);
        let mut client = TcpStream::connect(at).expect("the proxy listens");
        let (mut server, _) = target.accept().expect("the proxy connects");
        client.write_all(b"there").expect("sent");
        read(&mut server, b"there");
        server.write_all(b"and back").expect("sent");
        read(&mut client, b"and back");
        drop(server);
        assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0);
    }

    #[test]
    fn a_slow_way_keeps_the_order_and_a_stalled_one_loses_nothing() {
        let proxy = Proxy::start();
        let (at, target) = pair(&proxy);
        let mut client = TcpStream::connect(at).expect("the proxy listens");
        let (mut server, _) = target.accept().expect("the proxy connects");
        proxy.delay("way", Duration::from_millis(30));
        client.write_all(b"slow, ").expect("sent");
        read(&mut server, b"slow, ");
        client.write_all(b"slow again, ").expect("sent");
        proxy.delay("way", Duration::ZERO);
        client.write_all(b"quick").expect("sent");
        read(&mut server, b"slow again, quick");
        proxy.stall("way", Duration::from_millis(20));
        client.write_all(b"late").expect("sent");
        read(&mut server, b"late");
    }

    #[test]
    fn a_cut_way_ends_its_connections_and_lets_nobody_in_for_a_while() {
        let proxy = Proxy::start();
        let (at, target) = pair(&proxy);
        let mut client = TcpStream::connect(at).expect("the proxy listens");
        let _server = target.accept().expect("the proxy connects");
        client.write_all(b"x").expect("sent");
        assert_eq!(proxy.cut("way", PATIENCE), 1);
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        let mut shut_out = TcpStream::connect(at).expect("the proxy listens");
        assert!(matches!(shut_out.read(&mut [0]), Ok(0) | Err(_)));
        proxy.cut("way", Duration::ZERO);
        let mut again = TcpStream::connect(at).expect("the proxy listens");
        let (mut server, _) = target.accept().expect("the proxy connects");
        again.write_all(b"again").expect("sent");
        read(&mut server, b"again");
    }
}
