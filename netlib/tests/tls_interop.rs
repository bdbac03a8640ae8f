//! TLS with other people's implementations: the `openssl` program on either side, and `curl`.
//! Where one is missing its tests are skipped by name.
#![cfg(feature = "tls")]

mod support;
mod tls_support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use netlib::backend::BackendKind;
use netlib::{CloseReason, Conn, ConnectOptions, Context, Handler, ListenOptions, Reactor, tls};
use support::{drive, local, reactor};
use tls_support::Authority;

#[derive(Default)]
struct Log {
    conns: Vec<Conn>,
    sessions: Vec<tls::Session>,
    input: Vec<u8>,
    closed: Vec<CloseReason>,
}

/// Keeps what it hears; answers it if it is told to.
struct Peer(fn(&Conn, &[u8]));

impl Handler<Log> for Peer {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.conns.push(conn.clone());
        log.sessions.push(tls::session(conn).expect("TLS"));
    }

    fn on_data(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn, input: &[u8]) -> usize {
        log.input.extend_from_slice(input);
        (self.0)(conn, input);
        input.len()
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

fn listen(reactor: &mut Reactor<Log>, server: tls::Server, answer: fn(&Conn, &[u8])) -> SocketAddr {
    let options = ListenOptions { layer: Some(Arc::new(server)), ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, move |_, _, _| Some(Box::new(Peer(answer))));
    listener.unwrap().local_addr().inet().expect("TCP")
}

fn dial(reactor: &mut Reactor<Log>, addr: SocketAddr, client: tls::Client) {
    let options = ConnectOptions { layer: Some(Arc::new(client)), ..ConnectOptions::default() };
    reactor.context().connect(addr, options, Box::new(Peer(|_, _| ())));
}

/// Whether a program is there; if not, says which test has not run.
fn have(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED {test}: the program {program} is not installed");
    }
    found
}

/// The material that the programs read from files.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(authority: &Authority) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write("roots.pem", &authority.pem);
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn s_client(roots: &Path, addr: SocketAddr, more: &[&str]) -> Running {
    let child = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-servername", "a.example", "-CAfile"])
        .arg(roots)
        .args(["-verify_hostname", "a.example", "-connect", &addr.to_string()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Running(child.unwrap())
}

/// A server on a port of its choice.
fn s_server(chain: &Path, key: &Path, more: &[&str]) -> (Running, SocketAddr) {
    let child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
        .arg(chain)
        .arg("-key")
        .arg(key)
        .args(more)
        .stdin(Stdio::piped()) // its end would end the program
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut openssl = Running(child.unwrap());
    let mut lines = BufReader::new(openssl.0.stdout.take().unwrap()).lines();
    let accepting = lines.find_map(|line| Some(line.unwrap().strip_prefix("ACCEPT ")?.to_owned()));
    std::thread::spawn(move || lines.for_each(drop)); // a full pipe would hold it up
    (openssl, accepting.expect("it says where it listens").parse().unwrap())
}

fn echo(conn: &Conn, input: &[u8]) {
    conn.send_slice(input).unwrap();
}

#[test]
fn openssl_as_client_is_echoed_in_both_versions_and_with_its_certificate() {
    if !have("openssl", "openssl_as_client_is_echoed_in_both_versions_and_with_its_certificate") {
        return;
    }
    let (authority, staff) = (Authority::new("ours"), Authority::new("staff"));
    let files = Files::new(&authority);
    let alice = staff.issue(&["alice"]);
    let (chain, key) = (files.write("alice.pem", &alice.chain), files.write("alice-key.pem", &alice.key));
    let server = tls::Server::builder()
        .identity(authority.issue(&["a.example"]).identity())
        .alpn(["echo"])
        .require_client_certificate(staff.roots());
    let mut reactor = reactor(BackendKind::Mio);
    let addr = listen(&mut reactor, server.build().unwrap(), echo);
    let mut log = Log::default();
    for (n, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let certificate = ["-cert", chain.to_str().unwrap(), "-key", key.to_str().unwrap()];
        let more = [&[version, "-alpn", "other,echo"], &certificate[..]].concat();
        let mut openssl = s_client(&files.path("roots.pem"), addr, &more);
        let mut stdin = openssl.0.stdin.take().unwrap();
        let mut stdout = openssl.0.stdout.take().unwrap();
        let text: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 23) as u8).collect();
        let sent = text.clone();
        let expected = text.len();
        let writer = std::thread::spawn(move || {
            stdin.write_all(&sent).unwrap();
            stdin
        });
        let reader = std::thread::spawn(move || {
            let mut echoed = vec![0; expected];
            stdout.read_exact(&mut echoed).unwrap();
            (echoed, stdout)
        });
        drive(&mut reactor, &mut log, "the echo", |_| reader.is_finished());
        let (echoed, mut stdout) = reader.join().unwrap();
        assert!(echoed == text);
        let _stdin = writer.join().unwrap();
        let session = &log.sessions[n];
        let expected = if n == 0 { tls::Version::Tls12 } else { tls::Version::Tls13 };
        assert_eq!(session.version, expected);
        assert_eq!(session.alpn.as_deref(), Some(&b"echo"[..]));
        assert_eq!(session.server_name.as_deref(), Some("a.example"));
        assert_eq!(session.peer_certificates, [alice.der()]);
        // Our good-bye and FIN end the program by themselves.
        log.conns[n].close();
        let end = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()).unwrap());
        drive(&mut reactor, &mut log, "the end of openssl", |log| end.is_finished() && log.closed.len() == n + 1);
        assert_eq!(log.closed[n], CloseReason::Local);
    }
}

