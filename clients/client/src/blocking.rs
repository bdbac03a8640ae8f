//! A session for programs that think in straight lines: [`Client`] runs its own reactor on a
//! thread of its own and offers calls that wait, each with a deadline; [`Events`] is the other
//! direction. One [`Client`] may be used from many threads at once.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlib::{Context, Reactor, ReactorConfig, Remote};

use crate::request::{
    ChangeMembers, CreateGroup, Departments, FixedGroups, GroupsById, History, KickPc, LatestMsgId, Logout,
    MessagesById, QuietNights, RegisterPushToken, Request, SendText, SendVoice, ServerTime, Sessions, SetAvatar,
    SetQuietNights, SetSignature, ShieldGroup, Status, Unread, UsersById,
};
use crate::{
    Conversation, Department, Error, Event, Group, GroupChange, Message, Options, Peer, Presence, Sent, Session,
    Signal, User,
};

/// How many events may wait to be read. A program that lets more pile up has its session ended,
/// because a server could fill its memory otherwise; a program that wants none drops [`Events`].
const EVENTS_WAITING: usize = 65_536;

/// A signed-in session with blocking calls. Dropping it closes the session.
pub struct Client {
    remote: Remote<Host>,
    thread: Option<JoinHandle<()>>,
    me: User,
    request_timeout: Duration,
    ended: Ended,
}

/// What ended the session, once it has ended: the error of every later call.
type Ended = Arc<OnceLock<Error>>;

/// The state of a client's reactor.
struct Host {
    /// Set before the loop runs.
    session: Option<Session<Host>>,
    events: SyncSender<Event>,
    ended: Ended,
}

/// What happens in a session without having been asked for, in order.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Event>,
}

/// An answer that is still to come.
#[derive(Debug)]
pub struct Answer<T> {
    receiver: Receiver<Result<T, Error>>,
    ended: Ended,
}

impl Client {
    /// Signs in and returns when that is done, or when the first attempt has failed: at the
    /// latest after [`Options::login_timeout`]. With [`Options::reconnect`] later losses are
    /// repaired behind the scenes and show as [`Event::Offline`] and [`Event::Online`].
    ///
    /// # Errors
    /// Whatever kept the first attempt from succeeding.
    pub fn login(options: Options) -> Result<(Self, Events), Error> {
        let request_timeout = options.request_timeout;
        let (events, receiver) = mpsc::sync_channel(EVENTS_WAITING);
        let (ready, started) = mpsc::sync_channel(1);
        let ended = Ended::default();
        let thread = thread::Builder::new()
            .name("tt-client".to_owned())
            .spawn({
                let ended = Arc::clone(&ended);
                move || run(options, events, ended, &ready)
            })
            .map_err(|error| Error::Invalid(format!("cannot start a thread: {error}")))?;
        let remote = started.recv().unwrap_or(Err(Error::Closed))?;
        let mut client = Self { remote, thread: Some(thread), me: User::default(), request_timeout, ended };
        match receiver.recv() {
            Ok(Event::Online { me }) => {
                client.me = me;
                Ok((client, Events { receiver }))
            }
            Ok(Event::Offline { error, .. } | Event::Closed(error)) => Err(error),
            // Nothing else comes before these three.
            Ok(_) | Err(_) => Err(Error::Closed),
        }
    }

    /// The user's own card.
    pub fn me(&self) -> &User {
        &self.me
    }

    /// Starts to ask and returns at once, so that several requests are under way together.
    pub fn start<R>(&self, request: R, timeout: Duration) -> Answer<R::Output>
    where
        R: Request + Send,
        R::Output: Send,
    {
        self.start_with(|done| {
            move |session: &Session<Host>, cx: &mut Context<Host>| {
                session.ask(cx, request, timeout, move |_, _, result| done(result));
            }
        })
    }

