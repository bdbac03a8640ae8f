//! Datagram sockets on every back end: batches, what is told about each packet, the bounded
//! queue, errors that end nothing, budgets, ends.

mod support;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU32, Ordering};

use netlib::backend::BackendKind;
use netlib::datagram::{
    Address, BindOptions, DatagramError, Ecn, Flushed, Outgoing, Packets, QueuePolicy, ReceiveBatch, SendBatch,
    SendQueue, UnixAddress,
};
use netlib::{
    CloseReason, Conn, Context, Datagram, DatagramHandler, DatagramOptions, DatagramSocket, Handler, ListenOptions,
    Reactor, SendError,
};
use support::{drive, local, peer, reactor};

on_every_backend! {
    packets_are_echoed_in_batches_and_in_order,
    a_packet_that_is_too_long_says_so,
    ecn_and_destination_address_are_seen_and_answers_leave_from_there,
    a_dual_stack_socket_shows_ipv4_as_ipv4,
    ipv6_tells_the_same,
    offloads_on_and_off_give_the_same_packets,
    an_offload_that_the_way_refuses_is_done_without_and_remembered,
    a_full_queue_drops_the_newest_and_counts,
    a_full_queue_drops_the_oldest_and_counts,
    a_burst_beyond_the_queue_leaves_if_the_socket_takes_it,
    a_dead_peer_is_told_and_ends_nothing,
    a_packet_that_cannot_be_sent_does_not_lose_those_behind_it,
    unix_datagrams_are_echoed,
    a_unix_peer_that_does_not_read_holds_up_only_itself,
    a_budget_lets_a_neighbour_live,
    closing_inside_the_handler_is_the_end,
    closing_sends_what_is_queued_beyond_the_budget,
    a_socket_closed_by_a_neighbour_in_the_same_batch_hears_nothing,
    a_panic_ends_its_socket_alone,
    what_the_kernel_drops_is_counted,
    descriptors_sent_along_are_not_taken,
    queued_before_the_loop_runs_is_sent,
    a_move_to_another_back_end_loses_nothing,
}

/// What the handlers of these tests write down.
#[derive(Default)]
struct Seen {
    payloads: Vec<Vec<u8>>,
    from: Vec<Address>,
    to: Vec<Option<IpAddr>>,
    ecn: Vec<Ecn>,
    truncated: Vec<bool>,
    errors: Vec<DatagramError>,
    drained: usize,
    closed: Vec<CloseReason>,
    batches: usize,
    /// Packets per tick.
    ticks: Vec<(u64, usize)>,
    /// The tick in which a stream connection had input.
    stream_ticks: Vec<u64>,
}

/// Writes everything down and does one thing.
enum Act {
    Note,
    Echo,
    /// Answers with the congestion mark that came.
    EchoEcn,
    Panic,
    /// Answers the first and closes.
    Close,
    CloseOther(std::rc::Rc<std::cell::RefCell<Option<Datagram>>>),
}

impl DatagramHandler<Seen> for Act {
    fn on_packets(&mut self, seen: &mut Seen, cx: &mut Context<Seen>, socket: &Datagram, packets: Packets<'_>) {
        assert!(!packets.is_empty());
        assert_eq!(packets.iter().count(), packets.len());
        seen.batches += 1;
        seen.ticks.push((cx.stats().ticks, packets.len()));
        for packet in packets.iter() {
            seen.payloads.push(packet.payload.to_vec());
            seen.from.push(packet.from.clone());
            seen.to.push(packet.to);
            seen.ecn.push(packet.ecn);
            seen.truncated.push(packet.truncated);
            match self {
                Self::Note | Self::Panic | Self::CloseOther(_) => {}
                Self::Echo | Self::Close => socket.reply(&packet, packet.payload).expect("room in the queue"),
                Self::EchoEcn => {
                    let answer =
                        Outgoing { ecn: packet.ecn, from: packet.to, ..Outgoing::new("", packet.from.clone()) };
                    socket.send(Outgoing { payload: packet.payload.to_vec().into(), ..answer }).expect("room");
                }
            }
        }
        match self {
            Self::Panic => panic!("planted"),
            Self::Close => socket.close(),
            Self::CloseOther(other) => other.borrow().as_ref().expect("set").close(),
            Self::Note | Self::Echo | Self::EchoEcn => {}
        }
    }

    fn on_error(&mut self, seen: &mut Seen, _: &mut Context<Seen>, _: &Datagram, error: &DatagramError) {
        seen.errors.push(match error {
            DatagramError::Network(error) => DatagramError::Network(error.kind().into()),
            DatagramError::Send { to, packets, error } => DatagramError::Send {
                to: to.clone(),
                packets: *packets,
                error: io::Error::from_raw_os_error(error.raw_os_error().expect("the system's")),
            },
        });
    }

    fn on_drained(&mut self, seen: &mut Seen, _: &mut Context<Seen>, socket: &Datagram) {
        assert_eq!(socket.queued(), 0);
        seen.drained += 1;
    }

