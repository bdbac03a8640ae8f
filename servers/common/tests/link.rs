//! Links, seen from a peer that is only a socket. Time is the test's own: nothing here waits for a clock.

mod support;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use netlib::clock::ManualClock;
use netlib::{CloseReason, Context, Reactor, ReactorConfig};
use support::{DEADLINE, RawPeer, assault};
use tt_common::{
    CallError, ClusterConfig, Identity, Link, LinkError, LinkHandler, LinkOptions, LinkRole, Metrics, Trust,
    accept_links,
};
use tt_proto::im::buddy::{ImUserStatNotify, ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::extension::{ImLinkHello, ImLinkProof};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::im::server::ImStopReceivePacket;
use tt_proto::pdu::{self, MAX_ON_LINK, PduRef};
use tt_proto::{Body, Command};

/// The peers of most tests are sockets that prove nothing.
fn trust() -> Trust {
    Trust::in_addresses(&[IpAddr::from([127, 0, 0, 1])])
}

/// What happened to the links of a test.
#[derive(Default)]
struct World {
    links: Vec<Link<World>>,
    downs: Vec<CloseReason>,
    pdus: Vec<(u16, u16)>,
    answers: Vec<Result<u32, CallError>>,
}

struct Recorder;

impl LinkHandler<World> for Recorder {
    fn on_up(&mut self, world: &mut World, _: &mut Context<World>, link: &Link<World>) {
        world.links.push(link.clone());
    }

    fn on_pdu(&mut self, world: &mut World, cx: &mut Context<World>, link: &Link<World>, pdu: PduRef<'_>) {
        world.pdus.push((pdu.header.command, pdu.header.seq));
        link.ignore(cx, pdu);
    }

    fn on_down(&mut self, world: &mut World, _: &mut Context<World>, _: &Link<World>, reason: &CloseReason) {
        world.downs.push(reason.clone());
    }
}

struct Rig {
    reactor: Reactor<World>,
    clock: ManualClock,
    world: World,
    metrics: Metrics,
    addr: SocketAddr,
}

impl Rig {
    /// A server that accepts links and stays on this thread.
    fn accepting(accepts: &'static [LinkRole]) -> Self {
        let mut rig = Self::idle();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        rig.addr = socket.local_addr().expect("bound");
        let options = LinkOptions { accepts, ..rig.options() };
        accept_links(rig.reactor.context(), socket, options, |_, _, _| Some(Box::new(Recorder))).expect("listening");
        rig
    }

    fn idle() -> Self {
        let clock = ManualClock::new();
        let config = ReactorConfig { clock: Box::new(clock.clone()), seed: Some(1), ..ReactorConfig::default() };
        Self {
            reactor: Reactor::new(config).expect("a reactor"),
            clock,
            world: World::default(),
            metrics: Metrics::new(),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    fn options(&self) -> LinkOptions {
        LinkOptions::new(Identity::new(LinkRole::Route, "route-1"), self.metrics.clone(), trust())
    }

    /// A server that dials the listener, and the accepted peer, not yet greeted.
    fn dialling(role: LinkRole, options: impl FnOnce(LinkOptions) -> LinkOptions) -> (Self, TcpListener, RawPeer) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut rig = Self::idle();
        rig.addr = listener.local_addr().expect("bound");
        let options = options(rig.options());
        Link::dial(rig.reactor.context(), role, rig.addr, options, Box::new(Recorder));
        // The loop dials in its first tick; a connect to a listener completes without an accept.
        rig.tick();
        let peer = RawPeer::accept(&listener);
        (rig, listener, peer)
    }

    fn tick(&mut self) {
        self.reactor.run_once(&mut self.world, Some(Duration::from_millis(20))).expect("a tick");
    }

    /// Runs until `done`, for at most the deadline by the real clock.
    fn until(&mut self, what: &str, mut done: impl FnMut(&World) -> bool) {
        let start = Instant::now();
        while !done(&self.world) {
            assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
            self.tick();
        }
    }

    /// Lets time pass and the timers run.
    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.reactor.run_once(&mut self.world, Some(Duration::ZERO)).expect("a tick");
    }

    /// A greeted link, the server's end of it and the peer's.
    fn link(&mut self) -> (Link<World>, RawPeer) {
        let mut peer = RawPeer::connect(self.addr);
        peer.send_hello(LinkRole::Msg);
        self.up(1);
        peer.next_any();
        (self.world.links[0].clone(), peer)
    }

    fn accept_one(&mut self) {
        let start = Instant::now();
        while self.reactor.context().connections() == 0 {
            assert!(start.elapsed() < DEADLINE, "nothing was accepted");
            self.tick();
        }
    }

    fn up(&mut self, links: usize) {
        self.until("a link that is up", |world| world.links.len() >= links);
    }

    fn answered(&mut self, calls: usize) {
        self.until("answers", |world| world.answers.len() >= calls);
    }

    fn call(&mut self, link: &Link<World>, user: u32, timeout: Duration) {
        let request = ImUsersStatReq { user_id: user, ..ImUsersStatReq::default() };
        link.call(self.reactor.context(), 7, request, timeout, |world, _, reply: Result<ImUsersStatRsp, _>| {
            world.answers.push(reply.map(|reply| reply.user_id));
        });
        // What was queued leaves with the next tick's flush.
        self.tick();
    }

    /// Runs until everything the peer has sent so far is handled: this comes after it.
    fn fence(&mut self, peer: &mut RawPeer, seq: u16) {
        peer.send(seq, &ImUserStatNotify::default());
        self.until("the fence", |world| world.pdus.contains(&(ImUserStatNotify::COMMAND.id(), seq)));
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|found| found == line)
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// The answer to a request that the server sent.
fn answer(request: &support::Pdu) -> ImUsersStatRsp {
    let request: ImUsersStatReq = request.parse().decode().expect("a status query");
    ImUsersStatRsp { user_id: request.user_id, attach_data: request.attach_data, ..ImUsersStatRsp::default() }
}

#[test]
fn both_sides_greet_and_know_each_other() {
    let mut rig = Rig::accepting(&[]);
    let mut peer = RawPeer::connect(rig.addr);
    peer.send_hello(LinkRole::Msg);
    rig.up(1);
    let hello: ImLinkHello = peer.next_any().parse().decode().expect("a greeting");
    assert_eq!(hello.role, Some(LinkRole::Route as u32));
    assert_eq!(hello.server_id.as_deref(), Some("route-1"));
    assert_eq!(hello.nonce.map(|nonce| nonce.len()), Some(16));
    let link = &rig.world.links[0];
    assert_eq!(link.peer_role(), Some(LinkRole::Msg));
    assert_eq!(link.peer().map(|info| info.server_id.clone()).as_deref(), Some("test-msg"));
    assert!(rig.metric("teamtalk_links{peer=\"msg\"} 1"));
}

#[test]
fn a_peer_that_says_nothing_for_two_seconds_does_not_greet() {
    let mut rig = Rig::accepting(&[]);
    let mut peer = RawPeer::connect(rig.addr);
    rig.accept_one();
    peer.next_any();
    rig.pass(Duration::from_millis(1_999));
    assert!(rig.world.links.is_empty());
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.world.links.len(), 1);
    assert_eq!(rig.world.links[0].peer(), None);
}

#[test]
fn a_peer_that_starts_with_business_does_not_greet_and_loses_nothing() {
    let mut rig = Rig::accepting(&[LinkRole::Msg]);
    let mut peer = RawPeer::connect(rig.addr);
    peer.send(3, &ImUserStatNotify::default());
    rig.up(1);
    assert_eq!(rig.world.pdus, [(Command::UserStatNotify.id(), 3)]);
    peer.send_hello(LinkRole::Msg);
    rig.fence(&mut peer, 4);
    assert_eq!(rig.world.links.len(), 1, "a late greeting is not a second beginning");
}

#[test]
fn a_peer_of_the_wrong_kind_is_refused() {
    let mut rig = Rig::accepting(&[LinkRole::Msg]);
    let mut peer = RawPeer::connect(rig.addr);
    peer.send_hello(LinkRole::Push);
    rig.accept_one();
    peer.stream.set_nonblocking(true).expect("a socket option");
    rig.until("the end of the connection", |_| {
        std::io::Read::read(&mut peer.stream, &mut [0; 256]).is_ok_and(|read| read == 0)
    });
    assert!(rig.world.links.is_empty());

    let (mut rig, _listener, mut peer) = Rig::dialling(LinkRole::DbProxy, |options| options);
    peer.send_hello(LinkRole::Login);
    rig.tick();
    peer.next_any();
    peer.stream.set_nonblocking(true).expect("a socket option");
    rig.until("the end of the dialled connection", |_| {
        std::io::Read::read(&mut peer.stream, &mut [0; 256]).is_ok_and(|read| read == 0)
    });
    assert!(rig.world.links.is_empty());
}

#[test]
fn an_idle_link_is_kept_warm_and_a_silent_peer_is_given_up() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    for beat in 1..=5 {
        rig.pass(4 * SECOND);
        rig.pass(SECOND);
        assert_eq!(peer.next_any().command(), ImHeartBeat::COMMAND.id(), "heartbeat {beat}, 5 s after the last");
    }
    assert!(link.is_up());
    rig.pass(5 * SECOND);
    assert_eq!(rig.world.downs, [CloseReason::Idle], "30 s of silence");
    assert!(!link.is_up());
    peer.wait_closed();
}

