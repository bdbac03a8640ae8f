//! Listeners and sockets: TCP over both families, Unix streams, options, limits, pausing
//! (spec/netlib.md G3.1, G3.3). Connecting by name is in `connector.rs`.

mod support;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netlib::backend::BackendKind;
use netlib::socket::{Address, Keepalive, SocketOptions, UnixAddress};
use netlib::{CloseReason, Conn, ConnectOptions, Context, Handler, ListenOptions, Listener, ListenerStats, Reactor};
use support::{drive, local, peer, reactor};

#[derive(Default)]
struct World {
    conns: Vec<Conn>,
    input: Vec<u8>,
    closed: Vec<CloseReason>,
}

/// Sends back what it is sent, and tells the world.
struct Echo;

impl Handler<World> for Echo {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn, input: &[u8]) -> usize {
        world.input.extend(input);
        conn.send_slice(input).unwrap();
        input.len()
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, reason: &CloseReason) {
        world.closed.push(reason.clone());
    }
}

/// Takes what it is sent.
struct Client;

impl Handler<World> for Client {
    fn on_data(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, input: &[u8]) -> usize {
        world.input.extend(input);
        input.len()
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, reason: &CloseReason) {
        world.closed.push(reason.clone());
    }
}

fn serve(reactor: &mut Reactor<World>, address: impl Into<Address>, options: ListenOptions) -> io::Result<Listener> {
    reactor.context().listen(address, options, |_, _, _| Some(Box::new(Echo)))
}

/// A path that no other test has; what is left of it goes with this value.
struct Path(PathBuf);

impl Path {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("netlib-sockets-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    fn address(&self) -> Address {
        UnixAddress::path(&self.0).unwrap().into()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Both ends in one reactor.
fn echoes(kind: BackendKind, address: Address) {
    let mut reactor = reactor::<World>(kind);
    let listener = serve(&mut reactor, address, ListenOptions::default()).unwrap();
    let conn = reactor.context().connect(listener.local_addr(), ConnectOptions::default(), Box::new(Client));
    assert_eq!(conn.peer_addr(), listener.local_addr());
    conn.send_slice(b"hello").unwrap();
    let mut world = World::default();
    // The server has it, and then the client.
    drive(&mut reactor, &mut world, "the echo", |world| world.input == b"hellohello");
    assert_eq!(world.conns[0].local_addr(), listener.local_addr());
    conn.close();
    drive(&mut reactor, &mut world, "both ends", |world| world.closed.len() == 2);
    assert!(world.closed.contains(&CloseReason::Local) && world.closed.contains(&CloseReason::PeerClosed));
}

fn tcp_over_ipv4_echoes(kind: BackendKind) {
    echoes(kind, local().into());
}

fn tcp_over_ipv6_echoes(kind: BackendKind) {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("SKIPPED tcp_over_ipv6_echoes: no IPv6 on this machine");
        return;
    }
    echoes(kind, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into());
}

fn unix_streams_echo(kind: BackendKind) {
    echoes(kind, Path::new().address());
    let name = format!("netlib-{}-{kind}", std::process::id());
    echoes(kind, UnixAddress::abstract_name(name.as_bytes()).unwrap().into());
}

fn dual_stack_takes_both_families_unless_told_otherwise(kind: BackendKind) {
    let wildcard = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    for ipv6_only in [false, true] {
        let mut reactor = reactor::<World>(kind);
        let Ok(listener) = serve(&mut reactor, wildcard, ListenOptions { ipv6_only, ..ListenOptions::default() })
        else {
            eprintln!("SKIPPED dual_stack_takes_both_families_unless_told_otherwise: no IPv6 on this machine");
            return;
        };
        let port = listener.local_addr().port().unwrap();
        let over_ipv4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        assert_eq!(over_ipv4.is_ok(), !ipv6_only);
        let _over_ipv6 = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        let mut world = World::default();
        let expected = if ipv6_only { 1 } else { 2 };
        drive(&mut reactor, &mut world, "the connections", |world| world.conns.len() == expected);
    }
}

#[test]
fn a_live_unix_socket_is_refused_and_a_dead_one_replaced() {
    let path = Path::new();
    let mut reactor = reactor::<World>(BackendKind::Mio);
    // Dropping it leaves the file, as the death of a process does.
    let foreign = UnixListener::bind(&path.0).unwrap();
    let error = serve(&mut reactor, path.address(), ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(foreign);
    assert!(path.0.exists());
    let options = ListenOptions { unix_mode: Some(0o600), ..ListenOptions::default() };
    let listener = serve(&mut reactor, path.address(), options).unwrap();
    assert_eq!(std::fs::metadata(&path.0).unwrap().permissions().mode() & 0o777, 0o600);
    let _client = UnixStream::connect(&path.0).unwrap();
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the client", |world| world.conns.len() == 1);
    listener.close(reactor.context());
    assert!(!path.0.exists(), "the file goes with the listener");
}

#[test]
fn what_is_not_this_listeners_file_is_left_alone() {
    let path = Path::new();
    let mut reactor = reactor::<World>(BackendKind::Mio);
    std::fs::write(&path.0, "precious").unwrap();
    let error = serve(&mut reactor, path.address(), ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&path.0).unwrap(), b"precious");
    std::fs::remove_file(&path.0).unwrap();

    let listener = serve(&mut reactor, path.address(), ListenOptions::default()).unwrap();
    std::fs::remove_file(&path.0).unwrap();
    let _successor = UnixListener::bind(&path.0).unwrap();
    listener.close(reactor.context());
    UnixStream::connect(&path.0).expect("the successor's file is still there");
}

#[test]
fn a_unix_socket_that_is_not_there_fails_on_the_one_path() {
    let mut reactor = reactor::<World>(BackendKind::Mio);
    let path = Path::new();
    reactor.context().connect(path.address(), ConnectOptions::default(), Box::new(Client));
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the failure", |world| !world.closed.is_empty());
    assert_eq!(world.closed, [CloseReason::ConnectFailed(io::ErrorKind::NotFound)]);
}

/// On both ends: what is accepted and what is dialled.
fn options_are_in_force_on_both_ends(kind: BackendKind) {
    let socket = SocketOptions {
        nodelay: false,
        keepalive: Some(Keepalive {
            idle: Duration::from_millis(29_500),
            interval: Duration::from_secs(7),
            retries: 4,
        }),
        send_buffer: Some(20_000),
        receive_buffer: Some(30_000),
        user_timeout: Some(Duration::from_millis(12_345)),
        dscp: Some(46),
        from: None,
    };
    // Seconds are rounded up, buffers doubled by the kernel.
    let effective = SocketOptions {
        keepalive: Some(Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(7), retries: 4 }),
        send_buffer: Some(40_000),
        receive_buffer: Some(60_000),
        ..socket
    };
    let mut addresses = vec![local()];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push((Ipv6Addr::LOCALHOST, 0).into());
    } else {
        eprintln!("SKIPPED options_are_in_force_on_both_ends, over IPv6: no IPv6 on this machine");
    }
    for address in addresses {
        let mut reactor = reactor::<World>(kind);
        let listener = serve(&mut reactor, address, ListenOptions { socket, ..ListenOptions::default() }).unwrap();
        let options = ConnectOptions { socket, ..ConnectOptions::default() };
        let dialled = reactor.context().connect(listener.local_addr(), options, Box::new(Client));
        let mut world = World::default();
        drive(&mut reactor, &mut world, "the connection", |world| !world.conns.is_empty());
        assert_eq!(world.conns[0].socket_options().unwrap(), effective);
        assert_eq!(dialled.socket_options().unwrap(), effective);
    }
}

