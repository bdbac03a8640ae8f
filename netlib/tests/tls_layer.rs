//! The TLS layer alone, without a reactor: two sides over real sockets, driven by hand, so that
//! every short read, refusal and cut-off can be brought about at will.
#![cfg(feature = "tls")]

mod tls_support;

use std::any::Any;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use netlib::buffer::OutputBuffer;
use netlib::layer::{Layer, LayerFactory};
use netlib::socket::Stream;
use netlib::tls::{self, Session, TlsLayer, Version};
use tls_support::Authority;

/// More than any of these exchanges needs.
const MOST_TURNS: usize = 200_000;

/// One end of a connection, as the reactor would drive it.
struct Side {
    layer: Box<dyn Layer>,
    stream: Stream,
    output: OutputBuffer,
    input: Vec<u8>,
    buffer: Vec<u8>,
    open: bool,
    /// How reading ended: in order, or not.
    end: Option<Result<(), (io::ErrorKind, String)>>,
    most_pending: usize,
}

impl Side {
    fn new(factory: &dyn LayerFactory, stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            layer: factory.layer().unwrap(),
            stream: Stream::from(OwnedFd::from(stream)),
            output: OutputBuffer::new(),
            input: Vec::new(),
            buffer: vec![0; 64 * 1024],
            open: false,
            end: None,
            most_pending: 0,
        }
    }

    fn send(&mut self, bytes: impl Into<Bytes>) {
        self.output.push(bytes.into());
    }

    /// Does what can be done now.
    fn turn(&mut self) {
        if self.end.is_some() {
            return;
        }
        if !self.open {
            match self.layer.handshake(&self.stream) {
                Ok(done) => self.open = done,
                Err(error) => self.fail(error),
            }
        }
        if self.open {
            self.write();
            self.read();
        }
    }

    fn write(&mut self) {
        while self.end.is_none() && (!self.output.is_empty() || self.layer.pending() > 0) {
            match self.layer.write(&self.stream, &mut self.output) {
                Ok(progress) => {
                    self.most_pending = self.most_pending.max(self.layer.pending());
                    if progress.blocked {
                        return;
                    }
                }
                Err(error) => self.fail(error),
            }
        }
    }

    fn read(&mut self) {
        while self.end.is_none() {
            match self.layer.read(&self.stream, &mut self.buffer) {
                Ok(0) => self.end = Some(Ok(())),
                Ok(count) => self.input.extend_from_slice(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            // The alert, as the contract of layers asks for.
            let _ = self.layer.write(&self.stream, &mut OutputBuffer::new());
        }
        self.end.get_or_insert(Err((error.kind(), error.to_string())));
    }

    /// Good-bye and FIN, when everything is out.
    fn close(&mut self) {
        self.layer.close();
        self.write();
        assert_eq!(self.layer.pending(), 0);
        self.stream.shutdown_write().unwrap();
    }

    fn session(&self) -> Session {
        let layer: &dyn Any = &*self.layer;
        layer.downcast_ref::<TlsLayer>().expect("a TLS layer").session().expect("an open session")
    }

    fn fault(&self) -> &str {
        match &self.end {
            Some(Err((io::ErrorKind::InvalidData, text))) => text,
            other => panic!("expected a fault of the peer, found {other:?}"),
        }
    }
}

fn pair(server: &tls::Server, client: &tls::Client) -> (Side, Side) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Side::new(server, ours), Side::new(client, theirs))
}

fn run(server: &mut Side, client: &mut Side, what: &str, done: impl Fn(&Side, &Side) -> bool) {
    for _ in 0..MOST_TURNS {
        server.turn();
        client.turn();
        if done(server, client) {
            return;
        }
    }
    panic!("in vain: {what}: {server:?} {client:?}", server = server.layer, client = client.layer);
}

fn open(server: &tls::Server, client: &tls::Client) -> (Side, Side) {
    let (mut server, mut client) = pair(server, client);
    run(&mut server, &mut client, "a handshake", |a, b| {
        assert_eq!((&a.end, &b.end), (&None, &None));
        a.open && b.open
    });
    (server, client)
}