    /// Asks and waits for the answer, at most `timeout`.
    pub fn ask_within<R>(&self, request: R, timeout: Duration) -> Result<R::Output, Error>
    where
        R: Request + Send,
        R::Output: Send,
    {
        self.start(request, timeout).wait()
    }

    /// Asks and waits for the answer, at most [`Options::request_timeout`].
    pub fn ask<R>(&self, request: R) -> Result<R::Output, Error>
    where
        R: Request + Send,
        R::Output: Send,
    {
        self.ask_within(request, self.request_timeout)
    }

    /// Sends a text and returns when the server has stored it.
    pub fn send_text(&self, to: impl Into<Peer>, text: &str) -> Result<Sent, Error> {
        self.ask(SendText::new(to, text)?)
    }

    /// Sends a recording of so many seconds and returns when the server has stored it.
    pub fn send_voice(&self, to: impl Into<Peer>, seconds: u32, recording: &[u8]) -> Result<Sent, Error> {
        self.ask(SendVoice::new(to, seconds, recording)?)
    }

    /// At most `count` messages of a conversation, newest first, from number `from_msg_id`
    /// downwards; 0 begins at the newest.
    pub fn history(&self, peer: impl Into<Peer>, from_msg_id: u32, count: u32) -> Result<Vec<Message>, Error> {
        self.ask(History { peer: peer.into(), from_msg_id, count })
    }

    /// Single messages of a conversation, newest first.
    pub fn messages_by_id(&self, peer: impl Into<Peer>, msg_ids: &[u32]) -> Result<Vec<Message>, Error> {
        self.ask(MessagesById { peer: peer.into(), msg_ids: msg_ids.to_vec() })
    }

    /// The newest message's number in a conversation, 0 if there is none.
    pub fn latest_msg_id(&self, peer: impl Into<Peer>) -> Result<u32, Error> {
        self.ask(LatestMsgId { peer: peer.into() })
    }

    /// The recent conversations, most recent first.
    pub fn sessions(&self) -> Result<Vec<Conversation>, Error> {
        self.ask(Sessions::default())
    }

    /// The conversations with unread messages.
    pub fn unread(&self) -> Result<Vec<Conversation>, Error> {
        self.ask(Unread)
    }

    /// The whole address book, without users who have left.
    pub fn users(&self) -> Result<Vec<User>, Error> {
        let timeout = self.request_timeout;
        let answer = self.start_with(|done| {
            move |session: &Session<Host>, cx: &mut Context<Host>| {
                session.users(cx, timeout, move |_, _, result| done(result));
            }
        });
        answer.wait()
    }

    /// Users by id; unknown ids are left out.
    pub fn users_by_id(&self, ids: &[u32]) -> Result<Vec<User>, Error> {
        self.ask(UsersById { ids: ids.to_vec() })
    }

    /// Who of these users is online, in the order asked.
    pub fn status(&self, ids: &[u32]) -> Result<Vec<(u32, Presence)>, Error> {
        self.ask(Status { ids: ids.to_vec() })
    }

    /// The departments of the address book.
    pub fn departments(&self) -> Result<Vec<Department>, Error> {
        self.ask(Departments::default())
    }

    /// The groups that the user is known to be in: the fixed ones, and those that somebody has
    /// written to. (The protocol lists no temporary group before its first message.)
    pub fn groups(&self) -> Result<Vec<Group>, Error> {
        let mut ids: Vec<u32> = self.ask(FixedGroups)?.into_iter().map(|(id, _)| id).collect();
        ids.extend(self.sessions()?.into_iter().filter_map(|session| match session.peer {
            Peer::Group(id) => Some(id),
            Peer::User(_) => None,
        }));
        ids.sort_unstable();
        ids.dedup();
        let mut groups = Vec::with_capacity(ids.len());
        for page in ids.chunks(GroupsById::MOST) {
            groups.extend(self.groups_by_id(page)?);
        }
        groups.sort_unstable_by_key(|group| group.id);
        Ok(groups)
    }

