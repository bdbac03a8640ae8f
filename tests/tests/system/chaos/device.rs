//! One device of a chaos run: it signs in wherever it can, takes in what it has missed, sends again what nobody has
//! answered, and talks on. Everything that it does and sees goes into the history.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tt_proto::im::message;
use tt_tests::{
    Account, Class, Client, Ended, PATIENCE, Pdu, Random, command,
    history::{Conversation, Event, History, Row, SessionId},
    pack,
};

/// Messages of one device that are not answered yet.
const WINDOW: usize = 6;
/// A device that gets its answers at once sends as fast as this.
const PACE: Duration = Duration::from_millis(12);
/// How long a device waits for one PDU before it looks at its own affairs.
const LOOK: Duration = Duration::from_millis(4);
/// A message without answer for so long is sent again: longer than a server waits for another.
const PATIENT: Duration = Duration::from_secs(12);
/// Rows of a page of history.
const PAGE: u32 = 100;
/// What is sent between two read marks.
const BETWEEN_MARKS: u32 = 25;
/// A negative answer is understood (1), read marks are exact (12).
const CAPABILITIES: u64 = 1 << 1 | 1 << 12;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Devices talk.
    Talking,
    /// They say nothing new.
    Finishing,
    /// They leave.
    Over,
}

/// What the devices of a run share.
pub(crate) struct World {
    pub(crate) history: History,
    stage: Mutex<Stage>,
    sessions: AtomicU64,
    pages: AtomicU64,
    /// Messages sent to each msg server and not answered.
    pub(crate) in_flight: [AtomicUsize; 3],
    /// Questions to each login server that are not answered.
    pub(crate) asked: [AtomicUsize; 2],
    /// Devices that are signed in and wait for nothing.
    at_rest: Vec<AtomicBool>,
    waiting_since: Mutex<Option<Instant>>,
}

impl World {
    pub(crate) fn new(devices: usize) -> Arc<Self> {
        Arc::new(Self {
            history: History::new(),
            stage: Mutex::new(Stage::Talking),
            sessions: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            in_flight: Default::default(),
            asked: Default::default(),
            at_rest: (0..devices).map(|_| AtomicBool::new(false)).collect(),
            waiting_since: Mutex::new(None),
        })
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().expect("as below")
    }

    pub(crate) fn set(&self, stage: Stage) {
        *self.stage.lock().expect("nobody panics with it") = stage;
    }

    /// Ends the run when the value is dropped.
    pub(crate) fn over(&self) -> Over<'_> {
        Over(self)
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest.iter().all(|rests| rests.load(Ordering::SeqCst))
    }

    /// Whether the same stage has lasted so long that waiting on helps nobody.
    pub(crate) fn has_waited_long(&self) -> bool {
        let mut began = self.waiting_since.lock().expect("as above");
        let long = began.get_or_insert_with(Instant::now).elapsed() > PATIENCE / 2;
        if long {
            *began = None;
        }
        long
    }

    /// Asks the login servers for msg servers, over and over, as clients do.
    pub(crate) fn discover(&self, login: &[SocketAddr; 2]) {
        for place in [0, 1].into_iter().cycle() {
            if self.stage() != Stage::Talking {
                return;
            }
            self.asked[place].fetch_add(1, Ordering::SeqCst);
            // A killed server answers nothing.
            let _ = ask(login[place]);
            self.asked[place].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

pub(crate) struct Over<'a>(&'a World);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set(Stage::Over);
    }
}

fn ask(login: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&login, LOOK * 50)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /msg_server HTTP/1.1\r\nHost: {login}\r\nConnection: close\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new())
}

/// A message that nobody has answered.
struct Unanswered {
    to: Conversation,
    text: Arc<str>,
    /// When it last left.
    left: Instant,
}

/// What has been shown of a conversation: everything up to `floor`, and some above it.
#[derive(Default)]
struct Seen {
    floor: u32,
    above: BTreeSet<u32>,
}

