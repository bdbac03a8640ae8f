//! The interactive chat. One reactor carries the session and the screen; a thread of its own only
//! reads the keyboard and posts what it read, so nothing here polls.
//!
//! [`app`] decides, [`view`] draws, this file connects both with the session and the terminal.

mod app;
mod conversation;
mod editor;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event as Input};
use crossterm::execute;
use netlib::{Context, Reactor, ReactorConfig, Signal, SignalFd};
use ratatui::DefaultTerminal;
use tt_client::request::{
    ChangeMembers, CreateGroup, FixedGroups, GroupsById, History, SendText, Sessions, ShieldGroup, Status, Unread,
};
use tt_client::{Error, Event, Options, Peer, Session, User};

use self::app::{App, Effect, Known, PAGE};
use crate::failure::Failure;
use crate::text::local_time;

/// How long a message may take, reconnects included. A person would rather see it go late than
/// type it again.
const SEND_TIMEOUT: Duration = Duration::from_mins(2);
/// How many users' status to ask for at once: more than any screen shows.
const STATUS_LIMIT: usize = 5000;

/// The state of the reactor: everything the callbacks share.
struct Chat {
    session: Option<Session<Chat>>,
    request_timeout: Duration,
    /// Both exist once the first sign-in has succeeded.
    screen: Option<Screen>,
    outcome: Result<(), Error>,
    /// How many messages were on their way when the person left.
    unsettled: usize,
    io_error: Option<io::Error>,
}

struct Screen {
    app: App,
    terminal: DefaultTerminal,
    draw_posted: bool,
}

/// Refuses to draw into a file.
pub(crate) fn check_terminal() -> Result<(), Failure> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb {
        return Ok(());
    }
    Err(Failure::usage(
        "the chat needs a terminal that can place text; for scripts there are send, listen, history (see tt --help)",
    ))
}

/// Runs the chat until the person leaves or the session ends.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::other(format!("cannot {what}: {error}"));
    // Before any thread exists, so that all of them leave these signals to the loop.
    let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup])
        .map_err(|e| failed("take signals", e))?;
    let mut reactor = Reactor::new(ReactorConfig::default()).map_err(|e| failed("start the event loop", e))?;
    let cx = reactor.context();
    cx.on_signals(signals, |chat: &mut Chat, cx, _| chat.leave(cx, Ok(()))).map_err(|e| failed("take signals", e))?;

    let mut chat = Chat {
        session: None,
        request_timeout: options.request_timeout,
        screen: None,
        outcome: Ok(()),
        unsettled: 0,
        io_error: None,
    };
    eprintln!("tt: signing in at {} …", options.server);
    chat.session = Some(Session::open(cx, options.reconnecting(), Chat::on_event));
    let ran = reactor.run(&mut chat);

    if chat.screen.take().is_some() {
        restore();
    }
    if chat.unsettled > 0 {
        eprintln!("tt: messages not acknowledged: {}; the history will show whether they were stored", chat.unsettled);
    }
    ran.map_err(|e| failed("go on", e))?;
    if let Some(error) = chat.io_error {
        return Err(failed("use the terminal", error));
    }
    Ok(chat.outcome?)
}

impl Chat {
    /// Ends the loop.
    fn leave(&mut self, cx: &mut Context<Self>, outcome: Result<(), Error>) {
        self.outcome = outcome;
        self.unsettled = self.screen.as_ref().map_or(0, |screen| screen.app.pending());
        match self.session.take() {
            // Closed in order; the event of that stops the loop.
            Some(session) => session.close(cx),
            None => cx.stop(),
        }
    }

    fn on_event(&mut self, cx: &mut Context<Self>, event: Event) {
        match (event, self.screen.is_some()) {
            (Event::Closed(error), _) => {
                // Closing it ourselves is no failure, and then the outcome is known already.
                if self.session.take().is_some() {
                    self.outcome = Err(error);
                }
                cx.stop();
            }
            // Somebody is waiting in front of the first sign-in: tell, rather than try for ever.
            (Event::Offline { error, .. }, false) => self.leave(cx, Err(error)),
            (Event::Online { me }, false) => match open_screen(cx, me) {
                Ok(screen) => {
                    self.screen = Some(screen);
                    self.perform(cx, vec![Effect::LoadContacts]);
                    self.changed(cx);
                }
                Err(error) => {
                    self.io_error = Some(error);
                    self.leave(cx, Ok(()));
                }
            },
            (event, _) => {
                let unix_time = cx.unix_time();
                let retry_at = |pause: Duration| local_time((unix_time + pause).as_secs() as u32, "%H:%M:%S");
                self.update(cx, |app| app.on_event(event, retry_at));
            }
        }
    }

