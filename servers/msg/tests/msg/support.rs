//! A msg server on real sockets with everything around it played by the test: a
//! login, a route and a db-proxy server and any number of clients, all of them plain
//! blocking sockets that read with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tt_common::{ClusterConfig, RoleHandle};
use tt_msg::Config;
use tt_proto::im::base_define::{ClientType, MsgType, ResultType, SessionType, UserInfo, UserStatType};
use tt_proto::im::extension::ImLinkHello;
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::message::{
    ImGetMsgByIdReq, ImGetMsgByIdRsp, ImMsgData, ImMsgDataAck, ImUnreadMsgCntReq, ImUnreadMsgCntRsp,
};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::im::server::{
    ImMsgServInfo, ImOnlineUserInfo, ImRoleSet, ImServerKickUser, ImUserCntUpdate, ImUserStatusUpdate, ImValidateReq,
    ImValidateRsp,
};
use tt_proto::pdu::{self, Header, PduRef};
use tt_proto::{Body, Command};

/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) const PC: ClientType = ClientType::ClientTypeWindows;
pub(crate) const MAC: ClientType = ClientType::ClientTypeMac;
pub(crate) const PHONE: ClientType = ClientType::ClientTypeAndroid;

/// One end of a PDU connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A PDU as it came.
#[derive(Debug)]
pub(crate) struct Pdu {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
}

impl Pdu {
    pub(crate) fn decode<M: Body>(&self) -> M {
        let found = self.header.command;
        assert_eq!(found, M::COMMAND.id(), "expected {}, got {found:#06x}", M::COMMAND);
        let pdu = PduRef { header: self.header, body: &self.body };
        pdu.decode().expect("the server sends bodies that parse")
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("an open socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("an open socket");
        stream.set_nodelay(true).expect("an open socket");
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn send<M: Body>(&mut self, seq: u16, message: &M) {
        self.send_raw(&pdu::encode(seq, message));
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// The next PDU, whatever it is; None at the end of the connection.
    pub(crate) fn pdu(&mut self) -> Option<Pdu> {
        loop {
            let input = std::mem::take(&mut self.buffer);
            if let Some(len) = pdu::frame_len(&input, pdu::MAX_ON_LINK).expect("the server sends PDUs") {
                let pdu = PduRef::parse(&input[..len]).expect("a whole PDU");
                assert_eq!(pdu.header.service, pdu.header.command >> 8);
                let pdu = Pdu { header: pdu.header, body: pdu.body.to_vec() };
                self.buffer = input[len..].to_vec();
                return Some(pdu);
            }
            self.buffer = input;
            let mut chunk = vec![0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return None;
                }
                Err(error) => panic!("nothing came in time: {error}"),
            }
        }
    }

    /// Whether bytes have come that were not looked at.
    pub(crate) fn has_input(&self) -> bool {
        self.stream.set_nonblocking(true).expect("an open socket");
        let waiting = self.stream.peek(&mut [0]).is_ok_and(|count| count > 0);
        self.stream.set_nonblocking(false).expect("an open socket");
        waiting || !self.buffer.is_empty()
    }

    /// The next PDU that is not about the link itself.
    pub(crate) fn next(&mut self) -> Pdu {
        let start = Instant::now();
        loop {
            let pdu = self.pdu().expect("the connection stays open");
            assert!(start.elapsed() < DEADLINE, "nothing but heartbeats came");
            let command = pdu.header.command;
            if command != Command::HeartBeat.id() && command != Command::LinkHello.id() {
                return pdu;
            }
        }
    }

    /// The next PDU, which must be an `M`; with its sequence number.
    pub(crate) fn expect<M: Body>(&mut self) -> (u16, M) {
        let pdu = self.next();
        (pdu.header.seq, pdu.decode())
    }

    /// The server closes the connection and says nothing before.
    pub(crate) fn expect_closed(&mut self) {
        if let Some(pdu) = self.pdu() {
            panic!("expected the end, got {pdu:?}");
        }
    }

    /// For clients: nothing is on its way here. Whatever the server sent before the
    /// echo of this heartbeat would come before it.
    pub(crate) fn expect_nothing(&mut self) {
        self.send(0xbeef, &ImHeartBeat::default());
        let pdu = self.pdu().expect("the connection stays open");
        assert_eq!((pdu.header.command, pdu.header.seq), (Command::HeartBeat.id(), 0xbeef), "{pdu:?}");
    }

    /// The greeting of a server link.
    fn greet(&mut self, role: u32, name: &str) {
        let hello = ImLinkHello { role: Some(role), server_id: Some(name.into()), ..ImLinkHello::default() };
        self.send(0, &hello);
    }
}

const LOGIN: u32 = 1;
const ROUTE: u32 = 3;
const DB_PROXY: u32 = 4;

/// A place where the msg server's links arrive.
pub(crate) struct Peer {
    listener: TcpListener,
    role: u32,
}

impl Peer {
    fn new(role: u32) -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), role }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// The next link, greeted.
    pub(crate) fn accept(&self) -> Wire {
        self.accept_as("fake")
    }

