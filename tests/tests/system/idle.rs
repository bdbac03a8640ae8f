//! A system that nobody uses costs nothing: no polling tick, only the heartbeats of the links.
//! Judged from outside, by the system calls of one minute.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    process::{Command, Stdio},
};

use tt_tests::{Dev, Home, report};

/// Heartbeats leave each link end every five seconds and arrive as often. A wait and a read, a
/// wait and a write: 48 calls in a minute, and a few for what the links do besides.
const CALLS_PER_LINK_END: usize = 60;

/// One system call as strace wrote it.
struct Call<'a> {
    at: f64,
    text: &'a str,
}

impl Call<'_> {
    fn is_wait(&self) -> bool {
        self.text.starts_with("epoll_wait") || self.text.starts_with("epoll_pwait")
    }

    /// A wait that ended without any event.
    fn ended_empty(&self) -> bool {
        self.is_wait() && self.text.contains(") = 0")
    }

    /// How long a wait was to last, in milliseconds; -1 for ever.
    fn timeout(&self) -> i64 {
        let arguments = self.text.split(") = ").next().unwrap_or_default();
        let last = arguments.rsplit(", ").next().and_then(|timeout| timeout.parse().ok());
        last.unwrap_or_else(|| panic!("a wait without a timeout in milliseconds: {}", self.text))
    }
}

/// Calls by thread id, in order of time, without what the attaching itself interrupts.
fn by_thread(trace: &str) -> BTreeMap<u32, Vec<Call<'_>>> {
    let mut threads: BTreeMap<u32, Vec<Call<'_>>> = BTreeMap::new();
    for line in trace.lines() {
        let mut words = line.splitn(3, ' ').filter(|word| !word.is_empty());
        let (Some(tid), Some(at)) = (words.next(), words.next()) else { continue };
        let (Ok(tid), Ok(at)) = (tid.parse(), at.parse()) else { continue };
        let text = words.next().unwrap_or_default().trim_start();
        // A call that another thread's line interrupted is written in two halves: the second one
        // carries the result. A blocked call is shown when strace attaches and when it leaves.
        if text.contains("<unfinished ...>") || text.starts_with("strace:") {
            continue;
        }
        let text = text.strip_prefix("<... ").unwrap_or(text);
        if text.starts_with("restart_syscall") || text.contains("<detached ...>") {
            continue;
        }
        threads.entry(tid).or_default().push(Call { at, text });
    }
    threads
}

/// How many ends of server links each role's thread holds, by the process's own connections.
fn link_ends(dev: &Dev) -> HashMap<&'static str, usize> {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", dev.server.pid())).expect("proc");
    let established = |listener: &str| {
        let local = format!("0100007F:{:04X}", dev.address(listener).port());
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|columns| columns.len() > 3 && columns[1] == local && columns[3] == "01")
            .count()
    };
    let accepted =
        [("login", established("login_msg")), ("route", established("route")), ("db-proxy", established("db_proxy"))];
    let dialled = accepted.iter().map(|(_, count)| count).sum();
    accepted.into_iter().chain([("msg", dialled)]).collect()
}

#[test]
fn an_idle_minute_has_heartbeats_and_nothing_else() {
    let home = Home::new();
    let dev = home.start();
    let pid = dev.server.pid();
    let names: HashMap<u32, String> = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("proc")
        .map(|entry| {
            let path = entry.expect("proc").path();
            let tid = path.file_name().and_then(|tid| tid.to_str()?.parse().ok()).expect("a tid");
            (tid, fs::read_to_string(path.join("comm")).expect("proc").trim().to_owned())
        })
        .collect();
    let ends = link_ends(&dev);
    assert!(ends.values().all(|ends| *ends > 0), "every role has a link: {ends:?}");

    let trace = home.path("trace");
    let strace = Command::new("timeout")
        .args(["--signal=INT", "60", "strace", "-f", "-ttt", "-e", "trace=all", "-o"])
        .arg(&trace)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::piped())
        .output();
    let said = match &strace {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let trace = fs::read_to_string(&trace).unwrap_or_default();
    if trace.is_empty() && !said.contains("attached") {
        return report::skipped("an_idle_minute_has_heartbeats_and_nothing_else", said.trim());
    }

    for (tid, calls) in by_thread(&trace) {
        let name = names.get(&tid).map_or("a new thread", String::as_str);
        let listing = || {
            let lines: Vec<_> = calls.iter().map(|call| format!("{:.6} {}", call.at, call.text)).collect();
            lines.join("\n")
        };
        let allowed = ends.get(name).map_or(0, |ends| ends * CALLS_PER_LINK_END);
        report::say(&format!("idle minute: {name}: {} calls, at most {allowed}", calls.len()));
        assert!(calls.len() <= allowed, "{name}:\n{}", listing());
        for pair in calls.windows(2) {
            // Two waits in a row with nothing in between: a timer may have been due that found
            // nothing to do. When the second has next to no time left, the first ended too early.
            let in_vain = pair[0].ended_empty() && pair[1].is_wait() && (0..=2).contains(&pair[1].timeout());
            assert!(!in_vain, "{name} waited in vain at {:.6}:\n{}", pair[1].at, listing());
        }
    }
}

#[test]
fn the_judge_of_the_trace_sees_what_it_should() {
    let trace = "\
7 1.000000 restart_syscall(<... resuming interrupted epoll_wait ...>) = 0
7 1.000100 sendto(9, \"\", 16, MSG_NOSIGNAL, NULL, 0) = 16
7 1.000200 epoll_wait(3,  <unfinished ...>
8 1.000300 futex(0x1, FUTEX_WAIT) = ? <unavailable>
7 1.500000 <... epoll_wait resumed>[], 1024, 5000) = 0
7 1.600000 epoll_wait(3, [{events=EPOLLIN}], 1024, 900) = 1
7 1.700000 epoll_wait(3,  <detached ...>";
    let threads = by_thread(trace);
    let calls = &threads[&7];
    assert_eq!(calls.len(), 3, "one write, two waits");
    assert_eq!((calls[1].timeout(), calls[2].timeout()), (5000, 900));
    let empty: Vec<bool> = calls.iter().map(Call::ended_empty).collect();
    assert_eq!(empty, [false, true, false]);
    assert_eq!(threads[&8].len(), 1);
}
