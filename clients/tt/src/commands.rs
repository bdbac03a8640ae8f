//! The commands for scripts: sign in, do one thing, print it, go.

use std::collections::HashMap;
use std::io::{self, Write};

use tt_client::{Client, ClientClass, Message, Options, Peer, Presence, Signal};

use crate::cli::{Command, Format, GroupAction, SignalKind};
use crate::directory::{self, Directory};
use crate::failure::Failure;
use crate::listen::listen;
use crate::output::Output;
use crate::{account, voice};

/// How many messages to ask for at once; servers answer at most 200.
const PAGE: u32 = 200;
/// How many users' status to ask for at once.
const STATUS_PAGE: usize = 1000;

/// Runs one command to its end.
pub(crate) fn run(command: Command, options: Options) -> Result<(), Failure> {
    let json = match &command {
        Command::Send { format: Format { json }, .. }
        | Command::SendVoice { format: Format { json }, .. }
        | Command::SaveVoice { format: Format { json }, .. }
        | Command::Signature { format: Format { json }, .. }
        | Command::Avatar { format: Format { json }, .. }
        | Command::QuietNights { format: Format { json }, .. }
        | Command::Listen { format: Format { json }, .. }
        | Command::History { format: Format { json }, .. }
        | Command::Users { format: Format { json } }
        | Command::Sessions { format: Format { json } }
        | Command::Groups { format: Format { json } }
        | Command::Status { format: Format { json }, .. } => *json,
        Command::Signal { .. } | Command::KickPc => false,
        Command::Group { action } => action.json(),
    };
    let mut output = Output::new(io::stdout().lock(), json);
    let advice = match (&command, options.class) {
        (Command::Listen { .. }, ClientClass::Pc) => "use --as mobile to listen beside a chat of the same user",
        _ => "run one command of a user at a time",
    };
    let done = match command {
        Command::Send { who, text, .. } => send(options, &mut output, &who, &text),
        Command::SendVoice { who, file, seconds, .. } => voice::send(options, &mut output, &who, &file, seconds),
        Command::SaveVoice { who, msg_id, file, .. } => voice::save(options, &mut output, &who, msg_id, &file),
        Command::Signal { who, what } => signal(options, &who, what),
        Command::Signature { text, .. } => account::signature(options, &mut output, text.as_deref()),
        Command::Avatar { url, .. } => account::avatar(options, &mut output, url.as_deref()),
        Command::QuietNights { set, .. } => account::quiet_nights(options, &mut output, set),
        Command::KickPc => account::kick_pc(options),
        Command::Listen { count, timeout, notices, .. } => listen(options, &mut output, count, timeout, notices),
        Command::History { who, limit, .. } => history(options, &mut output, &who, limit),
        Command::Users { .. } => users(options, &mut output),
        Command::Sessions { .. } => sessions(options, &mut output),
        Command::Groups { .. } => groups(options, &mut output),
        Command::Group { action } => group(options, &mut output, &action),
        Command::Status { who, .. } => status(options, &mut output, &who),
    };
    done.map_err(|failure| if failure.is_signed_out() { failure.advise(advice) } else { failure })
}

/// Signs in. Nobody reads this client's events, so the receiver goes.
pub(crate) fn sign_in(options: Options) -> Result<Client, Failure> {
    let (client, _) = Client::login(options)?;
    Ok(client)
}

fn send(options: Options, output: &mut Output<impl Write>, who: &str, text: &str) -> Result<(), Failure> {
    // Refused before anybody is bothered with a sign-in.
    tt_client::request::SendText::new(0, text)?;
    let client = sign_in(options)?;
    let (to, names) = directory::find_peer(&client, who)?;
    if to == Peer::User(client.me().id) {
        // Servers store no such message, and some do not say so.
        return Err(Failure::usage("a message to yourself cannot be sent"));
    }
    let sent = client.send_text(to, text)?;
    Ok(output.sent(&sent, client.me(), to, &names)?)
}

/// There is no answer, so the next one says that the server has taken it.
fn signal(options: Options, who: &str, what: SignalKind) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let to = directory::find(&client, who)?;
    let signal = match what {
        SignalKind::Typing => Signal::Typing,
        SignalKind::Stopped => Signal::StoppedTyping,
        SignalKind::Shake => Signal::Shake,
    };
    client.signal(to.id, signal)?;
    client.server_time()?;
    Ok(())
}