    /// The same by a server of that name.
    pub(crate) fn accept_as(&self, name: &str) -> Wire {
        let (stream, _) = self.listener.accept().expect("a link");
        let mut wire = Wire::new(stream);
        wire.greet(self.role, name);
        wire
    }
}

/// The servers around the one under test, before it starts.
pub(crate) struct Peers {
    pub(crate) login: Peer,
    pub(crate) route: Peer,
    pub(crate) db: Peer,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { login: Peer::new(LOGIN), route: Peer::new(ROUTE), db: Peer::new(DB_PROXY) }
    }

    /// A configuration with one link to each and free ports.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            login_servers: vec![self.login.addr()],
            route_servers: vec![self.route.addr()],
            db_proxies: vec![self.db.addr()],
            db_links: 1,
            cluster: ClusterConfig {
                secret_file: PathBuf::new(),
                legacy_peers: true,
                legacy_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            },
            ..Config::default()
        };
        config.timeouts.drain_ms = 500;
        config
    }
}

/// A running msg server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) handle: Option<RoleHandle>,
}

impl Server {
    pub(crate) fn start(config: Config) -> Self {
        let listeners = config.bind().expect("free ports");
        let addr = listeners.clients.local_addr().expect("bound");
        let metrics = listeners.metrics.local_addr().expect("bound");
        let handle = tt_msg::spawn(config, listeners).expect("a thread");
        Self { addr, metrics, handle: Some(handle) }
    }

    pub(crate) fn wait_ready(&self) {
        let handle = self.handle.as_ref().expect("running");
        handle.wait_ready(DEADLINE).expect("ready with a link of each kind");
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::new(TcpStream::connect(self.addr).expect("the server listens"))
    }

    /// The value of a metric; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).expect("the metrics port");
        stream.set_read_timeout(Some(DEADLINE)).expect("an open socket");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// Waits for a metric to reach a value.
    pub(crate) fn wait_for(&self, name: &str, value: u64) {
        let start = Instant::now();
        while self.metric(name) != value {
            assert!(start.elapsed() < DEADLINE, "{name} is {}, expected {value}", self.metric(name));
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
            handle.join();
        }
    }
}

