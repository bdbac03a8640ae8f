//! `Framed`: a [`Handler`] that cuts the byte stream into frames with a
//! [`Decode`]r and hands them to a [`FrameHandler`] one by one.

use std::fmt;

use crate::codec::{Decode, FrameError};
use crate::conn::Conn;
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::handler::Handler;
use crate::timer::TimerId;

/// The callbacks of a connection that speaks in frames. The same as [`Handler`],
/// with frames in place of bytes.
///
/// ```
/// use netlib::codec::Lines;
/// use netlib::{Conn, Context, FrameHandler, Framed, Handler};
///
/// /// Keeps what everybody says.
/// struct Scribe;
///
/// impl FrameHandler<Vec<String>> for Scribe {
///     fn on_frame(&mut self, said: &mut Vec<String>, _: &mut Context<Vec<String>>, _: &Conn, line: &[u8]) {
///         said.push(String::from_utf8_lossy(line).into_owned());
///     }
/// }
///
/// let handler: Box<dyn Handler<Vec<String>>> = Box::new(Framed::new(Lines::new(512), Scribe));
/// # drop(handler);
/// ```
#[allow(unused_variables)]
pub trait FrameHandler<S: 'static>: 'static {
    /// See [`Handler::on_open`].
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// One whole frame: the decoder's [`body`](crate::Frame::body), a slice of the
    /// reactor's read buffer.
    fn on_frame(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, frame: &[u8]);

    /// See [`Handler::on_eof`].
    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        conn.close_with(CloseReason::PeerClosed);
    }

    /// See [`Handler::on_high_water`].
    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// See [`Handler::on_low_water`].
    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// See [`Handler::on_flushed`].
    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// See [`Handler::watches_flushes`].
    fn watches_flushes(&self) -> bool {
        true
    }

    /// See [`Handler::on_timer`].
    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {}

    /// See [`Handler::on_close`].
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {}
}

/// Frames handed over before others get their turn.
const FRAMES_PER_TURN: usize = 1024;

/// A decoder and the handler of its frames.
///
/// Frames stop at the moment the connection is closed, paused or given another
/// handler, even if more of them are buffered. A frame that the decoder refuses
/// closes the connection with [`CloseReason::BadFrame`].
///
/// ```
/// use netlib::codec::Lines;
/// use netlib::{Conn, Context, FrameHandler, Framed};
///
/// struct Shout;
/// impl<S: 'static> FrameHandler<S> for Shout {
///     fn on_frame(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, line: &[u8]) {
///         let _ = conn.send([line.to_ascii_uppercase(), b"\n".to_vec()].concat());
///     }
/// }
/// let handler = Framed::new(Lines::new(1024), Shout);
/// # let _: Box<dyn netlib::Handler<()>> = Box::new(handler);
/// ```
pub struct Framed<D, H> {
    decoder: D,
    handler: H,
}

impl<D, H> Framed<D, H> {
    /// Puts the two together.
    pub fn new(decoder: D, handler: H) -> Self {
        Self { decoder, handler }
    }
}

impl<D, H> fmt::Debug for Framed<D, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed").finish_non_exhaustive()
    }
}

impl<S, D, H> Handler<S> for Framed<D, H>
where
    S: 'static,
    D: Decode,
    H: FrameHandler<S>,
{
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.handler.on_open(state, cx, conn);
    }

    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let mut used = 0;
        let mut frames = 0;
        while used < input.len() && conn.wants_input() {
            if frames == FRAMES_PER_TURN {
                cx.make_ready(conn.id());
                break;
            }
            match self.decoder.decode(&input[used..]) {
                Ok(Some(frame)) if frame.consumed == 0 => {
                    conn.close_with(CloseReason::BadFrame(FrameError::Malformed("a frame of no bytes")));
                }
                Ok(Some(frame)) => {
                    frames += 1;
                    let body = used + frame.body.start..used + frame.body.end;
                    used += frame.consumed;
                    self.handler.on_frame(state, cx, conn, &input[body]);
                }
                Ok(None) => break,
                Err(error) => {
                    conn.close_with(CloseReason::BadFrame(error));
                    break;
                }
            }
        }
        used
    }

    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.handler.on_eof(state, cx, conn);
    }

    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.handler.on_high_water(state, cx, conn);
    }

    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.handler.on_low_water(state, cx, conn);
    }

    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.handler.on_flushed(state, cx, conn);
    }

    fn watches_flushes(&self) -> bool {
        self.handler.watches_flushes()
    }

    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {
        self.handler.on_timer(state, cx, conn, timer);
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {
        self.handler.on_close(state, cx, conn, reason);
    }
}
