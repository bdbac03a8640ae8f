//! Processes under test: started with a directory of their own, watched through their standard
//! output, ended by process id, and heard on standard error when a test fails.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Account, Class, Client, PATIENCE, binaries};

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

/// One running process.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: String,
    log: PathBuf,
    ended: bool,
}

impl Server {
    /// Starts `program`; standard error goes to `log`.
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        Self::start_command(Command::new(program).args(args), log)
    }

    /// Starts a command that has its environment and standard input set up.
    pub fn start_command(command: &mut Command, log: &Path) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::create(log).expect("a log file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens once the test is over.
                let _ = sender.send(line);
            }
        });
        Self { name, child, lines, seen: String::new(), log: log.to_owned(), ended: false }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that begins with `start`.
    pub fn wait_line(&mut self, start: &str) -> String {
        match self.find_line(start) {
            Ok(line) => line,
            Err(reason) => panic!("{} never said {start:?}: {reason}", self.name),
        }
    }

    /// Whether such a line comes before the process ends.
    pub fn has_line(&mut self, start: &str) -> bool {
        match self.find_line(start) {
            Ok(_) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("{} neither serves nor ends", self.name),
        }
    }

    fn find_line(&mut self, start: &str) -> Result<String, RecvTimeoutError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left)?;
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.starts_with(start) {
                return Ok(line);
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {}: {error}", self.name));
    }

    /// Ends the process as a power switch would.
    pub fn kill_9(mut self) {
        self.child.kill().expect("an unreaped child can be killed");
        self.child.wait().expect("a child can be waited for");
        self.ended = true;
    }

    /// SIGTERM, and then the end.
    pub fn stop(self) -> Exit {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> Exit {
        let deadline = Instant::now() + PATIENCE;
        // The end of standard output is the end of the process: nothing here closes it earlier.
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end", self.name),
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        self.ended = true;
        Exit { code: status.code(), stdout: std::mem::take(&mut self.seen), stderr: self.log() }
    }

    /// Standard error up to now.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- standard error of {}\n{}---", self.name, self.log());
        }
    }
}

/// Runs a command to its end.
pub fn run(program: &Path, args: &[&str]) -> Exit {
    run_with_input(program, args, "")
}

/// Runs a command to its end with `input` as its standard input.
pub fn run_with_input(program: &Path, args: &[&str], input: &str) -> Exit {
    let logs = TempDir::new().expect("a temporary directory");
    let mut server =
        Server::start_command(Command::new(program).args(args).stdin(Stdio::piped()), &logs.path().join("stderr"));
    let mut stdin = server.child.stdin.take().expect("piped");
    // A command that ends without reading its input is judged by its exit code.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    server.wait()
}

/// The directory in which one system keeps its data from start to start.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    data: PathBuf,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A new, empty one; it vanishes with the value.
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let data = directory.path().join("data");
        Self { directory, data }
    }

    /// One whose data directory is somewhere else and stays there.
    pub fn with_data(data: &Path) -> Self {
        Self { data: data.to_owned(), ..Self::new() }
    }

    /// The data directory; `teamtalk dev` creates it.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A path beside the data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the whole system and waits until every role serves.
    pub fn start(&self) -> Dev {
        self.start_with(&[])
    }

    /// The same with further options.
    pub fn start_with(&self, options: &[&str]) -> Dev {
        self.ready(self.launch(options))
    }

    /// The same with a log of everything.
    pub fn start_tracing(&self) -> Dev {
        let mut command = self.command(&[]);
        command.env("RUST_LOG", "trace");
        self.ready(Server::start_command(&mut command, &self.path("server.log")))
    }

    /// Starts the whole system and waits for nothing.
    pub fn launch(&self, options: &[&str]) -> Server {
        Server::start_command(&mut self.command(options), &self.path("server.log"))
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&binaries().teamtalk);
        command.arg("dev").arg("--data").arg(&self.data).arg("--ready-file").arg(self.ready_file());
        if !options.contains(&"--port-base") {
            command.args(["--port-base", "0"]);
        }
        command.args(options);
        command
    }

    fn ready(&self, mut server: Server) -> Dev {
        server.wait_line("Ready");
        let text = fs::read_to_string(self.ready_file()).expect("the ready file is there once the system says so");
        let ready = serde_json::from_str(&text).expect("the ready file is JSON");
        Dev { server, ready }
    }

    /// Where the ready file of this system goes.
    pub fn ready_file(&self) -> PathBuf {
        self.path("ready.json")
    }
}

