//! One attempt of a session: discover, connect, sign in. And what follows when it fails, or when
//! the connection that it made is lost: the end, or a pause and the next attempt.

use std::time::Duration;

use netlib::http::ClientError;
use netlib::socket::SocketOptions;
use netlib::{CloseReason, Conn, ConnOptions, ConnectOptions, Context, Framed};
use tt_proto::im::base_define::UserStatType;
use tt_proto::im::login;

use super::wire::Wire;
use super::{Phase, Session};
use crate::framing::PduDecoder;
use crate::{Error, Event, Options, SendLimit, User, discovery};

/// The extensions this client announces (spec/gaps.md §0.6): a negative acknowledgement is
/// understood and messages carry the client's id (1); a read cursor means exactly that number (12).
const CAPABILITIES: u64 = CAP_MESSAGE_IDS | 1 << 12;

/// Presence v2: phones and absence are shown, and only users asked about are told of.
const CAP_PRESENCE: u64 = 1 << 11;

/// The server recognises a message that is sent twice.
const CAP_MESSAGE_IDS: u64 = 1 << 1;

/// The server echoes every heartbeat, so silence for two and a half periods means that the
/// connection is dead although nobody has said so.
const SILENCE: Duration = Duration::from_secs(75);

impl<S: 'static> Session<S> {
    pub(super) fn begin_attempt(&self, cx: &mut Context<S>) {
        let options = &self.inner.options;
        let mut core = self.inner.core.borrow_mut();
        core.attempt += 1;
        core.phase = Phase::Discovering;
        core.verdict = None;
        let attempt = core.attempt;

        let this = self.clone();
        core.timer = Some(cx.after(options.login_timeout, move |state, cx| this.attempt_expired(state, cx, attempt)));

        if let Some(server) = options.message_server {
            core.candidates = [server].into();
            drop(core);
            return self.connect_next(cx);
        }
        drop(core);
        self.discover(cx, attempt, 0);
    }

    /// Asks the login server for a message server, at the address with that index. If nobody
    /// answers there, the next one is asked.
    fn discover(&self, cx: &mut Context<S>, attempt: u64, at: usize) {
        let Options { server, login_timeout, .. } = &self.inner.options;
        let is_last = at + 1 == server.addrs().len();
        let this = self.clone();
        netlib::http::get(
            cx,
            server.addrs()[at],
            server.host(),
            discovery::PATH,
            *login_timeout,
            move |state, cx, answer| {
                if !this.is_current(attempt, Phase::Discovering) {
                    return;
                }
                if matches!(answer, Err(ClientError::Connection(_))) && !is_last {
                    return this.discover(cx, attempt, at + 1);
                }
                match discovery::read(answer, &this.inner.options) {
                    Ok(candidates) => {
                        this.inner.core.borrow_mut().candidates = candidates.into();
                        this.connect_next(cx);
                    }
                    Err(error) => this.attempt_failed(state, cx, error),
                }
            },
        );
    }

    /// Connects to the next candidate, if there is one left.
    fn connect_next(&self, cx: &mut Context<S>) {
        let mut core = self.inner.core.borrow_mut();
        let Some(addr) = core.candidates.pop_front() else { return };
        core.phase = Phase::Connecting;
        let options = ConnectOptions {
            timeout: self.inner.options.login_timeout,
            conn: ConnOptions { idle_timeout: Some(SILENCE), ..ConnOptions::default() },
            socket: SocketOptions { from: self.inner.options.local_address, ..SocketOptions::default() },
            ..ConnectOptions::default()
        };
        let wire = Wire::new(self.clone(), core.attempt);
        core.conn = Some(cx.connect(addr, options, Box::new(Framed::new(PduDecoder, wire))));
    }

    pub(super) fn connected(&self) {
        let options = &self.inner.options;
        let mut core = self.inner.core.borrow_mut();
        core.phase = Phase::SigningIn;
        let request = login::ImLoginReq {
            user_name: options.user.clone(),
            password: options.digest().to_owned(),
            online_status: UserStatType::UserStatusOnline as i32,
            client_type: options.class.client_type() as i32,
            client_version: Some(concat!("tt/", env!("CARGO_PKG_VERSION")).to_owned()),
            capabilities: Some(if options.presence_of_all { CAPABILITIES } else { CAPABILITIES | CAP_PRESENCE }),
            device_id: options.device_id.clone(),
            ..Default::default()
        };
        core.tell(&request);
    }

    pub(super) fn signed_in(&self, state: &mut S, cx: &mut Context<S>, answer: login::ImLoginRes) {
        if self.inner.core.borrow().phase != Phase::SigningIn {
            return;
        }
        let me = match (answer.result_code, answer.user_info) {
            (0, Some(info)) => User::from(info),
            (0, None) => return self.hang_up(Error::Protocol("a sign-in without a user card".to_owned())),
            (code, _) => {
                return self.hang_up(Error::from_login(code, answer.result_string.as_deref().unwrap_or_default()));
            }
        };
        {
            let mut core = self.inner.core.borrow_mut();
            core.phase = Phase::Online;
            core.server_capabilities = answer.capabilities.unwrap_or(0);
            let limit = answer.messages_per_second.zip(answer.messages_burst);
            core.send_limit = limit.map(|(per_second, burst)| SendLimit { per_second, burst });
            core.backoff.reset();
            let timer = core.timer.take();
            timer.map(|timer| cx.cancel(timer));
            core.me = Some(me.clone());
            for frame in core.outbox.take_queued(me.id) {
                core.send(frame);
            }
        }
        self.emit(state, cx, Event::Online { me });
    }

    fn attempt_expired(&self, state: &mut S, cx: &mut Context<S>, attempt: u64) {
        let (phase, conn) = {
            let mut core = self.inner.core.borrow_mut();
            if core.attempt != attempt {
                return;
            }
            core.timer = None;
            core.candidates.clear();
            (core.phase, core.conn.clone())
        };
        let what = match phase {
            Phase::Discovering => discovery::TIMEOUT,
            Phase::Connecting => "the connection to the message server",
            Phase::SigningIn => "the sign-in",
            Phase::Online | Phase::Waiting | Phase::Ended => return,
        };
        let error = Error::Timeout { what, after: self.inner.options.login_timeout };
        match conn {
            Some(conn) => {
                self.inner.core.borrow_mut().verdict.get_or_insert(error);
                conn.abort();
            }
            None => self.attempt_failed(state, cx, error),
        }
    }

    /// An attempt, or the connection that it had made, is over.
    fn attempt_failed(&self, state: &mut S, cx: &mut Context<S>, error: Error) {
        let (lost, retry_in) = {
            let mut core = self.inner.core.borrow_mut();
            if core.phase == Phase::Ended {
                return;
            }
            if let Some(timer) = core.timer.take() {
                cx.cancel(timer);
            }
            if !(self.inner.options.reconnect && error.is_transient()) {
                drop(core);
                return self.end(state, cx, error);
            }
            core.phase = Phase::Waiting;
            let knows_ids = core.server_capabilities & CAP_MESSAGE_IDS != 0;
            let lost = core.outbox.connection_lost(knows_ids);
            let retry_in = core.backoff.next(cx.random());
            let this = self.clone();
            core.timer = Some(cx.after(retry_in, move |_, cx| this.begin_attempt(cx)));
            (lost, retry_in)
        };
        log::info!("{}: {error}; next attempt in {} ms", self.inner.options.user, retry_in.as_millis());
        for exchange in lost {
            cx.cancel(exchange.done.timer);
            (exchange.done.done)(state, cx, Err(error.clone()));
        }
        self.emit(state, cx, Event::Offline { error, retry_in });
    }

    /// The connection of `attempt` ended for `reason`.
    pub(super) fn disconnected(&self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {
        let error = {
            let mut core = self.inner.core.borrow_mut();
            core.conn = None;
            let verdict = core.verdict.take();
            let (step, advice) = match core.phase {
                Phase::Connecting if verdict.is_none() && !core.candidates.is_empty() => {
                    drop(core);
                    return self.connect_next(cx);
                }
                Phase::Connecting => {
                    ("cannot reach", "; the login server named this address: check that it can be reached from here")
                }
                Phase::SigningIn => ("the sign-in was cut off by", "; try again"),
                _ => ("lost the connection to", ""),
            };
            verdict.unwrap_or_else(|| Error::Unreachable {
                what: format!("{step} the message server at {}: {reason}{advice}", conn.peer_addr()),
            })
        };
        self.attempt_failed(state, cx, error);
    }
}