/// A msg server with a link to each other server, ready for clients.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) login: Wire,
    pub(crate) route: Wire,
    pub(crate) db: Wire,
    /// Keeps the ports.
    pub(crate) peers: Peers,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let peers = Peers::new();
        let mut config = peers.config();
        change(&mut config);
        let server = Server::start(config);
        let mut login = peers.login.accept();
        let (_, info) = login.expect::<ImMsgServInfo>();
        assert_eq!((info.port, info.cur_conn_cnt), (u32::from(server.addr.port()), 0));
        let mut route = peers.route.accept();
        assert_eq!(route.expect::<ImRoleSet>().1.master, 1);
        assert_eq!(route.expect::<ImOnlineUserInfo>().1.user_stat_list, []);
        let db = peers.db.accept();
        server.wait_ready();
        Self { server, login, route, db, peers }
    }

    /// Signs a client in and checks what the other servers hear of it.
    pub(crate) fn sign_in(&mut self, user: u32, client_type: ClientType) -> Wire {
        self.sign_in_with(user, client_type, None)
    }

    pub(crate) fn sign_in_with(&mut self, user: u32, client_type: ClientType, capabilities: Option<u64>) -> Wire {
        let mut client = self.server.connect();
        client.send(1, &ImLoginReq { capabilities, ..login_request(user, client_type) });
        self.admit(&mut client, user, client_type);
        client
    }

    /// Lets in a client that has asked as request 1, and checks what the other servers hear of it.
    pub(crate) fn admit(&mut self, client: &mut Wire, user: u32, client_type: ClientType) {
        let (seq, request) = self.db.expect::<ImValidateReq>();
        self.db.send(seq, &valid(request, user));
        let (_, kick) = self.route.expect::<ImServerKickUser>();
        assert_eq!((kick.user_id, kick.client_type >> 4, kick.reason), (user, client_type as i32 >> 4, 1));
        let (_, count) = self.login.expect::<ImUserCntUpdate>();
        assert_eq!((count.user_action, count.user_id), (1, user));
        let (_, status) = self.route.expect::<ImUserStatusUpdate>();
        assert_eq!((status.user_status, status.user_id, status.client_type), (1, user, client_type as i32));
        let (seq, answer) = client.expect::<ImLoginRes>();
        assert_eq!((seq, answer.result_code), (1, ResultType::RefuseReasonNone as i32));
    }

    /// The other servers hear that a client is gone.
    pub(crate) fn expect_left(&mut self, user: u32, client_type: ClientType) {
        let (_, count) = self.login.expect::<ImUserCntUpdate>();
        assert_eq!((count.user_action, count.user_id), (2, user));
        let (_, status) = self.route.expect::<ImUserStatusUpdate>();
        assert_eq!((status.user_status, status.user_id, status.client_type), (2, user, client_type as i32));
    }

    /// Nothing from this client is on its way to db-proxy, and the client lives.
    pub(crate) fn expect_nothing_at_the_store(&mut self, client: &mut Wire) {
        client.send(999, &ImUnreadMsgCntReq { user_id: 0, attach_data: None });
        let (seq, query) = self.db.expect::<ImUnreadMsgCntReq>();
        assert_eq!(seq, 999);
        let answer = ImUnreadMsgCntRsp {
            user_id: query.user_id,
            attach_data: query.attach_data,
            ..ImUnreadMsgCntRsp::default()
        };
        self.db.send(seq, &answer);
        assert_eq!(client.expect::<ImUnreadMsgCntRsp>().0, 999);
    }

    /// The first message of a conversation is on its way, and the store is asked for those before it: it has none.
    pub(crate) fn nothing_before(&mut self) {
        let (seq, query) = self.db.expect::<ImGetMsgByIdReq>();
        let none = ImGetMsgByIdRsp {
            user_id: query.user_id,
            session_type: query.session_type,
            session_id: query.session_id,
            msg_list: Vec::new(),
            attach_data: query.attach_data,
        };
        self.db.send(seq, &none);
    }

    /// The store takes the next message and gives it an id.
    pub(crate) fn store(&mut self, msg_id: u32) -> ImMsgData {
        let (seq, message) = self.db.expect::<ImMsgData>();
        self.db.send(seq, &ImMsgData { msg_id, ..message.clone() });
        message
    }
}

/// The name of the test's users.
pub(crate) fn name(user: u32) -> String {
    format!("user{user}")
}

pub(crate) fn login_request(user: u32, client_type: ClientType) -> ImLoginReq {
    ImLoginReq {
        user_name: name(user),
        password: "5f4dcc3b5aa765d61d8327deb882cf99".into(),
        online_status: UserStatType::UserStatusOnline.into(),
        client_type: client_type.into(),
        client_version: Some("test".into()),
        ..ImLoginReq::default()
    }
}

/// db-proxy's yes.
pub(crate) fn valid(request: ImValidateReq, user: u32) -> ImValidateRsp {
    ImValidateRsp {
        user_name: request.user_name.clone(),
        result_code: 0,
        result_string: Some("成功".into()),
        user_info: Some(card(user)),
        attach_data: request.attach_data,
    }
}

pub(crate) fn card(user: u32) -> UserInfo {
    UserInfo { user_id: user, user_nick_name: format!("nick{user}"), user_real_name: name(user), ..UserInfo::default() }
}

/// A text message as a client sends it.
pub(crate) fn text(to: u32, data: &str) -> ImMsgData {
    ImMsgData {
        from_user_id: 77,
        to_session_id: to,
        msg_type: MsgType::MsgTypeSingleText.into(),
        msg_data: Bytes::copy_from_slice(data.as_bytes()),
        ..ImMsgData::default()
    }
}

/// A voice message of seven seconds and so many bytes.
pub(crate) fn voice(to: u32, len: usize) -> ImMsgData {
    let body: Vec<u8> = 7_u32.to_be_bytes().into_iter().chain((0..len).map(|at| (at * 7 % 251) as u8)).collect();
    ImMsgData { msg_type: MsgType::MsgTypeSingleAudio.into(), msg_data: body.into(), ..text(to, "") }
}

/// The ack of a single message.
pub(crate) fn ack(from: u32, to: u32, msg_id: u32, result: Option<u32>) -> ImMsgDataAck {
    ImMsgDataAck { user_id: from, session_id: to, msg_id, session_type: SessionType::SessionTypeSingle.into(), result }
}