/// Runs until both have noticed that it cannot be.
fn refused(server: &tls::Server, client: &tls::Client) -> (Side, Side) {
    let (mut server, mut client) = pair(server, client);
    run(&mut server, &mut client, "a refusal", |a, b| a.end.is_some() && b.end.is_some());
    (server, client)
}

fn exchange(server: &mut Side, client: &mut Side) {
    let (had, got) = (server.input.len(), client.input.len());
    client.send(&b"ping"[..]);
    server.send(&b"pong"[..]);
    run(server, client, "an exchange", |a, b| a.input.len() >= had + 4 && b.input.len() >= got + 4);
    assert_eq!((&server.input[had..], &client.input[got..]), (&b"ping"[..], &b"pong"[..]));
}

// --- agreeing

#[test]
fn both_sides_know_what_was_agreed_upon() {
    let authority = Authority::new("ours");
    let made = authority.issue(&["chat.example"]);
    let server = tls::Server::builder().identity(made.identity()).alpn(["tt", "h2"]).build().unwrap();
    let client = tls::Client::builder("chat.example", authority.roots()).alpn(["h2", "tt"]).build().unwrap();
    let (mut server, mut client) = open(&server, &client);
    exchange(&mut server, &mut client);

    let (ours, theirs) = (server.session(), client.session());
    assert_eq!(ours.alpn.as_deref(), Some(&b"tt"[..]), "the server's preference decides");
    assert_eq!(ours.alpn, theirs.alpn);
    assert_eq!(ours.server_name.as_deref(), Some("chat.example"));
    assert_eq!(theirs.server_name.as_deref(), Some("chat.example"));
    assert_eq!((ours.version, theirs.version), (Version::Tls13, Version::Tls13));
    assert!(ours.cipher.starts_with("TLS13_"), "{}", ours.cipher);
    assert_eq!(theirs.peer_certificates, [made.der()]);
    assert!(ours.peer_certificates.is_empty());
}

#[test]
fn the_old_version_is_spoken_with_peers_that_have_no_other_unless_it_is_ruled_out() {
    let authority = Authority::new("ours");
    let server = tls::Server::builder().identity(authority.issue(&["a.example"]).identity());
    let (ours, mut socket) = UnixStream::pair().unwrap();
    let mut side = Side::new(&server.clone().build().unwrap(), ours);
    let mut tls = raw_client(&authority, &rustls::version::TLS12);
    shake_hands(&mut tls, &mut side, &mut socket);
    assert_eq!(side.session().version, Version::Tls12);
    assert!(side.session().cipher.starts_with("TLS_ECDHE_"), "{}", side.session().cipher);
    tls.writer().write_all(b"ping").unwrap();
    tls.send_close_notify();
    flush(&mut tls, &mut socket);
    side.turn();
    assert_eq!((&side.input[..], &side.end), (&b"ping"[..], &Some(Ok(()))));

    let (ours, mut socket) = UnixStream::pair().unwrap();
    let mut side = Side::new(&server.oldest_version(Version::Tls13).build().unwrap(), ours);
    flush(&mut raw_client(&authority, &rustls::version::TLS12), &mut socket);
    side.turn();
    assert!(side.fault().contains("no version of TLS"), "{}", side.fault());
}

#[test]
fn before_the_handshake_there_is_no_session() {
    let authority = Authority::new("ours");
    let layer = authority.server(&["a.example"]).layer().unwrap();
    let layer: &dyn Any = &*layer;
    assert_eq!(layer.downcast_ref::<TlsLayer>().unwrap().session(), None);
}