fn history(options: Options, output: &mut Output<impl Write>, who: &str, limit: u32) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let (peer, mut names) = directory::find_peer(&client, who)?;
    names.add([client.me()]);
    let mut messages: Vec<Message> = Vec::new();
    let mut from_msg_id = 0;
    while (messages.len() as u64) < u64::from(limit) {
        let wanted = (limit - messages.len() as u32).min(PAGE);
        let page = client.history(peer, from_msg_id, wanted)?;
        let Some(oldest) = page.last().map(|message| message.msg_id) else { break };
        messages.extend(page);
        // Numbers begin at 1.
        if oldest <= 1 {
            break;
        }
        from_msg_id = oldest - 1;
    }
    if let Peer::Group(_) = peer {
        let mut senders: Vec<u32> = messages.iter().map(|message| message.from).collect();
        senders.sort_unstable();
        senders.dedup();
        names.add(&client.users_by_id(&senders)?);
    }
    for message in messages.iter().rev() {
        output.message(message, &names)?;
    }
    Ok(())
}

fn users(options: Options, output: &mut Output<impl Write>) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let users = client.users()?;
    let ids: Vec<u32> = users.iter().map(|user| user.id).collect();
    let mut presence = HashMap::new();
    for ids in ids.chunks(STATUS_PAGE) {
        presence.extend(client.status(ids)?);
    }
    for user in &users {
        output.user(user, presence.get(&user.id).copied().unwrap_or(Presence::Offline))?;
    }
    Ok(())
}

fn sessions(options: Options, output: &mut Output<impl Write>) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let sessions = client.sessions()?;
    let unread: HashMap<Peer, u32> = client.unread()?.iter().map(|entry| (entry.peer, entry.unread)).collect();
    let ids: Vec<u32> = sessions.iter().filter_map(|session| user_id(session.peer)).collect();
    let names = Directory::new(&client.users_by_id(&ids)?);
    for session in &sessions {
        output.session(session, unread.get(&session.peer).copied().unwrap_or(0), &names)?;
    }
    Ok(())
}

fn groups(options: Options, output: &mut Output<impl Write>) -> Result<(), Failure> {
    let client = sign_in(options)?;
    for group in client.groups()? {
        output.group(&group)?;
    }
    Ok(())
}

fn group(options: Options, output: &mut Output<impl Write>, action: &GroupAction) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let me = client.me().id;
    match action {
        GroupAction::Create { name, who, .. } => {
            let mut members = directory::find_all(&client, who)?.ids();
            members.push(me);
            let id = client.create_group(name, &members)?;
            show(&client, output, id)
        }
        GroupAction::Show { group, .. } => show(&client, output, directory::group_id(group)?),
        GroupAction::Add { group, who, .. } => {
            let (group, mut names) = (directory::group_id(group)?, directory::find_all(&client, who)?);
            let change = client.add_to_group(group, &names.ids())?;
            names.add([client.me()]);
            Ok(output.group_change(&change, &names)?)
        }
        GroupAction::Remove { group, who, .. } => {
            let (group, mut names) = (directory::group_id(group)?, directory::find_all(&client, who)?);
            let change = client.remove_from_group(group, &names.ids())?;
            names.add([client.me()]);
            Ok(output.group_change(&change, &names)?)
        }
        GroupAction::Leave { group, .. } => {
            let change = client.remove_from_group(directory::group_id(group)?, &[me])?;
            Ok(output.group_change(&change, &Directory::new([client.me()]))?)
        }
        GroupAction::Mute { group } => Ok(client.shield_group(directory::group_id(group)?, true)?),
        GroupAction::Unmute { group } => Ok(client.shield_group(directory::group_id(group)?, false)?),
    }
}

fn show(client: &Client, output: &mut Output<impl Write>, id: u32) -> Result<(), Failure> {
    match client.groups_by_id(&[id])?.first() {
        Some(group) => Ok(output.group(group)?),
        None => Err(Failure::usage(format!("you are in no group #g{id}; `tt groups` lists yours"))),
    }
}

fn user_id(peer: Peer) -> Option<u32> {
    match peer {
        Peer::User(id) => Some(id),
        Peer::Group(_) => None,
    }
}

fn status(options: Options, output: &mut Output<impl Write>, who: &str) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let user = directory::find(&client, who)?;
    let presence = client.status(&[user.id])?.first().map_or(Presence::Offline, |(_, presence)| *presence);
    Ok(output.status(&user, presence)?)
}