impl Seen {
    fn add(&mut self, msg_id: u32) {
        if msg_id > self.floor {
            self.above.insert(msg_id);
        }
        while self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
    }
}

/// What a request waits for.
enum Wait {
    Ack(Arc<str>),
    Page { page: u64, conversation: Conversation, begin: u32, asked: Instant },
    Unread(Instant),
}

pub(crate) struct Device {
    number: u32,
    account: Account,
    class: Class,
    doors: Vec<SocketAddr>,
    conversations: Vec<Conversation>,
    talks: bool,
    random: Random,
    world: Arc<World>,
    seen: HashMap<Conversation, Seen>,
    /// In the order in which they first left.
    unanswered: VecDeque<Unanswered>,
    said: u32,
}

/// A device on one connection.
struct Session<'a> {
    device: &'a mut Device,
    client: Client,
    id: SessionId,
    place: usize,
    waits: HashMap<u16, Wait>,
    /// Acks that this connection waits for.
    acks: usize,
    until_mark: u32,
}

impl Device {
    #[allow(clippy::too_many_arguments)] // each is said once, where the devices are made
    pub(crate) fn new(
        number: u32,
        account: Account,
        class: Class,
        doors: &[SocketAddr],
        conversations: Vec<Conversation>,
        talks: bool,
        seed: u64,
        world: &Arc<World>,
    ) -> Self {
        Self {
            number,
            account,
            class,
            doors: doors.to_vec(),
            conversations,
            talks,
            random: Random::of(seed >> 1),
            world: Arc::clone(world),
            seen: HashMap::new(),
            unanswered: VecDeque::new(),
            said: 0,
        }
    }

    /// Lives until the run is over.
    pub(crate) fn run(mut self) {
        while self.world.stage() != Stage::Over {
            let place = self.random.between(0, self.doors.len() as u64 - 1) as usize;
            let Ok(mut client) = Client::try_connect(self.doors[place]) else { continue };
            if !client.try_sign_in(&self.account, self.class, CAPABILITIES) {
                // Refused, or cut off: a moment for the servers to find each other.
                let _ = client.next(LOOK * 5);
                continue;
            }
            let id = self.world.sessions.fetch_add(1, Ordering::SeqCst);
            let (number, world) = (self.number, Arc::clone(&self.world));
            world.history.note(Event::Came { session: id, device: number, user: self.account.id });
            let mut session = Session {
                device: &mut self,
                client,
                id,
                place,
                waits: HashMap::new(),
                acks: 0,
                until_mark: BETWEEN_MARKS,
            };
            // The connection may end at any write.
            let _ = session.live();
            world.at_rest[number as usize].store(false, Ordering::SeqCst);
            world.in_flight[place].fetch_sub(session.acks, Ordering::SeqCst);
            if world.stage() != Stage::Over {
                world.history.note(Event::Left { session: id });
            }
        }
    }
}

/// The connection has ended.
struct Lost;