#[test]
fn a_handshake_that_arrives_byte_by_byte_is_completed() {
    let authority = Authority::new("ours");
    let (ours, mut near_server) = UnixStream::pair().unwrap();
    let (theirs, mut near_client) = UnixStream::pair().unwrap();
    near_server.set_nonblocking(true).unwrap();
    near_client.set_nonblocking(true).unwrap();
    let mut server = Side::new(&authority.server(&["a.example"]), ours);
    let mut client = Side::new(&authority.client("a.example"), theirs);
    client.send(&b"ping"[..]);
    server.send(&b"pong"[..]);
    let mut carried = 0;
    for _ in 0..MOST_TURNS {
        server.turn();
        client.turn();
        let mut byte = [0];
        if let Ok(1) = near_server.read(&mut byte) {
            near_client.write_all(&byte).unwrap();
            carried += 1;
        }
        if let Ok(1) = near_client.read(&mut byte) {
            near_server.write_all(&byte).unwrap();
            carried += 1;
        }
        if server.input == b"ping" && client.input == b"pong" {
            assert!(carried > 1_000, "{carried} bytes were carried one by one");
            return;
        }
    }
    panic!("in vain: {:?} {:?}", server.layer, client.layer);
}

/// The reactor asks to be told of writability only if it is told that something waits.
#[test]
fn a_flight_that_the_socket_does_not_take_is_pending_until_it_does() {
    let authority = Authority::new("ours");
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let filler = vec![0; 64 << 10];
    let mut filled = 0;
    while let Ok(count) = (&ours).write(&filler) {
        filled += count;
    }
    let mut server = Side::new(&authority.server(&["a.example"]), ours);
    let mut wire = theirs.try_clone().unwrap();
    let mut client = Side::new(&authority.client("a.example"), theirs);
    // Not by a turn, which would read the filling.
    let mut hello = OutputBuffer::new();
    client.layer.write(&client.stream, &mut hello).unwrap();
    server.turn();
    assert!(!server.open && server.layer.pending() > 500, "{} bytes wait", server.layer.pending());
    wire.read_exact(&mut vec![0; filled]).unwrap();
    run(&mut server, &mut client, "the handshake", |a, b| a.open && b.open);
    assert_eq!(server.layer.pending(), 0);
}

#[test]
fn with_no_protocol_in_common_both_sides_say_so() {
    let authority = Authority::new("ours");
    let server = tls::Server::builder().identity(authority.issue(&["a.example"]).identity()).alpn(["h2"]);
    let client = tls::Client::builder("a.example", authority.roots()).alpn(["tt"]).build().unwrap();
    let server = server.build().unwrap();
    let (refusing, refused_one) = refused(&server, &client);
    assert!(refusing.fault().contains("no application protocol"), "{}", refusing.fault());
    assert!(refused_one.fault().contains("none of our application protocols"), "{}", refused_one.fault());

    let (server, _) = open(&server, &authority.client("a.example"));
    assert_eq!(server.session().alpn, None, "who offers none is served");
}

#[test]
fn a_client_that_comes_back_resumes_its_session() {
    let authority = Authority::new("ours");
    let (server, client) = (authority.server(&["a.example"]), authority.client("a.example"));
    for again in [false, true] {
        let (mut server, mut client) = open(&server, &client);
        exchange(&mut server, &mut client); // the ticket comes behind the handshake
        assert_eq!((server.session().resumed, client.session().resumed), (again, again));
    }
}

// --- who is who

#[test]
fn a_client_refuses_a_certificate_for_another_name() {
    let authority = Authority::new("ours");
    let (server, client) = refused(&authority.server(&["a.example"]), &authority.client("b.example"));
    assert!(client.fault().contains("certificate is refused"), "{}", client.fault());
    assert!(client.fault().contains("b.example") && client.fault().contains("a.example"), "{}", client.fault());
    assert!(server.fault().contains("does not accept our certificate"), "{}", server.fault());
}

#[test]
fn a_client_refuses_an_unknown_issuer_and_an_expired_certificate() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let (server, client) = refused(&stranger.server(&["a.example"]), &authority.client("a.example"));
    assert!(client.fault().contains("UnknownIssuer"), "{}", client.fault());
    assert!(server.fault().contains("does not trust who issued"), "{}", server.fault());

    let expired = authority.issue_expired(&["a.example"]).identity();
    let expired = tls::Server::builder().identity(expired).build().unwrap();
    let (server, client) = refused(&expired, &authority.client("a.example"));
    assert!(client.fault().contains("expired"), "{}", client.fault());
    assert!(server.fault().contains("has expired"), "{}", server.fault());
}