    fn on_input(&mut self, cx: &mut Context<Self>, input: &Input) {
        let now = cx.unix_time().as_secs() as u32;
        self.update(cx, |app| app.on_input(input, now));
    }

    /// Changes the app, does what it asks for, and draws it again.
    fn update(&mut self, cx: &mut Context<Self>, change: impl FnOnce(&mut App) -> Vec<Effect>) {
        let Some(screen) = &mut self.screen else { return };
        let effects = change(&mut screen.app);
        self.perform(cx, effects);
        self.changed(cx);
    }

    /// Draws once, after everything that this tick still brings.
    fn changed(&mut self, cx: &mut Context<Self>) {
        let Some(screen) = &mut self.screen else { return };
        if std::mem::replace(&mut screen.draw_posted, true) {
            return;
        }
        cx.post(|chat: &mut Self, cx| {
            let Some(screen) = &mut chat.screen else { return };
            screen.draw_posted = false;
            let Screen { app, terminal, .. } = screen;
            if let Err(error) = terminal.draw(|frame| view::draw(frame, app, local_time)) {
                chat.io_error = Some(error);
                chat.leave(cx, Ok(()));
            }
        });
    }

    fn perform(&mut self, cx: &mut Context<Self>, effects: Vec<Effect>) {
        let timeout = self.request_timeout;
        for effect in effects {
            let Some(session) = self.session.clone() else { return };
            match effect {
                Effect::Quit => self.leave(cx, Ok(())),
                Effect::LoadContacts => load_contacts(cx, session, timeout),
                Effect::LoadHistory { peer, from_msg_id } => {
                    let request = History { peer, from_msg_id, count: PAGE };
                    session.ask(cx, request, timeout, move |chat, cx, page| {
                        chat.update(cx, |app| app.on_history(peer, from_msg_id, page));
                    });
                }
                Effect::Send { number, to, text } => match SendText::new(to, &text) {
                    Ok(request) => session.ask(cx, request, SEND_TIMEOUT, move |chat, cx, sent| {
                        chat.sent(cx, number, to, sent.map(|sent| sent.msg_id));
                    }),
                    Err(error) => self.sent(cx, number, to, Err(error)),
                },
                Effect::CreateGroup { name, members } => create_group(cx, session, timeout, name, members),
                Effect::ChangeMembers { group, added, members } => {
                    let change = ChangeMembers { group, added, members };
                    session.ask(cx, change, timeout, move |chat: &mut Self, cx, change| match change {
                        Err(error) => chat.failed(cx, &error),
                        Ok(change) => chat.update(cx, |app| app.on_group_change(&change)),
                    });
                }
                Effect::ShieldGroup { group, on } => {
                    session.ask(cx, ShieldGroup { group, on }, timeout, move |chat: &mut Self, cx, done| match done {
                        Err(error) => chat.failed(cx, &error),
                        Ok(()) => chat.update(cx, |app| {
                            if on { "muted" } else { "not muted any more" }.clone_into(&mut app.notice);
                            Vec::new()
                        }),
                    });
                }
                Effect::MarkRead { peer, msg_id } => {
                    // Without a connection it is lost; the next message read makes up for it.
                    session.mark_read(peer, msg_id);
                }
            }
        }
    }

    fn sent(&mut self, cx: &mut Context<Self>, number: u64, to: Peer, outcome: Result<u32, Error>) {
        self.update(cx, |app| {
            app.on_sent(number, to, outcome);
            Vec::new()
        });
    }

    fn failed(&mut self, cx: &mut Context<Self>, error: &Error) {
        self.update(cx, |app| {
            app.on_failure(error);
            Vec::new()
        });
    }
}

