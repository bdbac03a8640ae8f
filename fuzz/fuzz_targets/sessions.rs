//! The state machines of clients and links: sign-ins, kicks, commands of members and of servers in any order, whole,
//! twice and cut, with bodies that are protobuf with the right numbers in the wrong places. The servers run on
//! threads of this process; after each input everybody else must still be served.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tt_common::{ClusterConfig, RoleHandle};
use tt_db_proxy::store::{Accounts, NewUser, embedded::Embedded};
use tt_proto::command::{Party, TABLE};
use tt_proto::im::login::ImLoginReq;
use tt_proto::password::wire_digest;
use tt_proto::pdu::{self, PduRef};

/// Steps of one input; the rest of it is not looked at.
const MAX_STEPS: usize = 24;
const NAMES: [&str; 3] = ["ann", "ben", "cid"];
const PATIENCE: Duration = Duration::from_secs(10);
const HEARTBEAT: u16 = 0x0701;

/// Where the servers of this process are, and somebody who is signed in all the time.
struct World {
    msg: SocketAddr,
    /// The ports for msg servers, of login, route and db-proxy.
    links: [SocketAddr; 3],
    bystander: Wire,
    _roles: Vec<RoleHandle>,
}

/// A blocking connection that reads whole PDUs.
struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("above zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("above zero");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, input: Vec::new() }
    }

    /// The server may have closed: that is its right, and the next step's affair.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads until a PDU of that command comes; false at the end of the connection.
    fn wait_for(&mut self, command: u16) -> bool {
        loop {
            match pdu::frame_len(&self.input, pdu::MAX_ON_LINK).expect("servers send PDUs") {
                Some(len) => {
                    let frame: Vec<u8> = self.input.drain(..len).collect();
                    if PduRef::parse(&frame).expect("a whole PDU").header.command == command {
                        return true;
                    }
                }
                None => {
                    let mut chunk = [0; 16 * 1024];
                    match self.stream.read(&mut chunk) {
                        Ok(0) => return false,
                        Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return false,
                        Err(error) => panic!("nothing came for {command:#06x}: {error}"),
                    }
                }
            }
        }
    }

    fn sign_in(&mut self, name: &str, client_type: i32, capabilities: Option<u64>) -> bool {
        let request = ImLoginReq {
            user_name: name.to_owned(),
            password: wire_digest(name),
            online_status: 1,
            client_type,
            capabilities,
            ..ImLoginReq::default()
        };
        self.write(&pdu::encode(1, &request));
        // A connection that was signed in ignores it, hence the echo.
        self.write(&pdu::encode_raw(HEARTBEAT, 2, &[]));
        self.wait_for(HEARTBEAT)
    }
}

/// The store's directory, with the process id behind it.
const DIRECTORY: &str = "tt-fuzz-sessions-";

/// Removes the directories of runs that are over. The engine ends the process in more ways than one can catch, so
/// each run clears up after those before it, and at most one is left.
fn forget_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)).and_then(|id| id.parse::<u32>().ok());
        if process.is_some_and(|id| !PathBuf::from(format!("/proc/{id}")).exists()) {
            // Another run may be at the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl World {
    fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        forget_the_dead();
        let data = std::env::temp_dir().join(format!("{DIRECTORY}{}", std::process::id()));
        fs::create_dir_all(&data).expect("a temporary directory");
        let store = Embedded::open(&data).expect("a new store");
        for name in NAMES.iter().chain(&["dan"]) {
            let user = NewUser { name: (*name).to_owned(), wire_digest: wire_digest(name), ..NewUser::default() };
            // Another run of the same process id may have left it.
            let _ = store.add_user(&user);
        }
        drop(store);
        let legacy_addresses = vec![Ipv4Addr::LOCALHOST.into()];
        let cluster = ClusterConfig { secret_file: PathBuf::new(), legacy_peers: true, legacy_addresses };

        let config = tt_db_proxy::Config { data, cluster: cluster.clone(), ..tt_db_proxy::Config::default() };
        let config = tt_db_proxy::Config { listen: any, metrics_listen: any, ..config };
        let listeners = config.bind().expect("free ports");
        let db = listeners.links.local_addr().expect("bound");
        let mut roles = vec![tt_db_proxy::spawn(config, listeners).expect("a thread")];

        let config = tt_route::Config { listen: any, metrics_listen: any, ..tt_route::Config::default() };
        let config = tt_route::Config { cluster: cluster.clone(), ..config };
        let listeners = config.bind().expect("free ports");
        let route = listeners.links.local_addr().expect("bound");
        roles.push(tt_route::spawn(config, listeners).expect("a thread"));

        let config = tt_login::Config { http_listen: any, client_listen: any, ..tt_login::Config::default() };
        let config = tt_login::Config { msg_listen: any, metrics_listen: any, cluster: cluster.clone(), ..config };
        let listeners = config.bind().expect("free ports");
        let login = listeners.msg.local_addr().expect("bound");
        roles.push(tt_login::spawn(config, listeners).expect("a thread"));

        let mut config = tt_msg::Config { listen: any, metrics_listen: any, cluster, ..tt_msg::Config::default() };
        config.login_servers = vec![login];
        config.route_servers = vec![route];
        config.db_proxies = vec![db];
        config.timeouts.kick_grace_ms = 20;
        config.timeouts.presence_ms = 5;
        let listeners = config.bind().expect("free ports");
        let msg = listeners.clients.local_addr().expect("bound");
        roles.push(tt_msg::spawn(config, listeners).expect("a thread"));
        for role in &roles {
            role.wait_ready(PATIENCE).expect("it serves");
        }
        let mut bystander = Wire::connect(msg);
        assert!(bystander.sign_in("dan", 1, None));
        Self { msg, links: [login, route, db], bystander, _roles: roles }
    }

    /// The store and route still answer somebody who has no part in it.
    fn assert_lives(&mut self) {
        for (request, reply) in [(0x0307, 0x0308), (0x020a, 0x020b)] {
            self.bystander.write(&pdu::encode_raw(request, 3, &[]));
            if !self.bystander.wait_for(reply) {
                // A rogue msg server may ask for its place: then it can come back.
                self.bystander = Wire::connect(self.msg);
                assert!(self.bystander.sign_in("dan", 1, None), "nobody can sign in");
                return;
            }
        }
    }
}