    fn on_close(&mut self, seen: &mut Seen, _: &mut Context<Seen>, socket: &Datagram, reason: &CloseReason) {
        assert!(!socket.is_open());
        seen.closed.push(reason.clone());
    }
}

/// Room for every packet of a test.
fn roomy() -> BindOptions {
    BindOptions { receive_buffer: Some(2 << 20), send_buffer: Some(2 << 20), ..BindOptions::default() }
}

fn bound(address: impl Into<Address>, options: &BindOptions) -> DatagramSocket {
    DatagramSocket::bind(address, options).expect("binds")
}

fn serve(reactor: &mut Reactor<Seen>, socket: DatagramSocket, options: DatagramOptions, act: Act) -> Datagram {
    reactor.context().datagram(socket, options, Box::new(act)).expect("registers")
}

fn inet(address: &Address) -> SocketAddr {
    address.inet().expect("an internet address")
}

/// A plain client of the standard library, which knows nothing of batches.
fn client(server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((server.ip(), 0)).expect("binds");
    client.connect(server).expect("connects");
    client.set_nonblocking(true).expect("nonblocking");
    client
}

/// Drives the loop until the client has `count` answers.
fn answers(reactor: &mut Reactor<Seen>, seen: &mut Seen, client: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    drive(reactor, seen, "the answers", |_| {
        let mut buffer = vec![0; 70_000];
        while let Ok(length) = client.recv(&mut buffer) {
            answers.push(buffer[..length].to_vec());
        }
        answers.len() >= count
    });
    answers
}

fn numbered(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            let mut packet = number.to_be_bytes().to_vec();
            packet.resize(size.max(8), number as u8);
            packet
        })
        .collect()
}

/// A name that no other test uses.
fn unix_name(what: &str) -> UnixAddress {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    UnixAddress::abstract_name(format!("netlib-{}-{what}-{number}", std::process::id()).as_bytes()).expect("short")
}

fn packets_are_echoed_in_batches_and_in_order(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let server = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Echo);
    let client = client(inet(server.local_addr()));
    let sent = numbered(150, 100);
    for packet in &sent {
        client.send(packet).expect("sends");
    }
    assert_eq!(answers(&mut reactor, &mut seen, &client, sent.len()), sent);
    assert_eq!(seen.payloads, sent);
    assert_eq!(seen.to, [Some(local().ip()); 150], "known without asking: it has no other address");
    let counters = server.counters();
    assert_eq!((counters.packets_in, counters.bytes_in), (150, 15_000));
    assert_eq!((counters.sent.packets, counters.sent.bytes), (150, 15_000));
    assert!(counters.calls_in <= 4, "64 at a time: {counters:?}");
    assert!(counters.sent.calls <= 3, "64 at a time: {counters:?}");
    assert_eq!(server.queued(), 0);
}

fn a_packet_that_is_too_long_says_so(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let options = DatagramOptions { max_packet: 100, ..DatagramOptions::default() };
    let server = serve(&mut reactor, bound(local(), &BindOptions { gro: false, ..roomy() }), options, Act::Note);
    let client = client(inet(server.local_addr()));
    for length in [99, 100, 101, 5000, 0] {
        client.send(&vec![7; length]).expect("sends");
    }
    drive(&mut reactor, &mut seen, "five packets", |seen| seen.payloads.len() == 5);
    assert_eq!(seen.payloads.iter().map(Vec::len).collect::<Vec<_>>(), [99, 100, 100, 100, 0]);
    assert_eq!(seen.truncated, [false, false, true, true, false]);
    assert_eq!(server.counters().truncated, 2);
}

/// A peer that sees what a plain socket does not.
struct Peer {
    socket: DatagramSocket,
    queue: SendQueue,
    batch: ReceiveBatch,
}

impl Peer {
    fn new(address: impl Into<Address>) -> Self {
        let queue = SendQueue::new(1000, 1 << 20, QueuePolicy::DropNewest);
        Self { socket: bound(address, &roomy()), queue, batch: ReceiveBatch::new() }
    }

    fn send(&mut self, packet: Outgoing) {
        self.queue.push(packet).expect("room");
        let mut errors = Vec::new();
        let ended = self.queue.flush(&self.socket, &mut SendBatch::new(), usize::MAX, &mut errors);
        assert!(ended == Flushed::Empty && errors.is_empty(), "{ended:?} {errors:?}");
    }

    /// Payload, sender and mark of what has come.
    fn receive(&mut self) -> Vec<(Vec<u8>, Address, Ecn)> {
        let Ok(packets) = self.socket.receive(&mut self.batch, 64, 2000) else { return Vec::new() };
        packets.iter().map(|packet| (packet.payload.to_vec(), packet.from.clone(), packet.ecn)).collect()
    }
}

const MARKS: [Ecn; 4] = [Ecn::Capable0, Ecn::Congestion, Ecn::NotCapable, Ecn::Capable1];