    /// Groups by id; unknown ones, and those that the user is not in, are left out.
    pub fn groups_by_id(&self, ids: &[u32]) -> Result<Vec<Group>, Error> {
        self.ask(GroupsById { groups: ids.iter().map(|id| (*id, 0)).collect() })
    }

    /// Makes a temporary group and returns its id. The user is a member only if named. Members
    /// learn of it by the first message to it.
    pub fn create_group(&self, name: &str, members: &[u32]) -> Result<u32, Error> {
        self.ask(CreateGroup { name: name.to_owned(), avatar: String::new(), members: members.to_vec() })
    }

    /// Adds members to a group.
    pub fn add_to_group(&self, group: u32, members: &[u32]) -> Result<GroupChange, Error> {
        self.ask(ChangeMembers { group, added: true, members: members.to_vec() })
    }

    /// Removes members from a group. Removing oneself is how to leave it.
    pub fn remove_from_group(&self, group: u32, members: &[u32]) -> Result<GroupChange, Error> {
        self.ask(ChangeMembers { group, added: false, members: members.to_vec() })
    }

    /// Holds a group's push notifications back for this user, or lets them through again.
    pub fn shield_group(&self, group: u32, on: bool) -> Result<(), Error> {
        self.ask(ShieldGroup { group, on })
    }

    /// The server's clock, in seconds since 1970.
    pub fn server_time(&self) -> Result<u32, Error> {
        self.ask(ServerTime)
    }

    /// Changes one's signature line; everybody is told.
    pub fn set_signature(&self, text: &str) -> Result<(), Error> {
        self.ask(SetSignature { text: text.to_owned() })
    }

    /// Changes the address of one's picture; everybody is told.
    pub fn set_avatar(&self, url: &str) -> Result<(), Error> {
        self.ask(SetAvatar { url: url.to_owned() })
    }

    /// Whether push notifications are held back at night.
    pub fn quiet_nights(&self) -> Result<bool, Error> {
        self.ask(QuietNights)
    }

    /// Sets whether push notifications are held back at night.
    pub fn set_quiet_nights(&self, on: bool) -> Result<(), Error> {
        self.ask(SetQuietNights { on })
    }

    /// Registers this device's push token; an empty one is forgotten. For mobile clients.
    pub fn register_push_token(&self, token: &str) -> Result<(), Error> {
        self.ask(RegisterPushToken { token: token.to_owned() })
    }

    /// Signs the user's desktop client out. For mobile clients.
    pub fn kick_pc(&self) -> Result<(), Error> {
        self.ask(KickPc)
    }

    /// Tells the server that a conversation was read up to `msg_id`. The protocol has no answer
    /// to this; the error only says that there was no connection.
    pub fn mark_read(&self, peer: impl Into<Peer>, msg_id: u32) -> Result<(), Error> {
        let peer = peer.into();
        self.tell(move |session| session.mark_read(peer, msg_id))
    }

    /// Sends a signal to another user's clients. The protocol has no answer to this; the error
    /// only says that there was no connection.
    pub fn signal(&self, to: u32, signal: Signal) -> Result<(), Error> {
        self.tell(move |session| session.signal(to, &signal))
    }

    /// Says something that has no answer; `say` tells whether there was a connection for it.
    fn tell(&self, say: impl FnOnce(&Session<Host>) -> bool + Send + 'static) -> Result<(), Error> {
        let answer = self.start_with(|done| {
            move |session: &Session<Host>, _: &mut Context<Host>| {
                done(if say(session) {
                    Ok(())
                } else {
                    Err(Error::Unreachable { what: "there is no connection at the moment; try again later".to_owned() })
                });
            }
        });
        answer.wait()
    }

    /// Logs out and ends the session. For a mobile client this also forgets the push token;
    /// dropping the client does not.
    pub fn logout(self) -> Result<(), Error> {
        self.ask(Logout)
    }