#[test]
fn two_idle_ends_wake_for_heartbeats_only() {
    let mut rig = Rig::accepting(&[]);
    let options = LinkOptions { identity: Identity::new(LinkRole::Msg, "m"), ..rig.options() };
    Link::dial(rig.reactor.context(), LinkRole::Route, rig.addr, options, Box::new(Recorder));
    rig.up(2);
    rig.pass(60 * SECOND / 12);
    let sent = |rig: &Rig| {
        let text = rig.metrics.encode();
        let line = r#"teamtalk_pdus_total{direction="out",command="CID_OTHER_HEARTBEAT"} "#;
        text.lines()
            .find_map(|found| found.strip_prefix(line))
            .map_or(0, |count| count.parse::<u32>().expect("a count"))
    };
    let before = sent(&rig);
    for _ in 0..600 {
        rig.pass(SECOND / 10);
    }
    let beats = sent(&rig) - before;
    assert!((22..=24).contains(&beats), "{beats} heartbeats of two ends in a minute");
    assert!(rig.world.downs.is_empty());
}

#[test]
fn anything_sent_puts_the_heartbeat_off() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    rig.pass(4 * SECOND);
    link.send(1, &ImUserStatNotify::default()).expect("up");
    rig.tick();
    rig.pass(4 * SECOND);
    assert_eq!(peer.next_any().command(), ImUserStatNotify::COMMAND.id());
    rig.pass(SECOND);
    assert_eq!(peer.next_any().command(), ImHeartBeat::COMMAND.id());
}

