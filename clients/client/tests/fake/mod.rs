//! A login server and a message server for tests: blocking, scripted by the test step by step, so
//! that a test can do what no real server does. Every read has a limit, so a client that does not
//! do its part fails the test instead of hanging it.

#![allow(dead_code, unreachable_pub)] // a module of several test programs, none of which uses every step

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use tt_client::{ClientClass, Options, ServerUrl};
use tt_proto::Body;
use tt_proto::cipher::Cipher;
use tt_proto::im::base_define::{MsgType, UserInfo};
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::message::{ImMsgData, ImMsgDataAck};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::pdu::{self, PduRef};

/// No step of a test takes this long on a working client.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The capability bit for client message ids.
pub const CAP_MESSAGE_IDS: u64 = 1 << 1;

/// Both servers.
pub struct Fake {
    http: TcpListener,
    msg: TcpListener,
}

impl Fake {
    pub fn new() -> Self {
        Self::with_msg_on("127.0.0.1")
    }

    /// With the message server on another loopback address.
    pub fn with_msg_on(ip: &str) -> Self {
        Self { http: TcpListener::bind("127.0.0.1:0").unwrap(), msg: TcpListener::bind((ip, 0)).unwrap() }
    }

    pub fn url(&self) -> ServerUrl {
        self.http.local_addr().unwrap().into()
    }

    /// Options for user `alice` with a quick reconnect.
    pub fn options(&self) -> Options {
        let mut options = Options::new(self.url(), "alice", "secret", ClientClass::Pc);
        options.first_retry = Duration::from_millis(20);
        options
    }

    pub fn msg_addr(&self) -> SocketAddr {
        self.msg.local_addr().unwrap()
    }

    /// Takes one HTTP request and answers it with `body`.
    pub fn answer_http(&self, body: &str) {
        let (mut stream, _) = self.http.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        assert!(request.starts_with(b"GET /msg_server HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
        let head = format!("HTTP/1.1 200 OK\r\nConnection:close\r\nContent-Length:{}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).unwrap();
    }

    /// Accepts an HTTP connection and says nothing; it stays open as long as the value lives.
    pub fn ignore_http(&self) -> TcpStream {
        self.http.accept().unwrap().0
    }

    /// Names the message server, first `prior`, then its true address.
    pub fn answer_discovery_with(&self, prior: &str) {
        let addr = self.msg_addr();
        let (ip, port) = (addr.ip(), addr.port());
        self.answer_http(&format!(r#"{{"code":0,"msg":"","priorIP":"{prior}","backupIP":"{ip}","port":"{port}"}}"#));
    }

    pub fn accept(&self) -> Link {
        let (stream, _) = self.msg.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Link { stream }
    }

    /// Discovery and connect, up to and including the sign-in request.
    pub fn meet(&self) -> (Link, u16, ImLoginReq) {
        self.answer_discovery_with("127.0.0.1");
        let mut link = self.accept();
        let (seq, request) = link.recv::<ImLoginReq>();
        (link, seq, request)
    }

    /// The whole way to a signed-in client, which is user 1.
    pub fn sign_in(&self) -> Link {
        let (mut link, seq, _) = self.meet();
        link.send(seq, &welcome());
        link
    }
}

/// The answer to a good sign-in.
pub fn welcome() -> ImLoginRes {
    ImLoginRes {
        server_time: 1_700_000_000,
        result_code: 0,
        user_info: Some(card(1, "alice")),
        capabilities: Some(CAP_MESSAGE_IDS),
        ..Default::default()
    }
}

pub fn card(user_id: u32, name: &str) -> UserInfo {
    UserInfo { user_id, user_real_name: name.to_owned(), user_nick_name: name.to_uppercase(), ..Default::default() }
}

/// A text message as a server delivers it.
pub fn text_message(from: u32, to: u32, msg_id: u32, text: &str) -> ImMsgData {
    ImMsgData {
        from_user_id: from,
        to_session_id: to,
        msg_id,
        create_time: 1_700_000_000,
        msg_type: MsgType::MsgTypeSingleText as i32,
        msg_data: Cipher::default().encrypt(text.as_bytes()).unwrap().into(),
        ..Default::default()
    }
}

/// The server's end of one client connection.
pub struct Link {
    stream: TcpStream,
}

impl Link {
    /// The next PDU that is no heartbeat, which must carry an `M`.
    pub fn recv<M: Body>(&mut self) -> (u16, M) {
        loop {
            let frame = self.recv_frame().unwrap_or_else(|| panic!("closed before {}", M::COMMAND));
            let pdu = PduRef::parse(&frame).unwrap();
            if pdu.header.command != ImHeartBeat::COMMAND.id() {
                return (pdu.header.seq, pdu.decode().unwrap());
            }
        }
    }

    /// The next PDU, or None at the end of the connection.
    fn recv_frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; pdu::HEADER_LEN];
        match self.stream.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("no PDU within {LIMIT:?}: {error}"),
        }
        let len = pdu::Header::read(&frame).unwrap().length as usize;
        frame.resize(len, 0);
        self.stream.read_exact(&mut frame[pdu::HEADER_LEN..]).unwrap();
        Some(frame)
    }

    /// Waits until the client closes; whatever it still sends is returned as commands.
    pub fn until_closed(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.recv_frame()).map(|frame| PduRef::parse(&frame).unwrap().header.command).collect()
    }

    pub fn send<M: Body>(&mut self, seq: u16, body: &M) {
        self.send_bytes(&pdu::encode(seq, body));
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// One byte per segment.
    pub fn trickle(&mut self, bytes: &Bytes) {
        self.stream.set_nodelay(true).unwrap();
        for byte in bytes {
            self.send_bytes(&[*byte]);
        }
    }

    /// Takes a message and acknowledges it as number `msg_id`.
    pub fn ack(&mut self, msg_id: u32) -> ImMsgData {
        let (seq, data) = self.recv::<ImMsgData>();
        let ack = ImMsgDataAck {
            user_id: data.from_user_id,
            session_id: data.to_session_id,
            msg_id,
            session_type: 1,
            ..Default::default()
        };
        self.send(seq, &ack);
        data
    }
}
