//! A client of the wire format: a blocking `TcpStream`, hand-packed headers, and nothing that the
//! system under test uses for the same purpose. Message bodies are the generated types.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use prost::Message as _;
use tt_proto::{
    cipher::{Cipher, DEFAULT_KEY},
    im::{base_define::MsgInfo, login, message},
    password::wire_digest,
};

use crate::{PATIENCE, Pdu, command, pack};

/// Somebody who may sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Clear password.
    pub password: String,
    /// User id.
    pub id: u32,
}

/// The two classes of client; a user has at most one connection of each (spec/wire.md §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Client type 2, as a desktop client sends it.
    Pc = 0x02,
    /// Client type 0x12, as a phone sends it.
    Mobile = 0x12,
}

/// Why no further PDU comes.
#[derive(Debug)]
pub enum Ended {
    /// The server closed the connection, in order or with a reset.
    Closed,
    /// Nothing arrived before the deadline.
    TimedOut,
}

/// A text message in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Position in the conversation.
    pub id: u32,
    /// Who wrote it.
    pub from: u32,
    /// What it says.
    pub text: String,
}

/// One connection to a server.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    inbox: VecDeque<Pdu>,
    next_seq: u16,
    cipher: Cipher,
    /// Who is signed in; 0 before.
    pub user_id: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("user_id", &self.user_id)
            .field("stream", &self.stream)
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A connection that has said nothing yet.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// The same where the server may be gone.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect_timeout(&address, PATIENCE).map(Self::on)
    }

    /// Signs in where the server may refuse or be gone at any moment; whether it worked.
    pub fn try_sign_in(&mut self, account: &Account, class: Class, capabilities: u64) -> bool {
        let request = login::ImLoginReq {
            capabilities: Some(capabilities),
            ..login_request(&account.name, &account.password, class)
        };
        let seq = self.seq();
        if self.write(&pack(command::REQ_USERLOGIN, seq, &request.encode_to_vec())).is_err() {
            return false;
        }
        while let Ok(pdu) = self.read(Instant::now() + PATIENCE) {
            if pdu.command == command::RES_USERLOGIN {
                self.user_id = account.id;
                return pdu.decode::<login::ImLoginRes>().result_code == 0;
            }
        }
        false
    }

    /// The same on a connection that exists: a test may also play the server's side of a link.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        // A server that reads nothing would otherwise hold a test's writes for ever.
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above zero");
        Self {
            stream,
            received: Vec::new(),
            inbox: VecDeque::new(),
            next_seq: 0,
            cipher: Cipher::new(DEFAULT_KEY),
            user_id: 0,
        }
    }

    /// Connects and signs in as a client of 2015 would, which must succeed.
    pub fn sign_in(address: SocketAddr, account: &Account, class: Class) -> Self {
        Self::sign_in_with(address, account, class, None)
    }

    /// The same for a client that announces capabilities (a bit set).
    pub fn sign_in_with(address: SocketAddr, account: &Account, class: Class, capabilities: Option<u64>) -> Self {
        let mut client = Self::connect(address);
        let request = login::ImLoginReq { capabilities, ..login_request(&account.name, &account.password, class) };
        let answer: login::ImLoginRes = client.request(command::REQ_USERLOGIN, &request, command::RES_USERLOGIN);
        assert_eq!(answer.result_code, 0, "{} signs in: {answer:?}", account.name);
        assert_eq!(answer.capabilities.is_some(), capabilities.is_some(), "only to whom asks");
        let card = answer.user_info.expect("a successful login carries the user card");
        assert_eq!(card.user_id, account.id);
        assert_eq!(card.user_real_name, account.name);
        client.user_id = card.user_id;
        client
    }

    /// Sends a login request and returns the answer, whatever it says.
    pub fn login(&mut self, name: &str, password: &str, class: Class) -> login::ImLoginRes {
        self.request(command::REQ_USERLOGIN, &login_request(name, password, class), command::RES_USERLOGIN)
    }

    /// Writes bytes as they are. An error is the caller's to judge: the server may have closed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one PDU under a new sequence number, which is returned.
    pub fn send<M: prost::Message>(&mut self, command: u16, body: &M) -> u16 {
        let seq = self.seq();
        self.write(&pack(command, seq, &body.encode_to_vec()))
            .unwrap_or_else(|error| panic!("sending {command:#06x}: {error}"));
        seq
    }

    /// The next sequence number: 1 to 32,766 and again, as a phone counts.
    pub fn seq(&mut self) -> u16 {
        self.next_seq = self.next_seq % 0x7ffe + 1;
        self.next_seq
    }

    /// Sends a request and waits for its reply: the PDU with the reply's command and the
    /// request's seq. What arrives in between stays in the inbox.
    pub fn request<Q: prost::Message, R: prost::Message + Default>(
        &mut self,
        command: u16,
        request: &Q,
        reply: u16,
    ) -> R {
        let seq = self.send(command, request);
        let pdu = self.wait_for(&format!("{reply:#06x} with seq {seq}"), |pdu| pdu.command == reply && pdu.seq == seq);
        assert!(!pdu.tags().contains(&20), "a client sees a cookie in {reply:#06x}");
        pdu.decode()
    }

    /// The next PDU of `command` that the server started itself; it must carry seq 0 and no cookie.
    pub fn notice<M: prost::Message + Default>(&mut self, command: u16) -> M {
        let pdu = self.wait_for(&format!("{command:#06x}"), |pdu| pdu.command == command);
        assert_eq!(pdu.seq, 0, "what the server starts carries seq 0");
        assert!(!pdu.tags().contains(&20), "a client sees a cookie in {command:#06x}");
        pdu.decode()
    }

    /// The next PDU for which `wanted` holds, in order of arrival.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Pdu) -> bool) -> Pdu {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        loop {
            if let Some(at) = self.inbox.iter().skip(seen).position(&wanted) {
                return self.inbox.remove(seen + at).expect("just found");
            }
            seen = self.inbox.len();
            match self.read(deadline) {
                Ok(pdu) => self.inbox.push_back(pdu),
                Err(ended) => {
                    panic!("user {} waits for {what}: {ended:?}; inbox {:?}", self.user_id, self.inbox)
                }
            }
        }
    }

    /// The next PDU in order of arrival.
    pub fn next(&mut self, patience: Duration) -> Result<Pdu, Ended> {
        match self.inbox.pop_front() {
            Some(pdu) => Ok(pdu),
            None => self.read(Instant::now() + patience),
        }
    }

    /// Everything that arrived unasked up to now: a heartbeat goes out, and what stands before
    /// its echo had been sent by then.
    pub fn drain(&mut self) -> Vec<Pdu> {
        let seq = self.seq();
        self.write(&pack(command::HEARTBEAT, seq, &[])).expect("heartbeat");
        self.wait_for("the heartbeat's echo", |pdu| pdu.command == command::HEARTBEAT && pdu.seq == seq);
        self.inbox.drain(..).collect()
    }

    /// Everything that had arrived on a connection that is closed.
    pub fn drain_closed(&mut self) -> Vec<Pdu> {
        self.inbox.drain(..).collect()
    }

    /// Waits until the server ends the connection; returns how long that took. PDUs that arrive
    /// before the end are kept.
    pub fn wait_closed(&mut self, patience: Duration) -> Duration {
        let began = Instant::now();
        loop {
            match self.read(began + patience) {
                Ok(pdu) => self.inbox.push_back(pdu),
                Err(Ended::Closed) => return began.elapsed(),
                Err(Ended::TimedOut) => panic!("the connection is still open after {patience:?}"),
            }
        }
    }

    /// Half-closes: the server sees the end of input.
    pub fn finish(&self) {
        // The server may have closed first.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the kernel take in little for a client that does not read.
    pub fn shrink_receive_buffer(&self) {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream, 4096).expect("SO_RCVBUF");
    }

    /// A second handle to the socket, for a thread that only writes.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be shared")
    }

    /// A text message to `to`, sent without waiting for anything. Returns its seq.
    pub fn post(&mut self, to: u32, text: &str) -> u16 {
        self.try_post(to, text).expect("the server reads on")
    }

    /// The same where the server may be gone.
    pub fn try_post(&mut self, to: u32, text: &str) -> io::Result<u16> {
        let seq = self.seq();
        let body = self.text_message(to, text).encode_to_vec();
        self.write(&pack(command::MSG_DATA, seq, &body))?;
        Ok(seq)
    }

    /// The message that [`post`](Self::post) sends.
    pub fn text_message(&self, to: u32, text: &str) -> message::ImMsgData {
        message::ImMsgData {
            from_user_id: self.user_id,
            to_session_id: to,
            msg_id: 0,
            create_time: 0,
            msg_type: 1,
            msg_data: self.cipher.encrypt(text.as_bytes()).expect("a short text").into(),
            ..Default::default()
        }
    }

    /// A text message to a group, sent without waiting for anything.
    pub fn post_to_group(&mut self, group: u32, text: &str) -> u16 {
        let body = self.group_message(group, text);
        self.send(command::MSG_DATA, &body)
    }

    /// The message that [`post_to_group`](Self::post_to_group) sends.
    pub fn group_message(&self, group: u32, text: &str) -> message::ImMsgData {
        message::ImMsgData { msg_type: 17, ..self.text_message(group, text) }
    }

    /// Sends a text and waits for its ack; returns the message id.
    pub fn say(&mut self, to: u32, text: &str) -> u32 {
        self.say_in(1, to, &self.text_message(to, text))
    }

    /// The same to a group.
    pub fn say_to_group(&mut self, group: u32, text: &str) -> u32 {
        self.say_in(2, group, &self.group_message(group, text))
    }

    fn say_in(&mut self, session_type: i32, to: u32, body: &message::ImMsgData) -> u32 {
        let ack: message::ImMsgDataAck = self.request(command::MSG_DATA, body, command::MSG_DATA_ACK);
        assert_eq!((ack.user_id, ack.session_id, ack.session_type), (self.user_id, to, session_type));
        assert_ne!(ack.msg_id, 0, "an ack never carries id 0");
        ack.msg_id
    }

    /// The next message delivered to this connection.
    pub fn hear(&mut self) -> Message {
        let data: message::ImMsgData = self.notice(command::MSG_DATA);
        self.open(data.msg_id, data.from_user_id, &data.msg_data)
    }

    /// A delivered PDU in clear.
    pub fn delivered(&self, pdu: &Pdu) -> Message {
        let data: message::ImMsgData = pdu.decode();
        self.open(data.msg_id, data.from_user_id, &data.msg_data)
    }

    /// A message of a server's answer in clear.
    pub fn open(&self, id: u32, from: u32, data: &[u8]) -> Message {
        let text = self.cipher.decrypt(data).expect("the text decrypts");
        Message { id, from, text: String::from_utf8(text).expect("UTF-8") }
    }

    /// One page of history: at most `count` messages with ids up to `begin` (0: the newest),
    /// newest first.
    pub fn history_page(&mut self, with: u32, begin: u32, count: u32) -> Vec<Message> {
        self.page(1, with, begin, count)
    }

    /// The same of a group.
    pub fn group_history(&mut self, group: u32, begin: u32, count: u32) -> Vec<Message> {
        self.page(2, group, begin, count)
    }

    fn page(&mut self, session_type: i32, with: u32, begin: u32, count: u32) -> Vec<Message> {
        let page: message::ImGetMsgListRsp = self.request(
            command::MSG_LIST_REQUEST,
            &message::ImGetMsgListReq {
                user_id: self.user_id,
                session_type,
                session_id: with,
                msg_id_begin: begin,
                msg_cnt: count,
                ..Default::default()
            },
            command::MSG_LIST_RESPONSE,
        );
        assert_eq!((page.session_type, page.session_id, page.msg_id_begin), (session_type, with, begin));
        assert!(page.msg_list.len() <= count as usize);
        page.msg_list
            .iter()
            .map(|info: &MsgInfo| self.open(info.msg_id, info.from_session_id, &info.msg_data))
            .collect()
    }

    /// The whole conversation, newest first, page after page.
    pub fn history(&mut self, with: u32) -> Vec<Message> {
        self.history_since(with, 0)
    }

    /// The part of it with ids above `known`.
    pub fn history_since(&mut self, with: u32, known: u32) -> Vec<Message> {
        let mut all: Vec<Message> = Vec::new();
        let mut begin = 0;
        loop {
            let page = self.history_page(with, begin, 100);
            let Some(oldest) = page.last().map(|message| message.id) else { return all };
            all.extend(page.into_iter().filter(|message| message.id > known));
            if oldest <= known + 1 {
                return all;
            }
            begin = oldest - 1;
        }
    }

    fn read(&mut self, deadline: Instant) -> Result<Pdu, Ended> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(pdu) = Pdu::take(&mut self.received) {
                return Ok(pdu);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Ended::TimedOut);
            }
            self.stream.set_read_timeout(Some(left)).expect("a timeout above zero");
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Ended::Closed),
                Ok(read) => self.received.extend(&chunk[..read]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        return Err(Ended::Closed);
                    }
                    other => panic!("reading: {other}"),
                },
            }
        }
    }
}

fn login_request(name: &str, password: &str, class: Class) -> login::ImLoginReq {
    login::ImLoginReq {
        user_name: name.to_owned(),
        password: wire_digest(password),
        online_status: 1,
        client_type: class as i32,
        client_version: Some("tests".to_owned()),
        ..Default::default()
    }
}
