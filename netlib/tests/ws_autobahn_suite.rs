//! The Autobahn test suite itself, against our server and our client. It is a Python 2 program
//! (`autobahntestsuite` on PyPI), so it runs where `WSTEST` holds the command that starts it; its
//! cases written out as our own tests, which run everywhere, are in `ws_autobahn.rs`.
#![cfg(feature = "ws")]

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};

use netlib::ws::{self, Accept, ClientOptions, Closed, Message, Options, ServerOptions, Url, WebSocket, WsHandler};
use netlib::{ConnOptions, ConnectOptions, Context, ListenOptions, Reactor, ReactorConfig};
use support::local;

/// Groups 12 and 13 are about an extension that we do not have.
const SPEC_CASES: &str = r#""cases": ["*"], "exclude-cases": ["12.*", "13.*"], "exclude-agent-cases": {}"#;
/// Most of it is the suite waiting for what must not come.
const DEADLINE: Duration = Duration::from_mins(15);

#[derive(Default)]
struct State {
    text: String,
    closed: usize,
}

struct Echo;

impl WsHandler<State> for Echo {
    fn on_message(&mut self, _: &mut State, _: &mut Context<State>, ws: &WebSocket, message: Message<'_>) {
        let _ = match message {
            Message::Text(text) => ws.send_text(text),
            Message::Binary(bytes) => ws.send_binary(bytes),
        };
    }

    fn on_close(&mut self, state: &mut State, _: &mut Context<State>, _: &WebSocket, _: &Closed) {
        state.closed += 1;
    }
}

/// Keeps what it is told.
struct Listen;

impl WsHandler<State> for Listen {
    fn on_message(&mut self, state: &mut State, _: &mut Context<State>, _: &WebSocket, message: Message<'_>) {
        if let Message::Text(text) = message {
            text.clone_into(&mut state.text);
        }
    }

    fn on_close(&mut self, state: &mut State, _: &mut Context<State>, _: &WebSocket, _: &Closed) {
        state.closed += 1;
    }
}

/// The suite's largest message has 16 MiB.
fn options() -> Rc<Options> {
    Rc::new(Options { max_message: 16 << 20, max_frame: 16 << 20, ..Options::default() })
}

fn conn_options() -> ConnOptions {
    ConnOptions { output_limit: 64 << 20, ..ConnOptions::default() }
}

struct Suite {
    child: Child,
}