impl Session<'_> {
    fn live(&mut self) -> Result<(), Lost> {
        for conversation in self.device.conversations.clone() {
            self.ask_page(conversation, 0)?;
        }
        self.send_again(Duration::ZERO)?;
        let mut next = Instant::now();
        loop {
            let stage = self.device.world.stage();
            if stage == Stage::Over {
                return Ok(());
            }
            let (now, room) = (Instant::now(), self.device.unanswered.len() < WINDOW);
            if stage == Stage::Talking && self.device.talks && room && now >= next {
                next = now + PACE;
                self.say()?;
            }
            let rests = stage == Stage::Finishing && self.device.unanswered.is_empty() && self.waits.is_empty();
            self.device.world.at_rest[self.device.number as usize].store(rests, Ordering::SeqCst);
            match self.client.next(LOOK) {
                Ok(pdu) => self.take_in(&pdu)?,
                Err(Ended::Closed) => return Err(Lost),
                Err(Ended::TimedOut) => {
                    self.send_again(PATIENT)?;
                    self.ask_again()?;
                }
            }
        }
    }

    fn write(&mut self, command: u16, body: &impl prost::Message, wait: Option<Wait>) -> Result<(), Lost> {
        let seq = self.client.seq();
        if let Some(wait) = wait {
            if matches!(wait, Wait::Ack(_)) {
                self.acks += 1;
                self.device.world.in_flight[self.place].fetch_add(1, Ordering::SeqCst);
            }
            self.waits.insert(seq, wait);
        }
        self.client.write(&pack(command, seq, &body.encode_to_vec())).map_err(|_| Lost)
    }

    /// Something new, to somebody.
    fn say(&mut self) -> Result<(), Lost> {
        let device = &mut *self.device;
        let to = device.random.between(0, device.conversations.len() as u64 - 1) as usize;
        device.said += 1;
        let text: Arc<str> = format!("{} {}", device.number, device.said).into();
        let to = device.conversations[to];
        device.unanswered.push_back(Unanswered { to, text: Arc::clone(&text), left: Instant::now() });
        self.send(to, text)?;
        self.until_mark -= 1;
        if self.until_mark == 0 {
            self.until_mark = BETWEEN_MARKS;
            self.mark(to)?;
        }
        Ok(())
    }

    fn send(&mut self, to: Conversation, text: Arc<str>) -> Result<(), Lost> {
        let (kind, session) = to.session(self.device.account.id);
        let message = match kind {
            1 => self.client.text_message(session, &text),
            _ => self.client.group_message(session, &text),
        };
        let id = format!("{}-{text}", self.device.account.id);
        let message = message::ImMsgData { client_msg_id: Some(id), ..message };
        self.device.world.history.note(Event::Sent { session: self.id, to, text: Arc::clone(&text) });
        self.write(command::MSG_DATA, &message, Some(Wait::Ack(text)))
    }

    /// What nobody has answered for so long, under the same ids and in the same order.
    fn send_again(&mut self, after: Duration) -> Result<(), Lost> {
        let now = Instant::now();
        let late = |message: &&mut Unanswered| now.duration_since(message.left) >= after;
        let late: Vec<(Conversation, Arc<str>)> = self
            .device
            .unanswered
            .iter_mut()
            .filter(late)
            .map(|message| {
                message.left = now;
                (message.to, Arc::clone(&message.text))
            })
            .collect();
        late.into_iter().try_for_each(|(to, text)| self.send(to, text))
    }

    fn ask_page(&mut self, conversation: Conversation, begin: u32) -> Result<(), Lost> {
        let page = self.device.world.pages.fetch_add(1, Ordering::SeqCst);
        let (session_type, session_id) = conversation.session(self.device.account.id);
        let question = message::ImGetMsgListReq {
            user_id: self.device.account.id,
            session_type,
            session_id,
            msg_id_begin: begin,
            msg_cnt: PAGE,
            attach_data: None,
        };
        let asked = Event::Asked { session: self.id, page, conversation, begin, count: PAGE };
        self.device.world.history.note(asked);
        self.write(
            command::MSG_LIST_REQUEST,
            &question,
            Some(Wait::Page { page, conversation, begin, asked: Instant::now() }),
        )
    }

    /// Asks once more for what has not been answered. A question whose link was lost has no answer.
    fn ask_again(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        let late = |asked: &Instant| now.duration_since(*asked) >= PATIENT;
        let mut pages = Vec::new();
        self.waits.retain(|_, wait| match wait {
            Wait::Page { conversation, begin, asked, .. } if late(asked) => {
                pages.push((*conversation, *begin));
                false
            }
            Wait::Unread(asked) => !late(asked),
            _ => true,
        });
        pages.into_iter().try_for_each(|(conversation, begin)| self.ask_page(conversation, begin))
    }

    /// Says that everything without a hole was read, and asks what is unread.
    fn mark(&mut self, conversation: Conversation) -> Result<(), Lost> {
        let (session_type, session_id) = conversation.session(self.device.account.id);
        let up_to = self.device.seen.get(&conversation).map_or(0, |seen| seen.floor);
        let user_id = self.device.account.id;
        let mark = message::ImMsgDataReadAck { user_id, session_id, msg_id: up_to, session_type, exact: None };
        self.device.world.history.note(Event::Marked { session: self.id, conversation, up_to });
        self.write(command::MSG_READ_ACK, &mark, None)?;
        let question = message::ImUnreadMsgCntReq { user_id, attach_data: None };
        self.write(command::UNREAD_CNT_REQUEST, &question, Some(Wait::Unread(Instant::now())))
    }

    fn take_in(&mut self, pdu: &Pdu) -> Result<(), Lost> {
        match pdu.command {
            command::MSG_DATA => {
                let data: message::ImMsgData = pdu.decode();
                let row = self.row(data.msg_id, data.from_user_id, &data.msg_data);
                let conversation = match data.msg_type {
                    17 => Conversation::Group(data.to_session_id),
                    _ => Conversation::pair(data.from_user_id, data.to_session_id),
                };
                self.device.seen.entry(conversation).or_default().add(row.msg_id);
                self.note(Event::Delivered { session: self.id, conversation, row });
            }
            command::MSG_DATA_ACK => self.answered(pdu),
            command::MSG_LIST_RESPONSE => return self.page(pdu),
            command::UNREAD_CNT_RESPONSE => {
                self.waits.remove(&pdu.seq);
                let answer: message::ImUnreadMsgCntRsp = pdu.decode();
                let me = self.device.account.id;
                let of = |kind: i32, session: u32| match kind {
                    2 => Conversation::Group(session),
                    _ => Conversation::pair(me, session),
                };
                let counts = answer.unreadinfo_list.iter();
                let counts =
                    counts.map(|i| (of(i.session_type, i.session_id), i.unread_cnt, i.latest_msg_id)).collect();
                self.note(Event::Unread { session: self.id, counts });
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&self, event: Event) {
        self.device.world.history.note(event);
    }

    fn row(&self, msg_id: u32, from: u32, data: &[u8]) -> Row {
        Row { msg_id, from, text: self.client.open(msg_id, from, data).text.into() }
    }

    fn answered(&mut self, pdu: &Pdu) {
        let Some(Wait::Ack(text)) = self.waits.remove(&pdu.seq) else { return };
        self.acks -= 1;
        self.device.world.in_flight[self.place].fetch_sub(1, Ordering::SeqCst);
        let ack: message::ImMsgDataAck = pdu.decode();
        let place = self.device.unanswered.iter().position(|message| message.text == text);
        let message = place.and_then(|place| self.device.unanswered.remove(place));
        let session = self.id;
        if ack.msg_id == 0 {
            self.note(Event::Refused { session, text, result: ack.result.unwrap_or(0) });
            return;
        }
        if let Some(message) = message {
            self.device.seen.entry(message.to).or_default().add(ack.msg_id);
        }
        self.note(Event::Acked { session, text, msg_id: ack.msg_id });
    }

    /// A page of history; the next older one if it does not reach down to what is known.
    fn page(&mut self, pdu: &Pdu) -> Result<(), Lost> {
        let answer: message::ImGetMsgListRsp = pdu.decode();
        let Some(Wait::Page { page, conversation, .. }) = self.waits.remove(&pdu.seq) else { return Ok(()) };
        let rows: Vec<Row> =
            answer.msg_list.iter().map(|info| self.row(info.msg_id, info.from_session_id, &info.msg_data)).collect();
        let floor = self.device.seen.get(&conversation).map_or(0, |seen| seen.floor);
        let oldest = rows.last().map(|row| row.msg_id);
        let seen = self.device.seen.entry(conversation).or_default();
        for row in &rows {
            seen.add(row.msg_id);
        }
        self.note(Event::Page { page, rows });
        match oldest {
            Some(oldest) if oldest > floor + 1 => self.ask_page(conversation, oldest - 1),
            _ => Ok(()),
        }
    }
}