#[test]
fn a_connect_leaves_from_the_address_that_it_is_given() {
    let mut reactor = reactor::<World>(BackendKind::Mio);
    let listener = serve(&mut reactor, local(), ListenOptions::default()).unwrap();
    let from = std::net::IpAddr::from([127, 0, 0, 77]);
    let socket = SocketOptions { from: Some(from), ..SocketOptions::default() };
    let options = ConnectOptions { socket, ..ConnectOptions::default() };
    let dialled = reactor.context().connect(listener.local_addr(), options, Box::new(Client));
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the connection", |world| !world.conns.is_empty());
    assert_eq!(dialled.local_addr().ip(), Some(from));
    assert_eq!(world.conns[0].peer_addr().ip(), Some(from));
}

#[test]
fn an_option_out_of_range_is_an_error_and_not_ignored() {
    let mut reactor = reactor::<World>(BackendKind::Mio);
    let socket = SocketOptions { dscp: Some(64), ..SocketOptions::default() };
    let error = serve(&mut reactor, local(), ListenOptions { socket, ..ListenOptions::default() }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let options = ConnectOptions { socket, ..ConnectOptions::default() };
    reactor.context().connect(local(), options, Box::new(Client));
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the failure", |world| !world.closed.is_empty());
    assert_eq!(world.closed, [CloseReason::ConnectFailed(io::ErrorKind::InvalidInput)]);
}

fn over_the_limit_of_its_address_a_peer_is_closed_and_counted(kind: BackendKind) {
    let mut reactor = reactor::<World>(kind);
    let options = ListenOptions { max_per_address: 2, ..ListenOptions::default() };
    let listener = serve(&mut reactor, local(), options).unwrap();
    let mut world = World::default();
    let first = peer(listener.local_addr());
    let _second = peer(listener.local_addr());
    drive(&mut reactor, &mut world, "two", |world| world.conns.len() == 2);
    let mut third = peer(listener.local_addr());
    drive(&mut reactor, &mut world, "the refusal", |_| listener.stats().refused == 1);
    assert_eq!(third.read(&mut [0]).unwrap(), 0);
    assert_eq!(listener.stats(), ListenerStats { accepted: 2, refused: 1, live: 2 });
    assert_eq!(reactor.context().stats().refused, 1);
    // Another address of this machine is not that one.
    let other = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&other, &SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    rustix::net::connect(&other, &listener.local_addr().inet().unwrap()).unwrap();
    drive(&mut reactor, &mut world, "another address", |world| world.conns.len() == 3);
    // One leaves, one may come.
    drop(first);
    drive(&mut reactor, &mut world, "one leaves", |_| listener.connections() == 2);
    let _fourth = peer(listener.local_addr());
    drive(&mut reactor, &mut world, "one comes", |world| world.conns.len() == 4);
}

fn a_paused_listener_accepts_nothing_and_nobody_is_lost(kind: BackendKind) {
    let mut reactor = reactor::<World>(kind);
    let listener = serve(&mut reactor, local(), ListenOptions::default()).unwrap();
    let mut world = World::default();
    let _first = peer(listener.local_addr());
    drive(&mut reactor, &mut world, "the first", |world| world.conns.len() == 1);
    listener.pause(reactor.context()).unwrap();
    let mut waiting = [peer(listener.local_addr()), peer(listener.local_addr())];
    let before = reactor.context().stats().ticks;
    for _ in 0..3 {
        reactor.run_once(&mut world, Some(Duration::from_millis(20))).unwrap();
    }
    assert_eq!(world.conns.len(), 1, "accepted while paused");
    assert_eq!(reactor.context().stats().events, 1, "a paused listener makes no events");
    assert_eq!(reactor.context().stats().ticks - before, 3);
    listener.resume(reactor.context()).unwrap();
    drive(&mut reactor, &mut world, "those that waited", |world| world.conns.len() == 3);
    waiting[1].write_all(b"x").unwrap();
    drive(&mut reactor, &mut world, "their bytes", |world| world.input == b"x");
}

/// The acceptor pauses its own listener in the middle of a batch.
fn a_pause_from_the_acceptor_holds_at_once(kind: BackendKind) {
    let mut reactor = reactor::<World>(kind);
    let handle = std::rc::Rc::new(std::cell::OnceCell::<Listener>::new());
    let own = std::rc::Rc::clone(&handle);
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), move |_, cx, _| {
            own.get().unwrap().pause(cx).unwrap();
            Some(Box::new(Echo))
        })
        .unwrap();
    handle.set(listener.clone()).unwrap();
    let _clients = [peer(listener.local_addr()), peer(listener.local_addr())];
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the first", |world| world.conns.len() == 1);
    reactor.run_once(&mut world, Some(Duration::from_millis(20))).unwrap();
    assert_eq!(world.conns.len(), 1);
    listener.resume(reactor.context()).unwrap();
    drive(&mut reactor, &mut world, "the second", |world| world.conns.len() == 2);
}