#[test]
fn a_server_that_requires_a_certificate_serves_only_clients_that_show_a_good_one() {
    let (authority, staff, stranger) = (Authority::new("ours"), Authority::new("staff"), Authority::new("a stranger"));
    let server = tls::Server::builder().identity(authority.issue(&["a.example"]).identity());
    let strict = server.clone().require_client_certificate(staff.roots()).build().unwrap();
    let lenient = server.request_client_certificate(staff.roots()).build().unwrap();
    let client = tls::Client::builder("a.example", authority.roots());
    let nobody = client.clone().build().unwrap();
    let made = staff.issue(&["alice"]);
    let known = client.clone().identity(made.identity()).build().unwrap();
    let unknown = client.identity(stranger.issue(&["mallory"]).identity()).build().unwrap();

    for server in [&strict, &lenient] {
        let (mut server, mut client) = open(server, &known);
        exchange(&mut server, &mut client);
        assert_eq!(server.session().peer_certificates, [made.der()]);
        // The handshake is complete on the client's side before its certificate is looked at.
    }
    let (mut server, mut client) = open(&lenient, &nobody);
    exchange(&mut server, &mut client);
    assert!(server.session().peer_certificates.is_empty());

    let (server, client) = refused(&strict, &nobody);
    assert!(server.fault().contains("shows no certificate"), "{}", server.fault());
    assert!(client.fault().contains("requires a certificate of us"), "{}", client.fault());
    for server in [&strict, &lenient] {
        let (server, client) = refused(server, &unknown);
        assert!(server.fault().contains("UnknownIssuer"), "{}", server.fault());
        assert!(client.fault().contains("does not trust who issued"), "{}", client.fault());
    }
}

#[test]
fn each_name_gets_its_certificate_and_other_names_the_first() {
    let authority = Authority::new("ours");
    let made = [&["a.example"][..], &["b.example", "*.c.example"]].map(|names| authority.issue(names));
    let server = made.iter().fold(tls::Server::builder(), |builder, made| builder.identity(made.identity()));
    let server = server.build().unwrap();
    for (name, expected) in [("a.example", 0), ("b.example", 1), ("chat.c.example", 1)] {
        let (_, client) = open(&server, &authority.client(name));
        assert_eq!(client.session().peer_certificates, [made[expected].der()], "{name}");
    }
    let (_, client) = refused(&server, &authority.client("d.example"));
    assert!(client.fault().contains("a.example"), "the first is shown: {}", client.fault());
}

#[test]
fn an_address_is_a_name_too() {
    let authority = Authority::new("ours");
    let (mut server, mut client) = open(&authority.server(&["127.0.0.1"]), &authority.client("127.0.0.1"));
    exchange(&mut server, &mut client);
    assert_eq!(server.session().server_name, None, "SNI has no addresses");
}

// --- new certificates

#[test]
fn a_new_certificate_is_for_new_connections_and_open_ones_go_on() {
    let authority = Authority::new("ours");
    let (old, new) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let install = |made: &tls_support::Made| {
        std::fs::write(&chain, &made.chain).unwrap();
        std::fs::write(&key, &made.key).unwrap();
    };
    install(&old);
    let server = tls::Server::from_pem_files(&chain, &key).unwrap();
    let (mut before, mut before_client) = open(&server, &authority.client("a.example"));
    let (mut under_way, mut under_way_client) = pair(&server, &authority.client("a.example"));
    under_way_client.turn();

    install(&new);
    server.reload().unwrap();
    let (_, after) = open(&server, &authority.client("a.example"));
    assert_eq!(after.session().peer_certificates, [new.der()]);
    exchange(&mut before, &mut before_client);
    assert_eq!(before_client.session().peer_certificates, [old.der()]);
    run(&mut under_way, &mut under_way_client, "a handshake across the exchange", |a, b| a.open && b.open);

    // Half-written, or the key of the other: the good one stays.
    std::fs::write(&chain, &old.chain[..old.chain.len() / 2]).unwrap();
    let error = server.reload().unwrap_err();
    assert!(matches!(error, tls::Error::BadPem { .. }), "{error}");
    assert!(error.to_string().starts_with(chain.to_str().unwrap()), "{error}");
    std::fs::write(&chain, &old.chain).unwrap();
    let error = server.reload().unwrap_err();
    assert!(matches!(error, tls::Error::KeyMismatch { .. }), "{error}");
    std::fs::remove_file(&key).unwrap();
    let error = server.reload().unwrap_err();
    assert!(matches!(error, tls::Error::Unreadable { .. }), "{error}");
    assert!(matches!(server.replace([]), Err(tls::Error::NoIdentity)));
    let (_, after) = open(&server, &authority.client("a.example"));
    assert_eq!(after.session().peer_certificates, [new.der()]);
    exchange(&mut before, &mut before_client);
}