/// Sends each mark from `sender` to `there`, where a socket bound to `wildcard` answers.
fn marks_and_addresses(kind: BackendKind, wildcard: SocketAddr, sender: SocketAddr, there: IpAddr) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let server = serve(&mut reactor, bound(wildcard, &roomy()), DatagramOptions::default(), Act::EchoEcn);
    let there = SocketAddr::new(there, inet(server.local_addr()).port());
    let mut peer = Peer::new(sender);
    for ecn in MARKS {
        peer.send(Outgoing { ecn, ..Outgoing::new("marked", there) });
    }
    let mut answers = Vec::new();
    drive(&mut reactor, &mut seen, "the answers", |_| {
        answers.extend(peer.receive());
        answers.len() == MARKS.len()
    });
    assert_eq!(seen.ecn, MARKS);
    assert_eq!(seen.to, [Some(there.ip()); 4]);
    assert!(seen.from.iter().all(|from| *from == peer.socket.local_addr().expect("bound")));
    assert_eq!(answers.iter().map(|answer| answer.2).collect::<Vec<_>>(), MARKS, "on the way back");
    assert!(answers.iter().all(|answer| answer.1 == Address::Inet(there)), "from where it was sent to: {answers:?}");
}

fn ecn_and_destination_address_are_seen_and_answers_leave_from_there(kind: BackendKind) {
    let wildcard = "0.0.0.0:0".parse().expect("an address");
    marks_and_addresses(kind, wildcard, local(), "127.0.0.5".parse().expect("an address"));
}

fn has_ipv6(test: &str) -> bool {
    let there = UdpSocket::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("SKIPPED {test}: no IPv6 on this machine");
    }
    there
}

fn a_dual_stack_socket_shows_ipv4_as_ipv4(kind: BackendKind) {
    if has_ipv6("a_dual_stack_socket_shows_ipv4_as_ipv4") {
        let wildcard = "[::]:0".parse().expect("an address");
        marks_and_addresses(kind, wildcard, local(), "127.0.0.5".parse().expect("an address"));
    }
}

fn ipv6_tells_the_same(kind: BackendKind) {
    if has_ipv6("ipv6_tells_the_same") {
        let wildcard = "[::]:0".parse().expect("an address");
        let sender = "[::1]:0".parse().expect("an address");
        marks_and_addresses(kind, wildcard, sender, "::1".parse().expect("an address"));
    }
}

fn offloads_on_and_off_give_the_same_packets(kind: BackendKind) {
    // Runs of one size, a shorter end, empty ones, and more than one message may hold.
    let mut sent = numbered(130, 1200);
    sent.extend([vec![1; 300], vec![], vec![2; 1200], vec![3; 1200], vec![4; 1201], vec![], vec![5; 7], vec![6; 7]]);
    sent.extend(numbered(3, 30_000));
    // What is shorter ends a run, whatever comes next.
    sent.extend([1200, 1200, 300, 300, 1200, 300, 1200, 1200, 100, 200].map(|size| vec![8; size]));
    for (gso, gro) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut reactor = reactor::<Seen>(kind);
        let mut seen = Seen::default();
        let receiver = bound(local(), &BindOptions { gro, ..roomy() });
        let sender = bound(local(), &BindOptions { gso, ..roomy() });
        let (has_gso, has_gro) = (sender.has_gso(), receiver.has_gro());
        assert!((gso || !has_gso) && (gro || !has_gro), "what is off is off");
        let receiver = serve(&mut reactor, receiver, DatagramOptions::default(), Act::Note);
        let sender = serve(&mut reactor, sender, DatagramOptions::default(), Act::Note);
        for packet in &sent {
            sender.send_to(packet, receiver.local_addr().clone()).expect("room");
        }
        // The same by one call of the handle's.
        let segments = Outgoing { segment: Some(100), ..Outgoing::new(vec![9; 1050], receiver.local_addr().clone()) };
        sender.send(segments).expect("room");
        let count = sent.len() + 11;
        drive(&mut reactor, &mut seen, "all packets", |seen| seen.payloads.len() >= count);
        assert!(seen.payloads[..sent.len()] == sent, "gso {gso}, gro {gro}");
        let cut: Vec<usize> = seen.payloads[sent.len()..].iter().map(Vec::len).collect();
        assert_eq!(cut, [100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 50]);
        let (out, into) = (sender.counters().sent, receiver.counters());
        assert_eq!((out.packets, into.packets_in, out.failed, out.dropped), (count as u64, count as u64, 0, 0));
        if has_gso {
            assert!(out.messages < 60, "{out:?}");
        } else {
            assert_eq!(out.messages, out.packets);
        }
        if has_gso && has_gro {
            assert!(into.messages_in < 60, "{into:?}");
        }
        if gso && !has_gso || gro && !has_gro {
            eprintln!("SKIPPED a part of offloads_on_and_off_give_the_same_packets: the kernel has no GSO or GRO");
        }
    }
}