/// Fetches the address book, who is online, the recent conversations, the groups and the unread
/// counts, one after the other, and shows them together.
fn load_contacts(cx: &mut Context<Chat>, session: Session<Chat>, timeout: Duration) {
    session.clone().users(cx, timeout, move |chat: &mut Chat, cx, users| match users {
        Err(error) => chat.failed(cx, &error),
        Ok(users) => {
            let ids = users.iter().map(|user| user.id).take(STATUS_LIMIT).collect();
            let known = Known { users, ..Known::default() };
            session.clone().ask(cx, Status { ids }, timeout, move |chat, cx, presence| match presence {
                Err(error) => chat.failed(cx, &error),
                Ok(presence) => {
                    let known = Known { presence: presence.into_iter().collect(), ..known };
                    load_conversations(cx, session, timeout, known);
                }
            });
        }
    });
}

/// Makes a group and shows it. Nobody is told of it before its first message.
fn create_group(cx: &mut Context<Chat>, session: Session<Chat>, timeout: Duration, name: String, members: Vec<u32>) {
    let create = CreateGroup { name, avatar: String::new(), members };
    session.clone().ask(cx, create, timeout, move |chat: &mut Chat, cx, id| match id {
        Err(error) => chat.failed(cx, &error),
        Ok(id) => {
            session.ask(cx, GroupsById { groups: vec![(id, 0)] }, timeout, move |chat, cx, groups| match groups {
                Err(error) => chat.failed(cx, &error),
                Ok(mut groups) => {
                    if let Some(group) = groups.pop() {
                        chat.update(cx, |app| app.on_created(group));
                    }
                }
            });
        }
    });
}

fn load_conversations(cx: &mut Context<Chat>, session: Session<Chat>, timeout: Duration, known: Known) {
    session.clone().ask(cx, Sessions::default(), timeout, move |chat: &mut Chat, cx, recent| match recent {
        Err(error) => chat.failed(cx, &error),
        Ok(recent) => {
            let known = Known { recent, ..known };
            session.clone().ask(cx, FixedGroups, timeout, move |chat, cx, fixed| match fixed {
                Err(error) => chat.failed(cx, &error),
                Ok(fixed) => load_groups(cx, session, timeout, known, &fixed),
            });
        }
    });
}

/// The groups that are fixed or were talked in lately: as many as one question may have.
fn load_groups(cx: &mut Context<Chat>, session: Session<Chat>, timeout: Duration, known: Known, fixed: &[(u32, u32)]) {
    let talked_in = known.recent.iter().filter_map(|session| match session.peer {
        Peer::Group(id) => Some(id),
        Peer::User(_) => None,
    });
    let mut groups: Vec<(u32, u32)> = talked_in.chain(fixed.iter().map(|(id, _)| *id)).map(|id| (id, 0)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(GroupsById::MOST);
    session.clone().ask(cx, GroupsById { groups }, timeout, move |chat: &mut Chat, cx, groups| match groups {
        Err(error) => chat.failed(cx, &error),
        Ok(groups) => {
            let known = Known { groups, ..known };
            session.ask(cx, Unread, timeout, move |chat, cx, unread| match unread {
                Err(error) => chat.failed(cx, &error),
                Ok(unread) => chat.update(cx, |app| app.on_contacts(Known { unread, ..known })),
            });
        }
    });
}

/// Takes the terminal over and starts to read the keyboard.
fn open_screen(cx: &mut Context<Chat>, me: User) -> io::Result<Screen> {
    // A panic in a callback would only end one connection; here it must end the program, after
    // ratatui's own hook, which runs first, has given the terminal back.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = execute!(io::stdout(), DisableBracketedPaste);
        report(panic);
        std::process::exit(1);
    }));
    let terminal = ratatui::try_init()?;
    execute!(io::stdout(), EnableBracketedPaste)?;

    let remote = cx.remote();
    // Ends with the process: nothing can interrupt its read.
    std::thread::Builder::new().name("tt-keyboard".to_owned()).spawn(move || {
        loop {
            let posted = match crossterm::event::read() {
                Ok(input) => remote.post(move |chat: &mut Chat, cx| chat.on_input(cx, &input)),
                Err(error) => {
                    // The loop may have ended by itself.
                    let _ = remote.post(move |chat, cx| {
                        chat.io_error = Some(error);
                        chat.leave(cx, Ok(()));
                    });
                    return;
                }
            };
            if posted.is_err() {
                return;
            }
        }
    })?;
    Ok(Screen { app: App::new(me), terminal, draw_posted: false })
}

/// Gives the terminal back.
fn restore() {
    // The terminal may be gone altogether; there is nothing left to do for it then.
    let _ = execute!(io::stdout(), DisableBracketedPaste);
    ratatui::restore();
}