#[test]
fn wrong_material_is_refused_in_words_that_help() {
    let authority = Authority::new("ours");
    let (made, other) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let text =
        |chain: &str, key: &str| tls::Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string();
    assert!(text("", &made.key).contains("holds no certificate"));
    assert!(text(&made.key, &made.key).contains("holds no certificate"));
    assert!(text(&made.chain, &made.chain).contains("holds no private key"));
    assert!(text(&made.chain, &other.key).contains("not the private key of the first certificate"));
    let issuer_first = format!("{}{}", authority.pem, made.chain);
    assert!(text(&issuer_first, &made.key).contains("comes first"));
    let locked = made.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(text(&made.chain, &locked).contains("passphrase"));
    let noise = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(text(&made.chain, noise).contains("private key cannot be used"));
    let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(text(noise, &made.key).contains("certificate 1 cannot be used"));
    assert!(tls::Roots::from_pem(noise.as_bytes()).unwrap_err().to_string().contains("certificate 1"));
    assert!(text(&made.chain.replace("-----END CERTIFICATE-----", ""), &made.key).contains("not ended"));

    let builder = tls::Client::builder("no name!", authority.roots());
    assert!(matches!(builder.build(), Err(tls::Error::BadServerName { .. })));
    let builder = tls::Client::builder("a.example", authority.roots()).alpn([""]);
    assert!(matches!(builder.build(), Err(tls::Error::BadAlpn { len: 0 })));
    assert!(matches!(tls::Server::builder().build(), Err(tls::Error::NoIdentity)));
    assert!(!format!("{:?}", made.identity()).contains("PRIVATE"));
}

// --- carrying data