#[test]
fn a_call_gets_its_own_answer() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    rig.call(&link, 1, SECOND);
    rig.call(&link, 2, SECOND);
    let (first, second) = (peer.next(), peer.next());
    assert_eq!(first.parse().header.seq, 7);
    peer.send(7, &answer(&second));
    peer.send(7, &answer(&first));
    rig.answered(2);
    assert_eq!(rig.world.answers, [Ok(2), Ok(1)]);
    assert_eq!(link.pending_calls(), 0);
    assert!(rig.metric("teamtalk_calls_total{kind=\"ok\"} 2"));
}

/// The recorded servers close the link over a cookie that they do not know.
#[test]
fn an_answer_with_a_bad_cookie_is_dropped_and_the_link_stays() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    rig.call(&link, 1, SECOND);
    let request = peer.next();
    let good = answer(&request);
    let mut cookies = vec![None, Some(vec![]), Some(vec![0; 3]), Some(vec![0xff; 12]), Some(vec![0xff; 4096])];
    let mut of_nobody = good.attach_data.clone().expect("a cookie").to_vec();
    of_nobody[7] ^= 0x40;
    cookies.push(Some(of_nobody));
    let bad = cookies.len();
    for cookie in cookies {
        peer.send(7, &ImUsersStatRsp { attach_data: cookie.map(Into::into), ..good.clone() });
    }
    // A body that is no message at all.
    peer.write(&pdu::encode_raw(ImUsersStatRsp::COMMAND.id(), 7, &[0xff; 20]));
    peer.send(7, &good);
    peer.send(7, &good);
    rig.answered(1);
    rig.fence(&mut peer, 9);
    assert_eq!(rig.world.answers, [Ok(1)]);
    assert!(link.is_up());
    let dropped = bad + 2;
    assert!(rig.metric(&format!("teamtalk_unmatched_replies_total {dropped}")), "{}", rig.metrics.encode());
    assert_eq!(rig.world.pdus, [(ImUserStatNotify::COMMAND.id(), 9)], "none of it reached the handler");
}