/// Set in the process that has a network of its own.
const SMALL_NETWORK: &str = "NETLIB_TEST_SMALL_NETWORK";

/// Packets longer than the way's largest unit can be sent, in fragments, but not together. Loopback
/// has units of 64 KiB; so the test runs again in a network of its own, where it has not.
fn an_offload_that_the_way_refuses_is_done_without_and_remembered(kind: BackendKind) {
    let test = "an_offload_that_the_way_refuses_is_done_without_and_remembered";
    if std::env::var_os(SMALL_NETWORK).is_some() {
        return offload_over_small_units(kind);
    }
    let network = ["--net", "sh", "-c", "ip link set lo mtu 1500 up && exec \"$@\"", "sh"];
    let made = std::process::Command::new("unshare").args(network).arg("true").output();
    if !made.is_ok_and(|made| made.status.success()) {
        eprintln!("SKIPPED {test}: no network of its own without `unshare`, `ip` and the privilege");
        return;
    }
    let name = format!("{}::{test}", kind.name().replace('-', "_"));
    let again = std::process::Command::new("unshare")
        .args(network)
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", &name, "--nocapture"])
        .env(SMALL_NETWORK, "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&again.stderr));
}

fn offload_over_small_units(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let receiver = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    let sender = bound(local(), &roomy());
    if !sender.has_gso() {
        eprintln!("SKIPPED an_offload_that_the_way_refuses_is_done_without_and_remembered: the kernel has no GSO");
        return;
    }
    let sender = serve(&mut reactor, sender, DatagramOptions::default(), Act::Note);
    let mut sent = Vec::new();
    let mut burst = |size: usize| {
        let before = sender.counters().sent;
        for packet in numbered(40, size) {
            sender.send_to(&packet, receiver.local_addr().clone()).expect("room");
            sent.push(packet);
        }
        drive(&mut reactor, &mut seen, "all packets", |seen| seen.payloads.len() == sent.len());
        assert_eq!(seen.payloads, sent);
        let after = sender.counters().sent;
        assert_eq!(after.failed, 0);
        (after.messages - before.messages, after.calls - before.calls)
    };
    let (messages, calls) = burst(2000);
    assert!(messages == 40 && calls > 1, "refused first, then one by one: {messages} in {calls}");
    assert_eq!(burst(2000), (40, 1), "remembered");
    assert_eq!(burst(1000), (1, 1), "short ones still go together");
    assert!(seen.errors.is_empty());
}

/// A socket of the loop connected to a Unix peer that takes few packets and does not read.
fn stuck(reactor: &mut Reactor<Seen>, policy: QueuePolicy, packets: usize) -> (Datagram, UnixDatagram) {
    let name = unix_name("stuck");
    let UnixAddress::Abstract(bytes) = &name else { unreachable!("made so") };
    let peer = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(bytes)
        .expect("a name");
    let peer = UnixDatagram::bind_addr(&peer).expect("binds");
    peer.set_nonblocking(true).expect("nonblocking");
    let mut socket = bound(UnixAddress::Unnamed, &BindOptions::default());
    socket.connect(name).expect("connects");
    let options = DatagramOptions { queue_packets: packets, policy, ..DatagramOptions::default() };
    (serve(reactor, socket, options, Act::Note), peer)
}

fn number(payload: &[u8]) -> usize {
    usize::from_be_bytes(payload[..8].try_into().expect("eight bytes"))
}

/// Fills queue and peer with 100 packets, lets the peer read, and returns which were sent without an
/// error, and which arrived.
fn overfill(kind: BackendKind, policy: QueuePolicy) -> (Vec<usize>, Vec<usize>) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let (socket, peer) = stuck(&mut reactor, policy, 20);
    let taken: Vec<usize> = numbered(100, 8)
        .iter()
        .filter(|packet| match socket.send(Outgoing::to_peer((*packet).clone())) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                false
            }
        })
        .map(|packet| number(packet))
        .collect();
    assert_eq!(socket.queued(), 20, "bounded");
    assert_eq!(socket.queued_bytes(), 160);
    let calls = socket.counters().sent.calls;
    for _ in 0..5 {
        reactor.run_once(&mut seen, Some(std::time::Duration::from_millis(2))).expect("a tick");
    }
    assert_eq!(socket.counters().sent.calls, calls, "a socket that is full is left alone until it is writable");
    let mut arrived = Vec::new();
    drive(&mut reactor, &mut seen, "the queue is empty", |_| {
        let mut buffer = [0; 100];
        while let Ok(length) = peer.recv(&mut buffer) {
            arrived.push(number(&buffer[..length]));
        }
        socket.queued() == 0
    });
    let mut buffer = [0; 100];
    while let Ok(length) = peer.recv(&mut buffer) {
        arrived.push(number(&buffer[..length]));
    }
    assert_eq!(seen.drained, 1);
    let sent = socket.counters().sent;
    assert_eq!((sent.packets as usize, sent.dropped as usize), (arrived.len(), 100 - arrived.len()));
    assert!(arrived.len() < 100, "some must have been dropped");
    assert!(sent.calls < 100, "blocked means waiting for writability: {sent:?}");
    (taken, arrived)
}