#[test]
fn openssl_without_rsa_gets_the_certificate_that_it_can_verify() {
    if !have("openssl", "openssl_without_rsa_gets_the_certificate_that_it_can_verify") {
        return;
    }
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let rsa = authority.issue_rsa(&["a.example"]);
    let server = tls::Server::builder().identity(rsa.identity()).identity(authority.issue(&["a.example"]).identity());
    let mut reactor = reactor(BackendKind::Mio);
    let addr = listen(&mut reactor, server.build().unwrap(), echo);
    let mut log = Log::default();
    let _openssl = s_client(&files.path("roots.pem"), addr, &["-sigalgs", "ecdsa_secp256r1_sha256"]);
    drive(&mut reactor, &mut log, "the handshake", |log| log.conns.len() + log.closed.len() == 1);
    assert_eq!(log.closed, []);
    // Who can do both gets the first.
    dial(&mut reactor, addr, authority.client("a.example"));
    drive(&mut reactor, &mut log, "the handshake", |log| log.conns.len() == 3);
    assert!(log.sessions.iter().any(|session| session.peer_certificates == [rsa.der()]));
}

#[test]
fn openssl_as_client_may_update_its_keys_and_say_good_bye() {
    if !have("openssl", "openssl_as_client_may_update_its_keys_and_say_good_bye") {
        return;
    }
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let mut reactor = reactor(BackendKind::Mio);
    let addr = listen(&mut reactor, authority.server(&["a.example"]), echo);
    let mut log = Log::default();
    // Not quiet: then a line "K" asks for new keys on both sides, and "Q" ends. It tells what
    // messages go out (>>>) and come in (<<<).
    let child = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-msg", "-servername", "a.example", "-CAfile"])
        .arg(files.path("roots.pem"))
        .args(["-connect", &addr.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut openssl = Running(child.unwrap());
    let mut stdin = openssl.0.stdin.take().unwrap();
    let stdout = BufReader::new(openssl.0.stdout.take().unwrap());
    let updates = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let seen = Arc::clone(&updates);
    let listening = std::thread::spawn(move || {
        for line in stdout.split(b'\n').map(|line| String::from_utf8_lossy(&line.unwrap()).into_owned()) {
            if line.contains("KeyUpdate") {
                seen[usize::from(line.contains("<<<"))].fetch_add(1, SeqCst);
            }
        }
    });
    drive(&mut reactor, &mut log, "the handshake", |log| log.conns.len() == 1);
    let mut expected = 0;
    for (n, line) in ["before\n", "after\n", "at last\n"].into_iter().enumerate() {
        stdin.write_all(line.as_bytes()).unwrap();
        expected += line.len();
        drive(&mut reactor, &mut log, line, |log| log.input.len() >= expected);
        // Our answer goes with what we send next.
        drive(&mut reactor, &mut log, "our new keys", |_| updates[1].load(SeqCst) == n);
        if n < 2 {
            stdin.write_all(b"K\n").unwrap();
            drive(&mut reactor, &mut log, "its new keys", |_| updates[0].load(SeqCst) == n + 1);
        }
    }
    assert_eq!(log.input, b"before\nafter\nat last\n");
    stdin.write_all(b"Q\n").unwrap();
    drive(&mut reactor, &mut log, "the end", |log| log.closed.len() == 1);
    assert_eq!(log.closed, [CloseReason::PeerClosed], "its good-bye was understood");
    drop(openssl);
    listening.join().unwrap();
}

#[test]
fn openssl_as_server_is_spoken_to_and_its_certificate_looked_at() {
    if !have("openssl", "openssl_as_server_is_spoken_to_and_its_certificate_looked_at") {
        return;
    }
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let made = authority.issue(&["a.example"]);
    let (chain, key) = (files.write("chain.pem", &made.chain), files.write("key.pem", &made.key));
    let mut reactor = reactor(BackendKind::Mio);
    for version in ["-tls1_2", "-tls1_3"] {
        let (openssl, addr) = s_server(&chain, &key, &[version, "-rev", "-alpn", "echo"]);
        let mut log = Log::default();
        let client = tls::Client::builder("a.example", authority.roots()).alpn(["echo"]).build().unwrap();
        dial(&mut reactor, addr, client.for_server("b.example").unwrap());
        drive(&mut reactor, &mut log, "the refusal", |log| log.closed.len() == 1);
        let CloseReason::Protocol(why) = &log.closed[0] else { panic!("{:?}", log.closed) };
        assert!(why.contains("certificate is refused"), "{why}");

        dial(&mut reactor, addr, client);
        drive(&mut reactor, &mut log, "the handshake", |log| log.conns.len() == 1);
        log.conns[0].send(&b"stressed\n"[..]).unwrap();
        drive(&mut reactor, &mut log, "the line reversed", |log| log.input.len() == 9);
        assert_eq!(log.input, b"desserts\n");
        assert_eq!(log.sessions[0].alpn.as_deref(), Some(&b"echo"[..]));
        assert_eq!(log.sessions[0].peer_certificates, [made.der()]);
        log.conns[0].close();
        drive(&mut reactor, &mut log, "the end", |log| log.closed.len() == 2);
        drop(openssl);
    }
}

#[test]
fn a_server_that_sends_tickets_without_end_is_given_up() {
    if !have("openssl", "a_server_that_sends_tickets_without_end_is_given_up") {
        return;
    }
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let made = authority.issue(&["a.example"]);
    let (chain, key) = (files.write("chain.pem", &made.chain), files.write("key.pem", &made.key));
    for (tickets, too_many) in [("100", false), ("8000", true)] {
        let (_openssl, addr) = s_server(&chain, &key, &["-tls1_3", "-rev", "-num_tickets", tickets]);
        let (mut reactor, mut log) = (reactor(BackendKind::Mio), Log::default());
        dial(&mut reactor, addr, authority.client("a.example"));
        drive(&mut reactor, &mut log, "the handshake", |log| log.conns.len() == 1);
        let _refused_if_closed_already = log.conns[0].send(&b"stressed\n"[..]);
        drive(&mut reactor, &mut log, "an end or an answer", |log| log.closed.len() == 1 || log.input.len() == 9);
        match log.closed.first() {
            Some(CloseReason::Protocol(why)) if too_many => assert!(why.contains("no data in them"), "{why}"),
            None if !too_many => {}
            other => panic!("{tickets} tickets: {other:?}"),
        }
    }
}

fn answer_http(conn: &Conn, input: &[u8]) {
    // Requests of curl come in one piece.
    assert!(input.ends_with(b"\r\n\r\n"), "{}", input.escape_ascii());
    conn.send(&b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecure"[..]).unwrap();
    conn.close();
}

#[test]
fn curl_fetches_over_https_and_refuses_what_it_should() {
    if !have("curl", "curl_fetches_over_https_and_refuses_what_it_should") {
        return;
    }
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let server = tls::Server::builder().identity(authority.issue(&["a.example"]).identity()).alpn(["http/1.1"]);
    let mut reactor = reactor(BackendKind::Mio);
    let addr = listen(&mut reactor, server.build().unwrap(), answer_http);
    let mut log = Log::default();
    let curl = |scheme: &str, name: &str| {
        let url = format!("{scheme}://{name}:{}/", addr.port());
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert"]);
        command.arg(files.path("roots.pem")).args(["--resolve", &format!("{name}:{}:127.0.0.1", addr.port()), &url]);
        std::thread::spawn(move || command.output().unwrap())
    };
    let fetched = curl("https", "a.example");
    drive(&mut reactor, &mut log, "curl", |log| fetched.is_finished() && log.closed.len() == 1);
    let fetched = fetched.join().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert_eq!(fetched.stdout, b"secure");
    assert_eq!(log.sessions[0].alpn.as_deref(), Some(&b"http/1.1"[..]));

    let wrong_name = curl("https", "b.example");
    drive(&mut reactor, &mut log, "curl", |log| wrong_name.is_finished() && log.closed.len() == 2);
    assert_eq!(wrong_name.join().unwrap().status.code(), Some(60), "curl: the certificate is not for that name");

    let plain = curl("http", "a.example");
    drive(&mut reactor, &mut log, "curl", |log| plain.is_finished() && log.closed.len() == 3);
    assert!(!plain.join().unwrap().status.success());
    let CloseReason::Protocol(why) = &log.closed[2] else { panic!("{:?}", log.closed) };
    assert!(why.contains("plain HTTP on a port that speaks TLS"), "{why}");
}