#[test]
fn a_pdu_with_a_cookie_that_was_not_called_for_is_no_answer() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    rig.call(&link, 1, SECOND);
    let cookie = answer(&peer.next()).attach_data;
    let relayed = tt_proto::im::message::ImMsgData { attach_data: cookie, ..Default::default() };
    peer.send(5, &relayed);
    rig.until("the relayed message", |world| world.pdus == [(Command::MsgData.id(), 5)]);
    assert_eq!(link.pending_calls(), 1);
}

#[test]
fn a_call_without_answer_ends_in_time_and_a_late_answer_is_dropped() {
    let mut rig = Rig::accepting(&[]);
    let (link, mut peer) = rig.link();
    rig.call(&link, 1, 3 * SECOND);
    let request = peer.next();
    rig.pass(Duration::from_millis(2_999));
    assert!(rig.world.answers.is_empty());
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.world.answers, [Err(CallError::Timeout)]);
    peer.send(7, &answer(&request));
    rig.fence(&mut peer, 1);
    assert_eq!(rig.world.answers.len(), 1);
}

#[test]
fn a_lost_link_fails_its_calls_in_their_order_and_comes_back() {
    let (mut rig, listener, mut peer) = Rig::dialling(LinkRole::DbProxy, |options| options);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(1);
    let link = rig.world.links[0].clone();
    for user in 1..=20 {
        let request = ImUsersStatReq { user_id: user, ..ImUsersStatReq::default() };
        link.call(rig.reactor.context(), 0, request, 60 * SECOND, move |world, _, reply: Result<ImUsersStatRsp, _>| {
            assert_eq!(reply.expect_err("nobody answers"), CallError::LinkDown);
            world.answers.push(Ok(user));
        });
    }
    rig.tick();
    drop(peer);
    rig.until("the loss", |world| world.downs.len() == 1);
    assert_eq!(rig.world.answers, (1..=20).map(Ok).collect::<Vec<_>>());
    assert_eq!(link.send(0, &ImUserStatNotify::default()), Err(LinkError::Down));
    rig.call(&link, 21, SECOND);
    rig.answered(21);
    assert_eq!(rig.world.answers[20], Err(CallError::LinkDown), "a call on a link that is down");

    rig.pass(3 * SECOND);
    rig.pass(2 * SECOND);
    let mut peer = RawPeer::accept(&listener);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(2);
    assert_eq!(rig.world.links[1].id(), link.id(), "the same link");
    rig.call(&link, 5, SECOND);
    peer.next_any();
    let request = peer.next();
    peer.send(7, &answer(&request));
    rig.answered(22);
    assert_eq!(rig.world.answers[21], Ok(5));
}

#[test]
fn calls_beyond_the_limit_fail_at_once_but_never_inside_the_call() {
    let (mut rig, _listener, mut peer) =
        Rig::dialling(LinkRole::DbProxy, |options| LinkOptions { max_pending: 2, ..options });
    peer.send_hello(LinkRole::DbProxy);
    rig.up(1);
    let link = rig.world.links[0].clone();
    for _ in 0..3 {
        let request = ImUsersStatReq::default();
        link.call(rig.reactor.context(), 0, request, SECOND, |world, _, reply: Result<ImUsersStatRsp, _>| {
            world.answers.push(reply.map(|reply| reply.user_id));
        });
    }
    assert!(rig.world.answers.is_empty());
    rig.answered(1);
    assert_eq!(rig.world.answers, [Err(CallError::TooMany)]);
    assert_eq!(link.pending_calls(), 2);
}

#[test]
fn a_peer_that_wants_no_new_requests_still_answers_the_old_ones() {
    let (mut rig, listener, mut peer) = Rig::dialling(LinkRole::DbProxy, |options| options);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(1);
    let link = rig.world.links[0].clone();
    rig.call(&link, 1, SECOND);
    peer.next_any();
    let request = peer.next();
    peer.send(0, &ImStopReceivePacket::default());
    rig.fence(&mut peer, 1);
    assert!(link.is_up() && !link.accepts_requests());
    rig.call(&link, 2, SECOND);
    peer.send(7, &answer(&request));
    rig.answered(2);
    assert!(rig.world.answers.contains(&Ok(1)) && rig.world.answers.contains(&Err(CallError::LinkDown)));

    // It ends, and whoever comes next at its address takes requests again.
    drop(peer);
    rig.until("the loss", |world| world.downs.len() == 1);
    rig.pass(5 * SECOND);
    let mut peer = RawPeer::accept(&listener);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(2);
    assert!(link.accepts_requests());
}

