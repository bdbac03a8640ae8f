//! `tt send-voice` and `tt save-voice`: recordings from and into files. What is in them is between
//! the clients; here they are bytes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use tt_client::request::SendVoice;
use tt_client::{Content, Options, Peer};

use crate::commands::sign_in;
use crate::directory;
use crate::failure::Failure;
use crate::output::Output;

/// What is read of a file: more than any recording may have, so that a longer one is told from it.
const MOST: u64 = 1 << 20;

pub(crate) fn send(
    options: Options,
    output: &mut Output<impl Write>,
    who: &str,
    file: &Path,
    seconds: u32,
) -> Result<(), Failure> {
    let mut recording = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(MOST).read_to_end(&mut recording))
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    // Refused before anybody is bothered with a sign-in.
    SendVoice::new(0, seconds, &recording)?;
    let client = sign_in(options)?;
    let (to, names) = directory::find_peer(&client, who)?;
    if to == Peer::User(client.me().id) {
        return Err(Failure::usage("a message to yourself cannot be sent"));
    }
    let sent = client.send_voice(to, seconds, &recording)?;
    Ok(output.sent(&sent, client.me(), to, &names)?)
}

pub(crate) fn save(
    options: Options,
    output: &mut Output<impl Write>,
    who: &str,
    msg_id: u32,
    file: &Path,
) -> Result<(), Failure> {
    let client = sign_in(options)?;
    let (peer, _) = directory::find_peer(&client, who)?;
    let found = client.messages_by_id(peer, &[msg_id])?.pop();
    let Some(Content::Voice { seconds, samples }) = found.map(|message| message.content) else {
        return Err(Failure::usage(format!("message {msg_id} is no voice message of this conversation")));
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut opened| opened.write_all(&samples))
        .map_err(|error| Failure::other(format!("cannot write {}: {error}", file.display())))?;
    Ok(output.saved(msg_id, seconds, samples.len())?)
}