#[test]
fn two_listeners_share_a_port_only_if_both_ask_for_it() {
    let mut reactor = reactor::<World>(BackendKind::Mio);
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let first = serve(&mut reactor, local(), shared.clone()).unwrap();
    let second = serve(&mut reactor, first.local_addr(), shared).unwrap();
    assert_eq!(first.local_addr(), second.local_addr());
    let error = serve(&mut reactor, first.local_addr(), ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    // The kernel spreads them by a hash of the ports: 64 to one of two happen once in 2^63.
    let _clients: Vec<_> = (0..64).map(|_| peer(first.local_addr())).collect();
    let mut world = World::default();
    drive(&mut reactor, &mut world, "all", |world| world.conns.len() == 64);
    assert!(first.connections() > 0 && second.connections() > 0);
}

fn an_exclusive_listener_serves_or_is_refused_by_name(kind: BackendKind) {
    let mut reactor = reactor::<World>(kind);
    let has = kind.open().unwrap().caps().exclusive_wakeup;
    let options = ListenOptions { exclusive: true, ..ListenOptions::default() };
    let listener = match serve(&mut reactor, local(), options) {
        Ok(listener) => listener,
        Err(error) => {
            assert!(!has && error.kind() == io::ErrorKind::Unsupported, "{kind}: {error}");
            return;
        }
    };
    assert!(has);
    let mut world = World::default();
    let _first = peer(listener.local_addr());
    drive(&mut reactor, &mut world, "one", |world| world.conns.len() == 1);
    listener.pause(reactor.context()).unwrap();
    let _second = peer(listener.local_addr());
    listener.resume(reactor.context()).unwrap();
    drive(&mut reactor, &mut world, "one after a pause", |world| world.conns.len() == 2);
}

on_every_backend!(
    tcp_over_ipv4_echoes,
    tcp_over_ipv6_echoes,
    unix_streams_echo,
    dual_stack_takes_both_families_unless_told_otherwise,
    options_are_in_force_on_both_ends,
    over_the_limit_of_its_address_a_peer_is_closed_and_counted,
    a_paused_listener_accepts_nothing_and_nobody_is_lost,
    a_pause_from_the_acceptor_holds_at_once,
    an_exclusive_listener_serves_or_is_refused_by_name,
);