/// A stretch of the endless pattern that the transfers carry.
fn pattern(from: usize, len: usize) -> Bytes {
    // 4,093 divides neither records nor buffers.
    let block: Vec<u8> = (0..4093u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let mut bytes = Vec::with_capacity(len + 4093);
    let skip = from % 4093;
    while bytes.len() < len + skip {
        bytes.extend_from_slice(&block);
    }
    Bytes::from(bytes).slice(skip..skip + len)
}

#[test]
fn sixty_four_megabytes_each_way_arrive_whole_with_a_slow_reader_and_bounded_memory() {
    const TOTAL: usize = 64 << 20;
    const PIECE: usize = 1_000_003;
    let authority = Authority::new("ours");
    let (mut server, mut client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    let mut sent = [0; 2];
    let mut received = [0; 2];
    let mut turns = 0;
    while received != [TOTAL; 2] {
        turns += 1;
        assert!(turns < MOST_TURNS, "stuck at {received:?}");
        for (n, side) in [&mut server, &mut client].into_iter().enumerate() {
            if sent[n] < TOTAL && side.output.is_empty() {
                let len = PIECE.min(TOTAL - sent[n]);
                side.send(pattern(sent[n], len));
                sent[n] += len;
            }
            // The client reads in every third turn, and by less than a record.
            if n == 0 || turns % 3 == 0 {
                side.buffer.resize(if n == 0 || turns % 2 == 0 { 64 << 10 } else { 9_001 }, 0);
                side.read();
                assert!(side.input == pattern(received[n], side.input.len()), "damaged at {}", received[n]);
                received[n] += side.input.len();
                side.input.clear();
            }
            side.write();
            assert_eq!(side.end, None);
        }
    }
    for side in [&server, &client] {
        assert!(side.most_pending > 0, "the socket was never full, so nothing was shown");
        assert!(side.most_pending <= (64 + 18) << 10, "{} bytes of ciphertext waited", side.most_pending);
    }
    server.close();
    client.close();
    run(&mut server, &mut client, "both ends", |a, b| a.end == Some(Ok(())) && b.end == Some(Ok(())));
}

/// The lengths of the records in raw bytes of the wire.
fn records(mut wire: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    while let [23, 3, 3, high, low, rest @ ..] = wire {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        found.push(len);
        wire = &rest[len..];
    }
    assert!(wire.is_empty(), "not application data: {wire:?}");
    found
}

#[test]
fn small_pieces_leave_in_one_record_and_large_ones_in_full_records() {
    let authority = Authority::new("ours");
    let (mut server, client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    let mut wire = UnixStream::from(OwnedFd::from(client.stream));
    let mut raw = vec![0; 1 << 20];
    while server.layer.pending() > 0 {
        server.write();
    }
    let _ = wire.read(&mut raw); // what is left of the handshake
    (0..100).for_each(|n| server.send(vec![n; 10]));
    server.output.push_slice(b"and a copy");
    server.write();
    let count = wire.read(&mut raw).unwrap();
    assert_eq!(records(&raw[..count]), [1010 + 17]);

    server.send(vec![1; 100]);
    server.send(vec![2; 40_000]);
    server.write();
    let mut count = 0;
    while let Ok(more) = wire.read(&mut raw[count..]) {
        count += more;
    }
    assert_eq!(records(&raw[..count]), [16_384 + 17, 16_384 + 17, 40_100 - 2 * 16_384 + 17]);
}

#[test]
fn a_part_of_a_file_is_read_and_encrypted() {
    let authority = Authority::new("ours");
    let (mut server, mut client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(0, 300_000)).unwrap();
    server.send(&b"head"[..]);
    server.output.push_file(std::rc::Rc::new(OwnedFd::from(file)), 1_000, 250_000);
    server.send(&b"tail"[..]);
    run(&mut server, &mut client, "the file", |_, b| b.input.len() >= 250_008);
    assert!(client.input[..4] == *b"head" && client.input[250_004..] == *b"tail");
    assert!(client.input[4..250_004] == pattern(1_000, 250_000));
}

// --- ends

#[test]
fn a_stream_that_is_cut_off_is_no_end() {
    let authority = Authority::new("ours");
    let (mut server, mut client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    client.send(&b"pay 100 to"[..]);
    client.write();
    client.stream.shutdown_write().unwrap(); // no good-bye before it
    server.turn();
    assert_eq!(server.input, b"pay 100 to", "what came is delivered first");
    let Some(Err((io::ErrorKind::UnexpectedEof, text))) = &server.end else { panic!("{:?}", server.end) };
    assert!(text.contains("cut off"), "{text}");
}

#[test]
fn after_one_sides_good_bye_the_other_may_go_on() {
    let authority = Authority::new("ours");
    let (mut server, mut client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    client.send(&b"the question"[..]);
    client.write();
    client.close();
    server.turn();
    assert_eq!((&server.input[..], &server.end), (&b"the question"[..], &Some(Ok(()))));
    server.end = None;
    server.send(pattern(0, 1 << 20));
    for _ in 0..1000 {
        server.write();
        client.read();
    }
    assert_eq!(client.input.len(), 1 << 20);
    server.close();
    client.read();
    assert_eq!(client.end, Some(Ok(())));
}

#[test]
fn a_peer_that_leaves_in_the_handshake_is_an_unexpected_end() {
    let authority = Authority::new("ours");
    let (mut server, mut client) = pair(&authority.server(&["a.example"]), &authority.client("a.example"));
    client.turn();
    server.turn();
    client.stream.shutdown_write().unwrap();
    server.turn();
    assert!(matches!(&server.end, Some(Err((io::ErrorKind::UnexpectedEof, _)))), "{:?}", server.end);
}

// --- peers that do not speak TLS

fn told(factory: &dyn LayerFactory, words: &[u8]) -> Side {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut side = Side::new(factory, ours);
    theirs.write_all(words).unwrap();
    (0..10).for_each(|_| side.turn());
    side
}

#[test]
fn peers_that_speak_something_else_are_recognised() {
    let authority = Authority::new("ours");
    let (server, client) = (authority.server(&["a.example"]), authority.client("a.example"));
    let side = told(&server, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(side.fault().contains("plain HTTP on a port that speaks TLS"), "{}", side.fault());
    let side = told(&client, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(side.fault().contains("this port does not speak TLS"), "{}", side.fault());
    let side = told(&client, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert!(side.fault().contains("began with \"SSH-2.0-\""), "{}", side.fault());
    let side = told(&server, &[0xff; 100]);
    assert!(side.fault().contains("does not speak TLS"), "{}", side.fault());
}

#[test]
fn a_server_answers_garbage_with_an_alert() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut side = Side::new(&Authority::new("ours").server(&["a.example"]), ours);
    theirs.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").unwrap();
    side.turn();
    assert!(side.end.is_some());
    drop(side);
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).unwrap();
    assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "a fatal alert, not {answer:?}");
}

/// A linear congruential generator: the same garbage in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next() as u8;
        }
    }
}

#[test]
fn random_bytes_end_either_side_without_a_panic_and_without_growth() {
    let authority = Authority::new("ours");
    let (server, client) = (authority.server(&["a.example"]), authority.client("a.example"));
    let mut noise = Noise(1);
    for round in 0..400 {
        let factory: &dyn LayerFactory = if round % 2 == 0 { &server } else { &client };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut side = Side::new(factory, ours);
        side.turn();
        let mut written = 0;
        while side.end.is_none() && written < 400_000 {
            let mut bytes = vec![0; 1 + noise.next() as usize % 5000];
            noise.fill(&mut bytes);
            if round % 4 < 2 {
                // A plausible header in front, so that it gets further in.
                let kind = 20 + noise.next() as u8 % 5;
                let header = [kind, 3, 3, (bytes.len() >> 8) as u8, bytes.len() as u8];
                let _ = theirs.write_all(&header);
            }
            written += theirs.write(&bytes).unwrap_or(0);
            side.turn();
            assert!(side.layer.pending() < 8 << 10, "{} bytes wait", side.layer.pending());
            let _ = theirs.read(&mut [0; 8 << 10]);
        }
        assert!(matches!(side.end, Some(Err(_))), "round {round}: {written} random bytes were taken for TLS");
    }
}

/// Carries what both sides send, each through its own way of damaging it.
#[test]
fn damaged_records_and_handshakes_are_faults_never_panics_and_never_wrong_data() {
    let authority = Authority::new("ours");
    let (server, client) = (authority.server(&["a.example"]), authority.client("a.example"));
    let mut noise = Noise(7);
    let mut faults = 0;
    for round in 0..300 {
        let (ours, near_server) = UnixStream::pair().unwrap();
        let (theirs, near_client) = UnixStream::pair().unwrap();
        near_server.set_nonblocking(true).unwrap();
        near_client.set_nonblocking(true).unwrap();
        let (mut server, mut client) = (Side::new(&server, ours), Side::new(&client, theirs));
        server.send(pattern(0, 30_000));
        client.send(pattern(0, 30_000));
        // One bit of either direction, anywhere in what is exchanged.
        let mut to_server = noise.next() as usize % if round % 2 == 0 { 1_500 } else { 32_000 };
        let mut to_client = noise.next() as usize % if round % 2 == 0 { 2_000 } else { 32_000 };
        let only = round % 3;
        for _ in 0..40 {
            server.turn();
            client.turn();
            let ways = [
                (&near_client, &near_server, &mut to_server, only != 1),
                (&near_server, &near_client, &mut to_client, only != 2),
            ];
            for (mut from, mut into, at, damages) in ways {
                let mut bytes = vec![0; 16 << 10];
                let Ok(count) = from.read(&mut bytes) else { continue };
                if damages && (0..count).contains(at) {
                    bytes[*at] ^= 1 << (noise.next() % 8);
                }
                *at = at.wrapping_sub(count);
                let _ = into.write_all(&bytes[..count]);
            }
        }
        for side in [&server, &client] {
            assert!(side.input == pattern(0, side.input.len()), "round {round}: damaged data was delivered");
            faults += usize::from(matches!(&side.end, Some(Err(_))));
        }
    }
    assert!(faults > 300, "only {faults} of 600 ends noticed");
}

/// rustls asserts, in debug builds, that it never sends a second last alert, and the garbage
/// makes it try: unguarded, any peer could panic the loop of a debug build.
#[test]
fn garbage_after_our_own_good_bye_is_a_fault_like_any_other() {
    let authority = Authority::new("ours");
    let (mut server, client) = open(&authority.server(&["a.example"]), &authority.client("a.example"));
    server.close();
    let mut wire = UnixStream::from(OwnedFd::from(client.stream));
    wire.write_all(&[0x55; 200]).unwrap();
    server.turn();
    assert!(matches!(&server.end, Some(Err((io::ErrorKind::InvalidData, _)))), "{:?}", server.end);
}

// --- what an authenticated peer may still do, played by rustls itself

fn raw_client(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> rustls::ClientConnection {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authority.rustls_roots())
        .with_no_client_auth();
    let name = "a.example".try_into().unwrap();
    rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap()
}

fn flush(tls: &mut rustls::ClientConnection, socket: &mut UnixStream) {
    while tls.wants_write() {
        tls.write_tls(socket).unwrap();
    }
}

fn shake_hands(tls: &mut rustls::ClientConnection, side: &mut Side, socket: &mut UnixStream) {
    socket.set_nonblocking(true).unwrap();
    for _ in 0..100 {
        flush(tls, socket);
        side.turn();
        if tls.read_tls(socket).is_ok() {
            tls.process_new_packets().unwrap();
        }
        if side.open && !tls.is_handshaking() && !tls.wants_write() {
            return;
        }
    }
    panic!("no handshake");
}

#[test]
fn keys_are_updated_on_request_but_not_for_ever() {
    let authority = Authority::new("ours");
    let (ours, mut socket) = UnixStream::pair().unwrap();
    let mut server = Side::new(&authority.server(&["a.example"]), ours);
    let mut tls = raw_client(&authority, &rustls::version::TLS13);
    shake_hands(&mut tls, &mut server, &mut socket);
    for n in 1..=3 {
        tls.refresh_traffic_keys().unwrap();
        tls.writer().write_all(b"under new keys").unwrap();
        flush(&mut tls, &mut socket);
        server.turn();
        assert_eq!(server.input.len(), n * 14);
        server.send(&b"so be it"[..]);
        server.turn();
        while tls.read_tls(&mut socket).is_ok() {
            tls.process_new_packets().unwrap();
        }
        let mut answer = [0; 16];
        assert_eq!(tls.reader().read(&mut answer).unwrap(), 8);
    }
    let mut updates = 0;
    while server.end.is_none() && updates < 1000 {
        tls.refresh_traffic_keys().unwrap();
        flush(&mut tls, &mut socket);
        server.turn();
        updates += 1;
    }
    assert!(server.fault().contains("TooManyKeyUpdateRequests"), "{}", server.fault());
}

#[test]
fn data_before_a_fault_is_delivered_and_then_the_fault() {
    let authority = Authority::new("ours");
    let (ours, mut socket) = UnixStream::pair().unwrap();
    let mut server = Side::new(&authority.server(&["a.example"]), ours);
    let mut tls = raw_client(&authority, &rustls::version::TLS13);
    shake_hands(&mut tls, &mut server, &mut socket);
    tls.writer().write_all(b"good").unwrap();
    let mut wire = Vec::new();
    tls.write_tls(&mut wire).unwrap();
    wire.extend([23, 3, 3, 0, 32]);
    wire.extend([9; 32]);
    socket.write_all(&wire).unwrap();
    server.turn();
    assert_eq!(server.input, b"good");
    assert!(server.fault().contains("decrypt"), "{}", server.fault());
}