#[test]
fn a_link_that_must_not_greet_is_up_at_once() {
    let (mut rig, _listener, mut peer) =
        Rig::dialling(LinkRole::Push, |options| LinkOptions { hello: false, ..options });
    rig.up(1);
    rig.world.links[0].send(1, &ImUserStatNotify::default()).expect("up");
    rig.tick();
    assert_eq!(peer.next_any().command(), ImUserStatNotify::COMMAND.id(), "the first PDU is no greeting");
}

#[test]
fn a_closed_link_stays_closed() {
    let (mut rig, listener, mut peer) = Rig::dialling(LinkRole::DbProxy, |options| options);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(1);
    let link = rig.world.links[0].clone();
    link.send(1, &ImUserStatNotify::default()).expect("up");
    link.close(rig.reactor.context());
    rig.until("the end", |world| world.downs == [CloseReason::Local]);
    peer.next_any();
    assert_eq!(peer.next().command(), ImUserStatNotify::COMMAND.id(), "what was queued is flushed first");
    for _ in 0..200 {
        rig.pass(SECOND);
    }
    listener.set_nonblocking(true).expect("a socket option");
    assert_eq!(listener.accept().expect_err("no redial").kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_pdu_too_large_for_a_link_is_refused_here_and_not_there() {
    let mut rig = Rig::accepting(&[]);
    let (link, _peer) = rig.link();
    let frame = pdu::encode_raw(Command::MsgData.id(), 0, &vec![0; MAX_ON_LINK]);
    assert_eq!(link.send_frame(frame), Err(LinkError::TooLarge));
    assert!(link.is_up());
}

#[test]
fn a_handler_that_panics_costs_its_connection_and_not_its_link() {
    struct Fragile;
    impl LinkHandler<World> for Fragile {
        fn on_up(&mut self, world: &mut World, _: &mut Context<World>, link: &Link<World>) {
            world.links.push(link.clone());
        }
        fn on_pdu(&mut self, _: &mut World, _: &mut Context<World>, _: &Link<World>, _: PduRef<'_>) {
            panic!("a planted fault");
        }
        fn on_down(&mut self, world: &mut World, _: &mut Context<World>, _: &Link<World>, reason: &CloseReason) {
            world.downs.push(reason.clone());
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut rig = Rig::idle();
    let addr = listener.local_addr().expect("bound");
    let options = rig.options();
    Link::dial(rig.reactor.context(), LinkRole::DbProxy, addr, options, Box::new(Fragile));
    rig.tick();
    let mut peer = RawPeer::accept(&listener);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(1);
    peer.send(1, &ImUserStatNotify::default());
    rig.until("the end", |world| world.downs == [CloseReason::HandlerPanic]);
    rig.pass(5 * SECOND);
    let mut peer = RawPeer::accept(&listener);
    peer.send_hello(LinkRole::DbProxy);
    rig.up(2);
}

#[test]
fn no_length_and_no_bytes_kill_the_server() {
    let mut rig = Rig::accepting(&[]);
    let addr = rig.addr;
    let assault = std::thread::spawn(move || assault(addr));
    rig.until("the end of the assault", |_| assault.is_finished());
    assault.join().expect("every bad length was closed");
    let start = Instant::now();
    while rig.reactor.context().connections() > 0 {
        assert!(start.elapsed() < DEADLINE, "a connection is left over");
        rig.tick();
    }
    // One of the assault may be accepted only now.
    let mut peer = RawPeer::connect(rig.addr);
    peer.send_hello(LinkRole::Msg);
    rig.until("a link that is up", |world| world.links.iter().any(Link::is_up));
}

const SECRET: &[u8] = b"the secret of this test's cluster";

/// A server that believes whoever proves to know `secret`, and nobody else.
fn sworn(secret: &[u8]) -> Rig {
    let mut rig = Rig::idle();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    rig.addr = socket.local_addr().expect("bound");
    let options = LinkOptions { trust: Trust::in_secret(secret), ..rig.options() };
    accept_links(rig.reactor.context(), socket, options, |_, _, _| Some(Box::new(Recorder))).expect("listening");
    rig
}

#[test]
fn servers_of_one_cluster_prove_it_to_each_other() {
    let mut rig = sworn(SECRET);
    let identity = Identity::new(LinkRole::Route, "dialler");
    let options = LinkOptions { identity, trust: Trust::in_secret(SECRET), ..rig.options() };
    Link::dial(rig.reactor.context(), LinkRole::Route, rig.addr, options, Box::new(Recorder));
    rig.up(2);
    let mut ids: Vec<String> =
        rig.world.links.iter().map(|link| link.peer().expect("it has greeted").server_id.clone()).collect();
    ids.sort();
    assert_eq!(ids, ["dialler", "route-1"]);
}

#[test]
fn another_secret_is_refused() {
    let mut rig = sworn(SECRET);
    let options = LinkOptions { trust: Trust::in_secret(b"the secret of another cluster"), ..rig.options() };
    Link::dial(rig.reactor.context(), LinkRole::Route, rig.addr, options, Box::new(Recorder));
    let line = r#"teamtalk_links_refused_total{kind="its cluster secret is another one"}"#;
    let metrics = rig.metrics.clone();
    rig.until("a refusal", |_| metrics.encode().contains(line));
    assert!(rig.world.links.is_empty(), "neither end is up");
}

/// A msg server of its own making, on the login server's port, once drew every client to itself.
#[test]
fn a_peer_that_proves_nothing_is_never_up() {
    let mut rig = sworn(SECRET);
    // Talks at once; greets and talks; greets and sends back what it was sent; guesses.
    let business = pdu::encode(0, &ImUserStatNotify::default());
    for step in 0..4 {
        let mut peer = RawPeer::connect(rig.addr);
        let business = business.clone();
        let handle = std::thread::spawn(move || {
            let (hello, nonce) = (peer.next_any(), Some(vec![7; 16].into()));
            let forged = ImLinkHello { role: Some(2), nonce, ..ImLinkHello::default() };
            match step {
                0 => {}
                1 => peer.send(0, &forged),
                2 => {
                    peer.write(&hello.0);
                    let proof = peer.next_any();
                    assert_eq!(proof.command(), Command::LinkProof.id());
                    peer.write(&proof.0);
                }
                _ => {
                    peer.send(0, &forged);
                    peer.send(0, &ImLinkProof { mac: Some(vec![0; 32].into()) });
                }
            }
            // It may be closed already.
            let _ = std::io::Write::write_all(&mut peer.stream, &business);
            peer.wait_closed();
        });
        rig.until("the peer is refused", |_| handle.is_finished());
        handle.join().unwrap_or_else(|_| panic!("step {step}"));
    }
    // One that says nothing has two seconds; one that sends much has none.
    let mut silent = RawPeer::connect(rig.addr);
    let stream = silent.stream.try_clone().expect("a socket can be shared");
    stream.set_nonblocking(true).expect("a socket option");
    rig.until("its greeting", |_| stream.peek(&mut [0]).is_ok());
    stream.set_nonblocking(false).expect("a socket option");
    rig.pass(Duration::from_secs(2));
    let handle = std::thread::spawn(move || silent.wait_closed());
    rig.until("the silent peer is refused", |_| handle.is_finished());
    let mut long = RawPeer::connect(rig.addr);
    long.write(&pdu::encode_raw(Command::LinkHello.id(), 0, &vec![0; 5_000]));
    let handle = std::thread::spawn(move || long.wait_closed());
    rig.until("the long greeting is refused", |_| handle.is_finished());
    assert!(rig.world.links.is_empty() && rig.world.pdus.is_empty());
}

#[test]
fn where_old_servers_are_believed_a_wrong_proof_is_not() {
    let mut rig = Rig::idle();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    rig.addr = socket.local_addr().expect("bound");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("secret");
    std::fs::write(&file, SECRET).expect("written");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let legacy_addresses = vec![IpAddr::from([127, 0, 0, 1])];
    let cluster = ClusterConfig { secret_file: file, legacy_peers: true, legacy_addresses };
    let options = LinkOptions { trust: cluster.trust().expect("a secret"), ..rig.options() };
    accept_links(rig.reactor.context(), socket, options, |_, _, _| Some(Box::new(Recorder))).expect("listening");

    let mut old = RawPeer::connect(rig.addr);
    old.send(0, &ImUserStatNotify::default());
    rig.up(1);
    assert_eq!(rig.world.links[0].peer(), None, "a server of 2015");
    let mut wrong = RawPeer::connect(rig.addr);
    let nonce = Some(vec![7; 16].into());
    wrong.send(0, &ImLinkHello { role: Some(2), nonce, ..ImLinkHello::default() });
    rig.up(2);
    wrong.send(0, &ImLinkProof { mac: Some(vec![0; 32].into()) });
    rig.until("its end", |world| world.downs.len() == 1);
}