fn a_full_queue_drops_the_newest_and_counts(kind: BackendKind) {
    let (taken, arrived) = overfill(kind, QueuePolicy::DropNewest);
    assert_eq!(arrived, taken);
    assert_eq!(arrived, (0..arrived.len()).collect::<Vec<_>>(), "the first ones");
}

fn a_full_queue_drops_the_oldest_and_counts(kind: BackendKind) {
    let (taken, arrived) = overfill(kind, QueuePolicy::DropOldest);
    assert_eq!(taken.len(), 100, "none is refused");
    assert_eq!(arrived[arrived.len() - 20..], (80..100).collect::<Vec<_>>(), "the last ones");
    assert!(arrived.is_sorted());
}

fn a_burst_beyond_the_queue_leaves_if_the_socket_takes_it(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let receiver = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    let options = DatagramOptions { queue_packets: 10, ..DatagramOptions::default() };
    let sender = serve(&mut reactor, bound(local(), &roomy()), options, Act::Note);
    let sent = numbered(105, 100);
    for packet in &sent {
        sender.send_to(packet, receiver.local_addr().clone()).expect("the socket takes them");
    }
    drive(&mut reactor, &mut seen, "all packets", |seen| seen.payloads.len() == sent.len());
    assert_eq!(seen.payloads, sent);
    assert_eq!(sender.counters().sent.dropped, 0);
    // Larger than the whole queue: never.
    let large = Outgoing { segment: Some(10), ..Outgoing::new(vec![0; 110], receiver.local_addr().clone()) };
    assert_eq!(sender.send(large), Err(SendError::Full));
    assert_eq!(sender.counters().sent.dropped, 11);
}

fn a_dead_peer_is_told_and_ends_nothing(kind: BackendKind) {
    // A queue of one sends in the middle of a callback, where the report about one packet meets the
    // next; a long one hands over all at once, together or one by one.
    for (gso, queue_packets) in [(true, 4096), (false, 4096), (false, 1)] {
        dead_peer(kind, gso, queue_packets);
    }
}