/// A protobuf body: known and unknown field numbers, ids that exist and that do not, texts of all kinds.
fn body(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for _ in 0..u.int_in_range(0..=10)? {
        let number: u32 = match u.int_in_range(0..=15_u8)? {
            low @ 0..=11 => u32::from(low) + 1,
            12 => 20,
            _ => 100 + u.int_in_range(0..=4)?,
        };
        if u.ratio(2, 3)? {
            varint(&mut body, (number << 3).into());
            let ids = [0, 1, 2, 3, 4, 5, 17, 18, 77, 999_999, u64::from(u32::MAX), u64::MAX];
            let value = if u.ratio(7, 8)? { *u.choose(&ids)? } else { u.arbitrary()? };
            varint(&mut body, value);
        } else {
            varint(&mut body, (number << 3 | 2).into());
            let text = match u.int_in_range(0..=4_u8)? {
                0 => Vec::new(),
                1 => b"Q86LjI5C0w5zckkEFxEXrg==".to_vec(),
                2 => vec![u.arbitrary()?; u.int_in_range(0..=5_000)?],
                3 => self::body_of_ids(u)?,
                _ => u.bytes(u.len().min(16))?.to_vec(),
            };
            varint(&mut body, text.len() as u64);
            body.extend(text);
        }
    }
    Ok(body)
}

/// A message within a message, or a packed list.
fn body_of_ids(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut ids = Vec::new();
    for number in 0..u.int_in_range(0..=6_u64)? {
        varint(&mut ids, (number + 1) << 3);
        varint(&mut ids, u.int_in_range(0..=5)?);
    }
    Ok(ids)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn command(u: &mut Unstructured<'_>, from: Party, to: Party) -> Result<u16> {
    if u.ratio(1, 16)? {
        return u.arbitrary();
    }
    let rows: Vec<u16> = TABLE.iter().filter(|row| row.allows(from, to)).map(|row| row.command.id()).collect();
    u.choose(&rows).copied()
}

fn play(world: &World, u: &mut Unstructured<'_>) -> Result<()> {
    let mut clients: [Option<Wire>; NAMES.len()] = [const { None }; NAMES.len()];
    let mut links: [Option<Wire>; 3] = [const { None }; 3];
    for _ in 0..MAX_STEPS {
        if u.is_empty() {
            break;
        }
        let who = u.int_in_range(0..=2)?;
        match u.int_in_range(0..=11_u8)? {
            // Comes, or comes again, which kicks.
            0 | 1 => {
                let mut client = Wire::connect(world.msg);
                let client_type = *u.choose(&[1, 2, 0x11, 0x12])?;
                let capabilities = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
                client.sign_in(NAMES[who], client_type, capabilities);
                clients[who] = Some(client);
            }
            2 => clients[who] = None,
            3 => links[who] = None,
            step @ 4..=8 => {
                let frame = pdu::encode_raw(command(u, Party::Client, Party::Msg)?, u.arbitrary()?, &body(u)?);
                let client = clients[who].get_or_insert_with(|| Wire::connect(world.msg));
                if step == 4 {
                    client.write(&frame[..u.int_in_range(0..=frame.len())?]);
                } else {
                    client.write(&frame);
                }
                if step == 5 {
                    client.write(&frame);
                }
            }
            _ => {
                let to = [Party::Login, Party::Route, Party::DbProxy][who];
                let frame = pdu::encode_raw(command(u, Party::Msg, to)?, u.arbitrary()?, &body(u)?);
                links[who].get_or_insert_with(|| Wire::connect(world.links[who])).write(&frame);
            }
        }
    }
    Ok(())
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::start);
        // An input that ends in the middle of a step has taken the steps before it.
        let _ = play(world, &mut Unstructured::new(input));
        world.assert_lives();
    });
});
