//! The servers that are measured: ours, and the peers that the suite builds itself. Each is a process of its own
//! that takes `--port PORT` and prints `ready`.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Outcome;
use crate::kernel;

/// Where the program of a server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// The example `echo_server` with this back end; empty: with its default.
    Netlib(&'static str),
    /// `benches/peers/<name>.c` and the libraries it links.
    C(&'static str, &'static [&'static str]),
    /// `netlib-bench peer <name>`.
    Rust(&'static str),
}

/// A server by its name in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: Program,
}

/// Every server that echoes frames, in the order of the tables.
pub(crate) const ECHO_SERVERS: &[Peer] = &[
    Peer { name: "c-epoll", program: Program::C("epoll_server", &[]) },
    Peer { name: "netlib", program: Program::Netlib("") },
    Peer { name: "netlib-epoll-lt", program: Program::Netlib("epoll-lt") },
    Peer { name: "netlib-epoll-et", program: Program::Netlib("epoll-et") },
    Peer { name: "netlib-uring-poll", program: Program::Netlib("uring-poll") },
    Peer { name: "netlib-uring", program: Program::Netlib("uring") },
    Peer { name: "tokio", program: Program::Rust("tokio") },
    Peer { name: "libuv", program: Program::C("libuv_server", &["uv"]) },
    Peer { name: "raw-uring", program: Program::Rust("uring") },
    Peer { name: "c-poll", program: Program::C("poll_server", &[]) },
    Peer { name: "netlib-poll", program: Program::Netlib("poll") },
];

/// A command line that starts a server, all but its port.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    /// The back end that its log must name: one that the kernel refuses falls back in production.
    backend: Option<&'static str>,
}

/// Builds `peer`; the error says what is missing.
pub(crate) fn build(peer: Peer, echo_server: Option<&Path>) -> Outcome<Built> {
    let mut named = None;
    let (program, args) = match peer.program {
        Program::Netlib(backend) => {
            let program = echo_server.map_or_else(|| build_example("echo_server"), |path| Ok(path.to_owned()))?;
            named = (!backend.is_empty()).then_some(backend);
            let backend = named.iter().flat_map(|name| ["--backend", name]);
            (program, backend.chain(["--framed"]).map(str::to_owned).collect())
        }
        Program::C(source, libraries) => (compile(source, libraries)?, vec![]),
        Program::Rust(name) => (env::current_exe()?, vec!["peer".to_owned(), name.to_owned()]),
    };
    let built = Built { name: peer.name, program, args, backend: named };
    Server::start(&built, Pin::Same)?; // a peer that cannot start is missing, too
    Ok(built)
}

/// Fresh from the sources: a stale binary would be measured without a word.
pub(crate) fn build_example(name: &str) -> Outcome<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "netlib-examples", "--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !built.success() {
        return Err(format!("the example {name} does not build").into());
    }
    Ok(target_dir()?.join("release/examples").join(name))
}

fn compile(source: &str, libraries: &[&str]) -> Outcome<PathBuf> {
    let dir = target_dir()?.join("peers");
    std::fs::create_dir_all(&dir)?;
    let program = dir.join(source);
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(source).with_extension("c"))
        .args(libraries.iter().map(|library| format!("-l{library}")))
        .output()
        .map_err(|error| format!("no C compiler `cc`: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().find(|line| line.contains("error")).unwrap_or("cc failed");
        return Err(format!("{source}.c: {first}").into());
    }
    Ok(program)
}

/// The `target` this program was built into.
fn target_dir() -> Outcome<PathBuf> {
    let own = env::current_exe()?;
    Ok(own.ancestors().nth(2).ok_or("this program is not in a target directory")?.to_owned())
}

/// Where processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pin {
    /// Generator and server share a core, taking turns: the server finds the whole pass waiting
    Same,
    /// The generator on core 0, the server on core 1
    Split,
}

/// A running server; dropping it ends the process.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(built: &Built, pin: Pin) -> Outcome<Self> {
        let log = target_dir()?.join("peers").join(built.name).with_extension("log");
        std::fs::create_dir_all(log.parent().expect("it was joined just now"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new(&built.program)
            .args(&built.args)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| format!("{}: {error}", built.program.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let server = Self { child, port };
        let first = BufReader::new(stdout).lines().next().transpose()?;
        let said = std::fs::read_to_string(&log)?;
        if let Some(backend) = built.backend.filter(|backend| !said.contains(*backend)) {
            return Err(format!("{} runs something other than {backend}: {}", built.name, said.trim()).into());
        }
        if first.as_deref() != Some("ready") {
            return Err(format!("{} did not say `ready` but: {}", built.name, said.trim()).into());
        }
        match pin {
            Pin::Split => kernel::pin(Some(server.pid()), 1)?,
            Pin::Same => kernel::make_batch(server.pid())?,
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