    /// Runs a job beside the session on the reactor's thread; the job calls what it is given.
    fn start_with<T, J>(&self, job: impl FnOnce(Box<dyn FnOnce(Result<T, Error>) + Send>) -> J) -> Answer<T>
    where
        T: Send + 'static,
        J: FnOnce(&Session<Host>, &mut Context<Host>) + Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        // Sending fails only if the caller has stopped waiting.
        let job = job(Box::new(move |result| drop(sender.try_send(result))));
        // A loop that has ended drops the job, and the sender with it: `wait` then sees that.
        let _ = self.remote.post(move |host, cx| {
            if let Some(session) = &host.session {
                job(session, cx);
            }
        });
        Answer { receiver, ended: Arc::clone(&self.ended) }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // If it cannot be posted the loop has ended already.
        let _ = self.remote.post(|host, cx| match &host.session {
            Some(session) => session.close(cx),
            None => cx.stop(),
        });
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

/// The reactor thread's whole life.
fn run(options: Options, events: SyncSender<Event>, ended: Ended, ready: &SyncSender<Result<Remote<Host>, Error>>) {
    let mut reactor = match Reactor::new(ReactorConfig::default()) {
        Ok(reactor) => reactor,
        Err(error) => {
            // The receiver waits for exactly this.
            let _ = ready.send(Err(Error::Invalid(format!("cannot start an event loop: {error}"))));
            return;
        }
    };
    let mut host = Host { session: None, events, ended };
    host.session = Some(Session::open(reactor.context(), options, Host::on_event));
    let _ = ready.send(Ok(reactor.context().remote()));
    if let Err(error) = reactor.run(&mut host) {
        log::error!("the client's event loop failed: {error}");
    }
}

impl Host {
    fn on_event(&mut self, cx: &mut Context<Host>, event: Event) {
        if let Event::Closed(error) = &event {
            // Set once: this event is the last.
            let _ = self.ended.set(error.clone());
            cx.stop();
        }
        match self.events.try_send(event) {
            // Disconnected: nobody wants to know.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                log::error!("{EVENTS_WAITING} events wait unread: the session ends");
                if let Some(session) = &self.session {
                    session.close(cx);
                }
            }
        }
    }
}

impl<T> Answer<T> {
    /// Waits for the answer. The request's own timeout bounds the wait.
    ///
    /// # Errors
    /// What went wrong with the request; if the session has ended, the error that ended it.
    pub fn wait(self) -> Result<T, Error> {
        self.receiver.recv().unwrap_or_else(|_| Err(self.ended.get().cloned().unwrap_or(Error::Closed)))
    }
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there is none in time, [`Error::Closed`] after the last one.
    pub fn next(&self, timeout: Duration) -> Result<Event, Error> {
        self.receiver.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => Error::Timeout { what: "an event", after: timeout },
            RecvTimeoutError::Disconnected => Error::Closed,
        })
    }

    /// Passes events to `pick` until it returns something. Events that it does not pick are gone.
    ///
    /// # Errors
    /// [`Error::Timeout`] if nothing was picked in time. If the session ends first, the error
    /// that ended it.
    pub fn wait_for<T>(&self, timeout: Duration, mut pick: impl FnMut(&Event) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = self.next(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
                Error::Timeout { what, .. } => Error::Timeout { what, after: timeout },
                other => other,
            })?;
            if let Some(picked) = pick(&event) {
                return Ok(picked);
            }
            if let Event::Closed(error) = event {
                return Err(error);
            }
        }
    }

    /// The next message; other events before it are gone.
    ///
    /// # Errors
    /// As [`Events::wait_for`].
    pub fn next_message(&self, timeout: Duration) -> Result<Message, Error> {
        self.wait_for(timeout, |event| match event {
            Event::Message(message) => Some(message.clone()),
            _ => None,
        })
    }
}