fn dead_peer(kind: BackendKind, gso: bool, queue_packets: usize) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let dead = UdpSocket::bind(local()).expect("binds");
    let address = dead.local_addr().expect("bound");
    drop(dead);
    let mut socket = bound(local(), &BindOptions { gso, ..roomy() });
    socket.connect(address).expect("connects");
    let options = DatagramOptions { queue_packets, ..DatagramOptions::default() };
    let socket = serve(&mut reactor, socket, options, Act::Note);
    for _ in 0..50 {
        socket.send(Outgoing::to_peer("anybody there?")).expect("room");
    }
    drive(&mut reactor, &mut seen, "the report", |seen| !seen.errors.is_empty() && socket.queued() == 0);
    for error in &seen.errors {
        let refused =
            matches!(error, DatagramError::Network(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        assert!(refused, "{error:?}");
    }
    let counters = socket.counters();
    assert_eq!((counters.sent.packets, counters.sent.failed, counters.sent.dropped), (50, 0, 0), "all left");
    assert!(counters.network_errors > 0);

    // It comes to life, and nothing was lost behind the errors.
    let alive = UdpSocket::bind(address).expect("binds again");
    alive.set_nonblocking(true).expect("nonblocking");
    let sent = numbered(20, 50);
    for packet in &sent {
        socket.send(Outgoing::to_peer(packet.clone())).expect("room");
    }
    let mut arrived = Vec::new();
    drive(&mut reactor, &mut seen, "all packets", |_| {
        let mut buffer = [0; 100];
        while let Ok(length) = alive.recv(&mut buffer) {
            arrived.push(buffer[..length].to_vec());
        }
        arrived.len() == sent.len()
    });
    assert_eq!(arrived, sent);
    alive.send_to(b"here", inet(socket.local_addr())).expect("sends");
    drive(&mut reactor, &mut seen, "its answer", |seen| seen.payloads == [b"here"]);
    assert!(socket.is_open() && seen.closed.is_empty());
}

fn a_packet_that_cannot_be_sent_does_not_lose_those_behind_it(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let receiver = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    let sender = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    let there = receiver.local_addr().clone();
    let good = numbered(6, 100);
    let send = |packet: Outgoing| sender.send(packet).expect("room");
    let broadcast: SocketAddr = "255.255.255.255:9".parse().expect("an address");
    send(Outgoing::new(good[0].clone(), there.clone()));
    send(Outgoing::new(vec![0; 70_000], there.clone())); // longer than any datagram
    send(Outgoing::new(good[1].clone(), there.clone()));
    send(Outgoing::new(good[2].clone(), there.clone()));
    send(Outgoing::new("to all", broadcast)); // not asked for in the options
    send(Outgoing::to_peer("to whom?"));
    send(Outgoing::new(good[3].clone(), there.clone()));
    // Pairs that would go together: from an address that is not ours, and to a port that is none,
    // for which the kernel's word is the same as for packets that cannot go together.
    let from = Some("192.0.2.77".parse().expect("an address"));
    let nowhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    for _ in 0..2 {
        send(Outgoing { from, ..Outgoing::new("not from here", there.clone()) });
    }
    for _ in 0..2 {
        send(Outgoing::new("to no port", nowhere));
    }
    send(Outgoing::new(good[4].clone(), there.clone()));
    send(Outgoing::new(good[5].clone(), there));
    drive(&mut reactor, &mut seen, "the good ones", |seen| seen.payloads.len() == good.len());
    assert_eq!(seen.payloads, good);
    assert_eq!(sender.counters().sent.failed, 7);
    let mut lost = Vec::new();
    for error in &seen.errors {
        let DatagramError::Send { error, packets, .. } = error else { panic!("{error:?}") };
        let code = error.raw_os_error().expect("the system's");
        lost.extend(std::iter::repeat_n(code, *packets));
    }
    let codes = [libc::EMSGSIZE, libc::EACCES, libc::EDESTADDRREQ];
    assert_eq!(lost[..3], codes);
    assert_eq!(lost[5..], [libc::EINVAL; 2]);
    assert_eq!(lost.len(), 7);
    assert!(sender.is_open());

    // That was no fault of segmentation offload, which still works if it did before.
    let before = sender.counters().sent.messages;
    let to = receiver.local_addr().clone();
    send(Outgoing { segment: Some(100), ..Outgoing::new(vec![1; 1000], to) });
    drive(&mut reactor, &mut seen, "ten more", |seen| seen.payloads.len() == good.len() + 10);
    if bound(local(), &BindOptions::default()).has_gso() {
        assert_eq!(sender.counters().sent.messages - before, 1);
    }
}

fn unix_datagrams_are_echoed(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let directory = std::env::temp_dir().join(format!("netlib-datagram-{}-{}", std::process::id(), kind.name()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for name in [unix_name("server"), UnixAddress::path(directory.join("server")).expect("short")] {
        let server = serve(&mut reactor, bound(name.clone(), &roomy()), DatagramOptions::default(), Act::Echo);
        assert_eq!(*server.local_addr(), Address::Unix(name.clone()));
        let own_name = unix_name("client");
        let mut client = Peer::new(own_name.clone());
        client.socket.connect(name).expect("connects");
        // No more than the kernel's shortest queue holds (net.unix.max_dgram_qlen).
        let sent = numbered(8, 1000);
        for packet in &sent {
            client.send(Outgoing::to_peer(packet.clone()));
        }
        let mut answers = Vec::new();
        drive(&mut reactor, &mut seen, "the answers", |_| {
            answers.extend(client.receive().into_iter().map(|answer| answer.0));
            answers.len() == sent.len()
        });
        assert_eq!(answers, sent);
        assert!(seen.from.iter().all(|from| *from == Address::Unix(own_name.clone())));
        assert_eq!(server.counters().packets_in, 8);
        seen.from.clear();
        server.close();
        drive(&mut reactor, &mut seen, "its end", |seen| seen.closed.pop().is_some());
    }
    std::fs::remove_dir_all(&directory).expect("removes its directory");
}

fn a_unix_peer_that_does_not_read_holds_up_only_itself(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let (slow_name, quick_name) = (unix_name("slow"), unix_name("quick"));
    let mut slow = Peer::new(slow_name.clone());
    let quick = serve(&mut reactor, bound(quick_name.clone(), &roomy()), DatagramOptions::default(), Act::Note);
    let sender = serve(&mut reactor, bound(UnixAddress::Unnamed, &roomy()), DatagramOptions::default(), Act::Note);
    let packets = numbered(200, 10);
    for packet in &packets {
        sender.send_to(packet, slow_name.clone()).expect("room");
    }
    for packet in &packets[..5] {
        sender.send_to(packet, quick_name.clone()).expect("room");
    }
    drive(&mut reactor, &mut seen, "the quick one's packets", |seen| seen.payloads.len() == 5);
    assert_eq!(quick.counters().packets_in, 5);
    assert!(sender.queued() > 100, "the slow one's wait");
    let mut arrived = Vec::new();
    drive(&mut reactor, &mut seen, "the slow one's packets", |_| {
        arrived.extend(slow.receive().into_iter().map(|packet| packet.0));
        arrived.len() == packets.len()
    });
    assert_eq!(arrived, packets, "in order");
    assert_eq!(sender.counters().sent.dropped, 0);
    // A peer that is gone is an error of that packet, not of the socket.
    drop(slow);
    sender.send_to(b"still there", quick_name).expect("room");
    drive(&mut reactor, &mut seen, "the packet", |seen| seen.payloads.len() == 6);
    // Again, should another test be starting a program: its child has the socket until it runs.
    drive(&mut reactor, &mut seen, "the error", |seen| {
        sender.send_to(b"gone?", slow_name.clone()).expect("room");
        !seen.errors.is_empty()
    });
    assert!(seen.errors.iter().all(|error| matches!(error, DatagramError::Send { .. })), "{:?}", seen.errors);
}

struct Neighbour;

impl Handler<Seen> for Neighbour {
    fn on_data(&mut self, seen: &mut Seen, cx: &mut Context<Seen>, _: &Conn, input: &[u8]) -> usize {
        seen.stream_ticks.push(cx.stats().ticks);
        input.len()
    }
}

fn a_budget_lets_a_neighbour_live(kind: BackendKind) {
    use std::io::Write;
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Neighbour)))
        .expect("listens");
    let mut stream = peer(listener.local_addr());
    stream.write_all(b"first").expect("writes");
    drive(&mut reactor, &mut seen, "the neighbour", |seen| seen.stream_ticks.len() == 1);

    let options = DatagramOptions { receive_budget: 16, batch: 8, ..DatagramOptions::default() };
    let server = serve(&mut reactor, bound(local(), &roomy()), options, Act::Note);
    let client = client(inet(server.local_addr()));
    let sent = numbered(400, 50);
    for packet in &sent {
        client.send(packet).expect("sends");
    }
    stream.write_all(b"second").expect("writes");
    drive(&mut reactor, &mut seen, "everything", |seen| seen.payloads.len() == sent.len());
    assert_eq!(seen.payloads, sent);
    let ticks: HashSet<u64> = seen.ticks.iter().map(|(tick, _)| *tick).collect();
    for tick in &ticks {
        let in_it: usize = seen.ticks.iter().filter(|(other, _)| other == tick).map(|(_, packets)| packets).sum();
        assert!(in_it <= 16, "{in_it} packets in one tick");
    }
    assert!(ticks.len() >= 25);
    let first = *ticks.iter().min().expect("some");
    assert!(seen.stream_ticks[1] <= first + 2, "the neighbour waited from {first} to {}", seen.stream_ticks[1]);
}

