//! The state that all handlers of a msg server share, and its two tables: who is
//! signed in on which connections, and what is in flight. What belongs to a single
//! client connection alone lives in its handler instead.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::{Conn, Context, Token};
use tt_common::link::{CallError, Link};
use tt_common::log_limit::LogLimit;
use tt_proto::im::base_define::ClientType;
use tt_proto::{Attach, Body};

use crate::account::CardNotices;
use crate::catch_up::CatchUp;
use crate::config::Config;
use crate::conversation::Lanes;
use crate::drain::Drain;
use crate::fan_out::Groups;
use crate::kick::SignIn;
use crate::message::{MessageIds, Outgoing};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::presence::Presence;
use crate::rates::Rates;
use crate::recent::Delivered;

/// The state of one msg server: the `S` of its reactor.
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) clients: Clients,
    pub(crate) peers: Peers,
    /// The order of messages on their way to the store.
    pub(crate) lanes: Lanes<Outgoing, Link<Server>>,
    pub(crate) delivered: Delivered,
    pub(crate) catch_up: CatchUp,
    pub(crate) presence: Presence,
    /// Who is in which group, as far as it matters now.
    pub(crate) groups: Groups,
    pub(crate) message_ids: MessageIds,
    pub(crate) card_notices: CardNotices,
    /// What addresses and users may do in all their connections together.
    pub(crate) rates: Rates,
    /// Clients whose name and password are being checked.
    pub(crate) signing_in: usize,
    /// Calls to db-proxy and route that wait for their reply.
    pub(crate) calls: usize,
    pub(crate) drain: Drain,
    /// Keeps what clients do from filling the log.
    pub(crate) noise: LogLimit,
}

impl Server {
    pub(crate) fn new(config: Config, metrics: Metrics) -> Self {
        Self {
            config,
            metrics,
            clients: Clients::default(),
            peers: Peers::default(),
            lanes: Lanes::new(),
            delivered: Delivered::new(),
            catch_up: CatchUp::default(),
            presence: Presence::default(),
            groups: Groups::new(),
            message_ids: MessageIds::new(),
            card_notices: CardNotices::default(),
            rates: Rates::new(),
            signing_in: 0,
            calls: 0,
            drain: Drain::default(),
            noise: LogLimit::new(NOISE_INTERVAL),
        }
    }

    /// Whether another client would be over the limit. Sign-ins under way count, so
    /// that a burst of them cannot pass it together.
    pub(crate) fn is_full(&self) -> bool {
        self.drain.is_on() || self.clients.connections() + self.signing_in >= self.config.max_connections
    }

    /// Whether clients can sign in: a login, a route and a db link are open.
    pub(crate) fn can_serve(&self) -> bool {
        self.peers.login.usable() > 0 && self.peers.route.usable() > 0 && self.peers.db.is_open()
    }

    /// A call across `link`, with the server's time limit, that a stop waits for.
    pub(crate) fn call<Q: Body + Attach, R: Body>(
        &mut self,
        cx: &mut Context<Self>,
        link: &Link<Self>,
        seq: u16,
        request: Q,
        then: impl FnOnce(&mut Self, &mut Context<Self>, Result<R, CallError>) + 'static,
    ) {
        self.calls += 1;
        link.call(cx, seq, request, self.config.timeouts.call(), move |server: &mut Self, cx, reply| {
            then(server, cx, reply);
            server.calls -= 1;
            server.drain_on(cx);
        });
    }
}

/// One line about clients' misbehaviour in so long.
const NOISE_INTERVAL: Duration = Duration::from_millis(200);

/// The class of a client type: a user has at most one connection of each class.
/// Old values compare as `(a ^ b) >> 4 == 0` (spec/wire.md §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Pc,
    Mobile,
}

impl Class {
    pub(crate) fn of(client_type: ClientType) -> Self {
        Self::of_number(client_type as i32)
    }

    /// The class of a number that may be no known type.
    pub(crate) fn of_number(client_type: i32) -> Self {
        if client_type >> 4 == 0 { Self::Pc } else { Self::Mobile }
    }
}

/// A signed-in connection, as others see it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) conn: Conn,
    pub(crate) client_type: ClientType,
    /// Told to leave: it gets nothing more and closes within the grace time.
    pub(crate) kicked: bool,
    /// When it signed in, for other servers and by our own clock.
    pub(crate) signed_in: SignIn,
    pub(crate) since: Instant,
    /// Its user is away.
    pub(crate) away: bool,
    /// It is told of phones and absence, and only about users it has asked for (capability 11).
    pub(crate) details: bool,
    /// Those users, in ascending order.
    pub(crate) watched: Vec<u32>,
    pub(crate) copies: Copies,
    /// What the client calls itself; none if it does not say.
    pub(crate) name: Option<Rc<str>>,
}

impl Device {
    pub(crate) fn new(conn: Conn, client_type: ClientType, signed_in: SignIn, since: Instant) -> Self {
        Self {
            conn,
            client_type,
            kicked: false,
            signed_in,
            since,
            away: false,
            details: false,
            watched: Vec::new(),
            copies: Copies::default(),
            name: None,
        }
    }