impl Suite {
    fn start(mode: &str, spec: &Path) -> Option<Self> {
        let command = std::env::var("WSTEST").ok()?;
        let mut words = command.split_whitespace();
        let child = Command::new(words.next()?)
            .args(words)
            .args(["-m", mode, "-u", "0", "-s"])
            .arg(spec)
            .spawn()
            .expect("WSTEST is a command that starts the suite");
        Some(Self { child })
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory for specification and report.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("netlib-autobahn-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

/// Reads the suite's `index.json`: every case must be OK, or be one that only informs. Prints
/// the counts.
fn judge(index: &Path) {
    let text = std::fs::read_to_string(index).expect("the suite's report");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    // Of the form `"1.1.1": { "behavior": "OK", "behaviorClose": "OK", … }`.
    for entry in text.split('}') {
        let strings: Vec<&str> = entry.split('"').skip(1).step_by(2).collect();
        let value = |key: &str| strings.iter().position(|s| *s == key).and_then(|at| strings.get(at + 1)).copied();
        let (Some(behaviour), Some(close)) = (value("behavior"), value("behaviorClose")) else { continue };
        *counts.entry(format!("{behaviour} / close {close}")).or_default() += 1;
        let fine = |outcome: &str| matches!(outcome, "OK" | "INFORMATIONAL");
        if !fine(behaviour) || !fine(close) {
            let case = strings.iter().find(|s| s.split('.').all(|n| n.parse::<u8>().is_ok()));
            bad.push(format!("{}: {behaviour}, close {close}", case.unwrap_or(&"?")));
        }
    }
    eprintln!("{}: {counts:?}", index.display());
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(counts.values().sum::<usize>() >= 290, "all cases have run: {counts:?}");
}

fn reactor() -> Reactor<State> {
    Reactor::new(ReactorConfig::default()).expect("a reactor")
}

fn skip(test: &str) -> bool {
    let missing = std::env::var_os("WSTEST").is_none();
    if missing {
        eprintln!("SKIPPED {test}: WSTEST does not name the command of the Autobahn suite");
    }
    missing
}

#[test]
fn the_autobahn_suite_finds_nothing_in_the_server() {
    if skip("the_autobahn_suite_finds_nothing_in_the_server") {
        return;
    }
    let mut reactor = reactor();
    let options = Rc::new(ServerOptions { common: options(), ..ServerOptions::default() });
    let listen = ListenOptions { conn: conn_options(), ..ListenOptions::default() };
    let listener = reactor
        .context()
        .listen(local(), listen, move |_, _, _| Some(ws::accept(&options, |_, _, _| Ok(Accept::new(Echo)))))
        .expect("listens");
    let directory = directory("server");
    let spec = directory.join("spec.json");
    let (addr, out) = (listener.local_addr().inet().expect("TCP"), directory.display());
    let text =
        format!(r#"{{"outdir": "{out}", "servers": [{{"agent": "netlib", "url": "ws://{addr}"}}], {SPEC_CASES}}}"#);
    std::fs::write(&spec, text).expect("written");
    let mut suite = Suite::start("fuzzingclient", &spec).expect("WSTEST is set");
    let (start, mut state) = (Instant::now(), State::default());
    let status = loop {
        reactor.run_once(&mut state, Some(Duration::from_millis(20))).expect("a tick");
        if let Some(status) = suite.child.try_wait().expect("a child") {
            break status;
        }
        assert!(start.elapsed() < DEADLINE, "the suite has not ended; {} connections did", state.closed);
    };
    assert!(status.success());
    judge(&directory.join("index.json"));
    std::fs::remove_dir_all(directory).expect("removed");
}

/// One WebSocket from its opening to its end.
fn visit(
    reactor: &mut Reactor<State>,
    state: &mut State,
    addr: SocketAddr,
    path: &str,
    handler: impl WsHandler<State>,
) {
    let url: Url = format!("ws://{addr}{path}").parse().expect("an address");
    let connect = ConnectOptions { conn: conn_options(), ..ConnectOptions::default() };
    let client = ClientOptions { common: options(), ..ClientOptions::default() };
    let before = state.closed;
    ws::connect(reactor.context(), addr, &url, connect, client, handler);
    let start = Instant::now();
    while state.closed == before {
        reactor.run_once(state, Some(Duration::from_millis(20))).expect("a tick");
        assert!(start.elapsed() < DEADLINE, "{path} has not ended");
    }
}

#[test]
fn the_autobahn_suite_finds_nothing_in_the_client() {
    if skip("the_autobahn_suite_finds_nothing_in_the_client") {
        return;
    }
    let directory = directory("client");
    let spec = directory.join("spec.json");
    // The suite must be told a port; this one was free a moment ago.
    let addr = TcpListener::bind(local()).and_then(|listener| listener.local_addr()).expect("a port");
    let out = directory.display();
    std::fs::write(&spec, format!(r#"{{"url": "ws://{addr}", "outdir": "{out}", {SPEC_CASES}}}"#)).expect("written");
    let _suite = Suite::start("fuzzingserver", &spec).expect("WSTEST is set");
    let start = Instant::now();
    while TcpStream::connect(addr).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "the suite does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut reactor, mut state) = (reactor(), State::default());
    visit(&mut reactor, &mut state, addr, "/getCaseCount", Listen);
    let cases: usize = state.text.parse().expect("a count");
    for case in 1..=cases {
        visit(&mut reactor, &mut state, addr, &format!("/runCase?case={case}&agent=netlib"), Echo);
        assert!(start.elapsed() < DEADLINE, "case {case} of {cases}");
    }
    visit(&mut reactor, &mut state, addr, "/updateReports?agent=netlib", Listen);
    judge(&directory.join("index.json"));
    std::fs::remove_dir_all(directory).expect("removed");
}