fn closing_inside_the_handler_is_the_end(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let options = DatagramOptions { batch: 1, ..DatagramOptions::default() };
    let server = serve(&mut reactor, bound(local(), &roomy()), options, Act::Close);
    let address = inet(server.local_addr());
    let client = client(address);
    for packet in numbered(5, 8) {
        client.send(&packet).expect("sends");
    }
    assert_eq!(answers(&mut reactor, &mut seen, &client, 1), numbered(1, 8), "what was queued before still leaves");
    drive(&mut reactor, &mut seen, "the end", |seen| !seen.closed.is_empty());
    for _ in 0..3 {
        reactor.run_once(&mut seen, Some(std::time::Duration::ZERO)).expect("a tick");
    }
    assert_eq!(seen.closed, [CloseReason::Local], "once");
    assert_eq!(seen.batches, 1);
    assert_eq!(server.send_to(b"late", address), Err(SendError::Closed));
    let sent = server.counters().sent;
    assert_eq!((sent.packets, sent.dropped), (1, 0));
    server.close();
    UdpSocket::bind(address).expect("the descriptor is closed, though a handle lives");
    let next = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    assert_eq!(next.id().slot(), server.id().slot(), "its slot is free");
}

fn closing_sends_what_is_queued_beyond_the_budget(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let receiver = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    let options = DatagramOptions { send_budget: 10, ..DatagramOptions::default() };
    let sender = serve(&mut reactor, bound(local(), &BindOptions { gso: false, ..roomy() }), options, Act::Note);
    let sent = numbered(100, 20);
    for packet in &sent {
        sender.send_to(packet, receiver.local_addr().clone()).expect("room");
    }
    sender.close();
    drive(&mut reactor, &mut seen, "all packets", |seen| seen.payloads.len() == sent.len());
    assert_eq!(seen.payloads, sent);
}

fn a_socket_closed_by_a_neighbour_in_the_same_batch_hears_nothing(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let others = [std::rc::Rc::default(), std::rc::Rc::default()];
    let sockets = [0, 1].map(|index: usize| {
        let act = Act::CloseOther(std::rc::Rc::clone(&others[1 - index]));
        let socket = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), act);
        *others[index].borrow_mut() = Some(socket.clone());
        socket
    });
    for socket in &sockets {
        client(inet(socket.local_addr())).send(b"x").expect("sends");
    }
    drive(&mut reactor, &mut seen, "one end", |seen| !seen.closed.is_empty());
    assert_eq!((seen.batches, seen.closed.len()), (1, 1));
    assert_eq!(sockets.iter().filter(|socket| socket.is_open()).count(), 1);
}

fn a_panic_ends_its_socket_alone(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let bad = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Panic);
    let good = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Echo);
    client(inet(bad.local_addr())).send(b"boom").expect("sends");
    drive(&mut reactor, &mut seen, "the end", |seen| seen.closed == [CloseReason::HandlerPanic]);
    assert_eq!(reactor.context().stats().panics, 1);
    let client = client(inet(good.local_addr()));
    client.send(b"hello").expect("sends");
    assert_eq!(answers(&mut reactor, &mut seen, &client, 1), [b"hello"]);
}