    pub(crate) fn class(&self) -> Class {
        Class::of(self.client_type)
    }

    /// Queues an encoded PDU, which all that get it share.
    pub(crate) fn send(&self, metrics: &Metrics, pdu: &Bytes) {
        metrics.send(&self.conn, pdu.clone());
    }
}

/// A user with at least one signed-in connection.
#[derive(Debug)]
pub(crate) struct User {
    /// One of each class, and those that were kicked a moment ago.
    devices: Vec<Device>,
}

/// Everybody who is signed in. A user is known as long as one of his connections is.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    users: HashMap<u32, User>,
    connections: usize,
}

impl Clients {
    /// Signed-in connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn add(&mut self, user: u32, device: Device) {
        // Nearly everybody has one: room for one, and more when they come.
        self.users.entry(user).or_insert_with(|| User { devices: Vec::with_capacity(1) }).devices.push(device);
        self.connections += 1;
    }

    /// Takes a connection out; with its last one the user goes.
    pub(crate) fn remove(&mut self, user: u32, token: Token) -> Option<Device> {
        let Entry::Occupied(mut entry) = self.users.entry(user) else { return None };
        let devices = &mut entry.get_mut().devices;
        let place = devices.iter().position(|device| device.conn.id() == token)?;
        let device = devices.swap_remove(place);
        if devices.is_empty() {
            entry.remove();
        }
        self.connections -= 1;
        Some(device)
    }

    /// The connections of a user that may be sent something: not the kicked ones.
    pub(crate) fn devices_mut(&mut self, user: u32) -> impl Iterator<Item = &mut Device> {
        let devices = self.users.get_mut(&user).map(|user| user.devices.as_mut_slice()).unwrap_or_default();
        devices.iter_mut().filter(|device| !device.kicked)
    }

    /// Those of everybody.
    pub(crate) fn all_devices(&self) -> impl Iterator<Item = (u32, &Device)> {
        self.users.iter().flat_map(|(&user, entry)| entry.devices.iter().map(move |device| (user, device)))
    }
}

/// For how long a copy may stay unacknowledged before it counts as missed.
const COPY_TIMEOUT: Duration = Duration::from_secs(15);
/// Copies of which a connection's acknowledgement is awaited.
const MAX_COPIES: usize = 1_024;

/// Copies sent to a connection that it has not acknowledged: statistics only,
/// nothing is sent again (spec/flows.md §5.4). Expiry is noticed at the next use, so
/// a quiet connection costs no timer.
#[derive(Debug, Default)]
pub(crate) struct Copies(VecDeque<Copy>);

#[derive(Debug)]
struct Copy {
    msg_id: u32,
    from: u32,
    sent: Instant,
}

impl Copies {
    /// Notes a copy; returns how many older ones are given up.
    pub(crate) fn push(&mut self, msg_id: u32, from: u32, now: Instant) -> usize {
        let mut missed = self.expire(now);
        if self.0.len() == MAX_COPIES {
            self.0.pop_front();
            missed += 1;
        }
        self.0.push_back(Copy { msg_id, from, sent: now });
        missed
    }

    /// The client has the copy. Returns whether one was awaited.
    pub(crate) fn acknowledge(&mut self, msg_id: u32, from: u32) -> bool {
        let place = self.0.iter().position(|copy| (copy.msg_id, copy.from) == (msg_id, from));
        place.and_then(|place| self.0.remove(place)).is_some()
    }

    /// Drops what is over its time, from the oldest, and counts it.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let expired = self.0.iter().take_while(|copy| now.duration_since(copy.sent) >= COPY_TIMEOUT).count();
        self.0.drain(..expired);
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_mac_are_one_class_and_phones_another() {
        assert_eq!(Class::of(ClientType::ClientTypeWindows), Class::of(ClientType::ClientTypeMac));
        assert_eq!(Class::of(ClientType::ClientTypeIos), Class::of(ClientType::ClientTypeAndroid));
        assert_ne!(Class::of(ClientType::ClientTypeMac), Class::of(ClientType::ClientTypeIos));
    }

    #[test]
    fn a_copy_is_acknowledged_once_by_id_and_sender() {
        let now = Instant::now();
        let mut copies = Copies::default();
        copies.push(5, 1, now);
        copies.push(5, 2, now);
        assert!(!copies.acknowledge(6, 1));
        assert!(copies.acknowledge(5, 2));
        assert!(!copies.acknowledge(5, 2));
        assert!(copies.acknowledge(5, 1));
    }

    #[test]
    fn copies_are_given_up_after_fifteen_seconds_and_never_pile_up() {
        let now = Instant::now();
        let mut copies = Copies::default();
        copies.push(1, 1, now);
        copies.push(2, 1, now + Duration::from_secs(1));
        assert_eq!(copies.expire(now + Duration::from_secs(15)), 1);
        for id in 0..MAX_COPIES as u32 {
            let missed = copies.push(id, 9, now + Duration::from_secs(2));
            assert_eq!(missed, usize::from(id as usize == MAX_COPIES - 1));
        }
    }
}