/// A whole system, ready.
#[derive(Debug)]
pub struct Dev {
    /// Its process.
    pub server: Server,
    ready: Value,
}

impl Dev {
    /// Where a listener is, by its name in the ready file.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.ready[listener]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no address for {listener} in {}", self.ready))
    }

    /// Every listener with its address.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let all = self.ready.as_object().expect("an object");
        let listeners: Vec<_> =
            all.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?))).collect();
        assert_eq!(listeners.len(), all.len() - 1, "everything but `users` is an address");
        listeners
    }

    /// A demonstration account.
    pub fn account(&self, name: &str) -> Account {
        let users = self.ready["users"].as_array().expect("a list of users");
        let user = users.iter().find(|user| user["name"] == name).expect("a known account");
        Account {
            name: name.to_owned(),
            password: user["password"].as_str().expect("a password").to_owned(),
            id: u32::try_from(user["id"].as_u64().expect("an id")).expect("32 bits"),
        }
    }

    /// A connection to the client port of the msg server.
    pub fn connect(&self) -> Client {
        Client::connect(self.address("msg"))
    }

    /// A demonstration account, signed in.
    pub fn sign_in(&self, name: &str, class: Class) -> Client {
        Client::sign_in(self.address("msg"), &self.account(name), class)
    }

    /// Alice and Bob, both at a desktop.
    pub fn alice_and_bob(&self) -> (Client, Client) {
        (self.sign_in("alice", Class::Pc), self.sign_in("bob", Class::Pc))
    }

    /// Proves that every role still does its work: both accounts sign in (login, route and
    /// db-proxy have a part in that), a message arrives and is stored, and each role's health
    /// page answers.
    pub fn assert_lives(&self) {
        let (mut alice, mut bob) = self.alice_and_bob();
        let id = alice.say(bob.user_id, "still there?");
        let heard = bob.hear();
        assert_eq!((heard.id, heard.text.as_str()), (id, "still there?"));
        assert_eq!(alice.history_page(bob.user_id, 0, 1), [heard]);
        for (name, address) in self.listeners() {
            if name.starts_with("metrics") {
                let answer = http_get(address, "/healthz");
                assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            }
        }
        let answer = http_get(self.address("login_http"), "/msg_server");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Ports that one [`free_port_base`] stands for: more than the largest offset.
const STEP: u32 = 64;

/// A `--port-base` whose ports are free and stay so: below the range from which the system hands out
/// ports, so that no connection takes one meanwhile, and given to one test only.
pub fn free_port_base() -> u16 {
    const RANGE: std::ops::Range<u32> = 12_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let slots = (RANGE.end - RANGE.start) / STEP;
    // Two test processes at a time begin in different places.
    let first = std::process::id() * 7;
    for _ in 0..slots {
        let slot = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % slots;
        let base = (RANGE.start + slot * STEP) as u16;
        if (base..base + STEP as u16).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no {STEP} free ports in a row in {RANGE:?}")
}

/// An address for a server that starts later, or again: a port of [`free_port_base`].
pub fn free_address() -> SocketAddr {
    static LEFT: Mutex<std::ops::Range<u16>> = Mutex::new(0..0);
    let mut left = LEFT.lock().expect("no test panics in here");
    if left.is_empty() {
        let base = free_port_base();
        *left = base..base + STEP as u16;
    }
    (Ipv4Addr::LOCALHOST, left.next().expect("some are left")).into()
}

/// The whole answer to one GET, head and body.
pub fn http_get(address: SocketAddr, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// Whatever the server answers to these bytes before it closes.
pub fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("the port listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("above zero");
    stream.write_all(request.as_bytes()).expect("a short request fits the socket");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server closes after its answer");
    String::from_utf8(answer).expect("UTF-8")
}