fn what_the_kernel_drops_is_counted(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let small = BindOptions { receive_buffer: Some(16 << 10), ..BindOptions::default() };
    let server = serve(&mut reactor, bound(local(), &small), DatagramOptions::default(), Act::Note);
    let client = client(inet(server.local_addr()));
    for packet in numbered(500, 200) {
        client.send(&packet).expect("sends");
    }
    drive(&mut reactor, &mut seen, "what fitted", |seen| !seen.payloads.is_empty());
    let fitted = seen.payloads.len();
    assert!(fitted < 500);
    client.send(b"the next one carries the count").expect("sends");
    drive(&mut reactor, &mut seen, "the count", |_| server.counters().overflowed > 0);
    assert_eq!(server.counters().overflowed as usize, 500 - fitted);
}

/// A datagram over a Unix socket can carry descriptors. Received with room for control messages
/// they would be opened here and stay open: anybody could use up our descriptors.
fn descriptors_sent_along_are_not_taken(kind: BackendKind) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let name = unix_name("descriptors");
    let UnixAddress::Abstract(bytes) = &name else { unreachable!("made so") };
    let there = SocketAddrUnix::new_abstract_name(bytes).expect("a name");
    let _server = serve(&mut reactor, bound(name.clone(), &roomy()), DatagramOptions::default(), Act::Note);
    let sender = UnixDatagram::unbound().expect("opens");
    let (reader, writer) = io::pipe().expect("a pipe");
    {
        let descriptors = [std::os::fd::AsFd::as_fd(&writer)];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let payload = [io::IoSlice::new(b"take this")];
        sendmsg_addr(&sender, &there, &payload, &mut control, SendFlags::empty()).expect("sends");
    }
    drop(writer);
    drive(&mut reactor, &mut seen, "the payload", |seen| seen.payloads == [b"take this"]);
    // Were the write end still open, the pipe would have no end and the read would block.
    rustix::io::ioctl_fionbio(&reader, true).expect("nonblocking");
    let mut rest = Vec::new();
    io::Read::read_to_end(&mut { reader }, &mut rest).expect("the end");
    assert!(rest.is_empty());
}

fn queued_before_the_loop_runs_is_sent(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let receiver = UdpSocket::bind(local()).expect("binds");
    receiver.set_nonblocking(true).expect("nonblocking");
    let sender = serve(&mut reactor, bound(local(), &roomy()), DatagramOptions::default(), Act::Note);
    sender.send_to(b"early", receiver.local_addr().expect("bound")).expect("room");
    assert_eq!(sender.queued(), 1);
    // One tick, which must not sleep first.
    let start = std::time::Instant::now();
    reactor.run_once(&mut seen, Some(support::DEADLINE)).expect("a tick");
    assert!(start.elapsed() < support::DEADLINE / 2);
    let mut buffer = [0; 10];
    assert_eq!(receiver.recv(&mut buffer).expect("there"), 5);
}

/// Blocked both ways while the back end changes: packets wait in the kernel and in the queue.
fn a_move_to_another_back_end_loses_nothing(kind: BackendKind) {
    let mut reactor = reactor::<Seen>(kind);
    let mut seen = Seen::default();
    let (socket, unread) = stuck(&mut reactor, QueuePolicy::DropNewest, 100);
    let options = DatagramOptions { receive_budget: 8, batch: 8, ..DatagramOptions::default() };
    let server = serve(&mut reactor, bound(local(), &roomy()), options, Act::Echo);
    let client = client(inet(server.local_addr()));
    let sent = numbered(100, 50);
    for packet in &sent {
        client.send(packet).expect("sends");
        socket.send(Outgoing::to_peer(packet.clone())).expect("room");
    }
    let (mut answers, mut arrived) = (Vec::new(), Vec::new());
    let mut others = BackendKind::READINESS.into_iter().cycle();
    let start = std::time::Instant::now();
    while answers.len() < sent.len() || arrived.len() < sent.len() {
        assert!(start.elapsed() < support::DEADLINE, "{} and {} came", answers.len(), arrived.len());
        let other = others.next().expect("endless");
        if let Err(error) = reactor.swap_backend(other) {
            eprintln!("SKIPPED a part of a_move_to_another_back_end_loses_nothing: {other}: {error}");
        }
        reactor.run_once(&mut seen, Some(std::time::Duration::from_millis(20))).expect("a tick");
        let mut buffer = [0; 100];
        while let Ok(length) = client.recv(&mut buffer) {
            answers.push(buffer[..length].to_vec());
        }
        // One at a time: most of the moves find the socket blocked.
        if let Ok(length) = unread.recv(&mut buffer) {
            arrived.push(buffer[..length].to_vec());
        }
    }
    assert_eq!(answers, sent);
    assert_eq!(arrived, sent);
}
