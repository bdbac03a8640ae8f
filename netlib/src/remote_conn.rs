//! A connection as other threads see it: an id, and a way to its loop.

use std::fmt;

use bytes::Bytes;

use crate::conn::Conn;
use crate::conn_options::CloseReason;
use crate::context::{Context, Remote};
use crate::event_queue::PostError;
use crate::token::Token;

/// Reaches one connection from any thread, by posting to its reactor. What is asked of a
/// connection that has ended meanwhile is dropped; the id never names another one.
///
/// Thread rule: it may be sent, shared and cloned freely; every call returns at once.
///
/// ```
/// use netlib::{Conn, Context, Handler};
///
/// /// Answers from a thread that may take its time.
/// struct Slow;
/// impl Handler<()> for Slow {
///     fn on_data(&mut self, _: &mut (), cx: &mut Context<()>, conn: &Conn, input: &[u8]) -> usize {
///         let (conn, question) = (cx.remote_conn(conn), input.to_vec());
///         std::thread::spawn(move || conn.send(question)); // a WorkerPool, in earnest
///         input.len()
///     }
/// }
/// ```
pub struct RemoteConn<S: 'static> {
    pub(crate) remote: Remote<S>,
    pub(crate) id: Token,
}

impl<S: 'static> RemoteConn<S> {
    /// The connection's id.
    pub fn id(&self) -> Token {
        self.id
    }

    /// [`Conn::send`]. Its limits hold when the post runs, so their refusal is not seen here.
    ///
    /// # Errors
    ///
    /// Those of [`Remote::post`].
    pub fn send(&self, bytes: impl Into<Bytes>) -> Result<(), PostError> {
        let bytes = bytes.into();
        self.with(move |_, _, conn| {
            // A refusal is the loop's affair: it ends the connection or counts it.
            let _ = conn.send(bytes);
        })
    }

    /// [`Conn::close_with`].
    ///
    /// # Errors
    ///
    /// Those of [`Remote::post`].
    pub fn close_with(&self, reason: CloseReason) -> Result<(), PostError> {
        self.with(move |_, _, conn| conn.close_with(reason))
    }

    /// Runs `f` on the loop with the connection, if it is still alive then.
    ///
    /// # Errors
    ///
    /// Those of [`Remote::post`].
    pub fn with(&self, f: impl FnOnce(&mut S, &mut Context<S>, &Conn) + Send + 'static) -> Result<(), PostError> {
        let id = self.id;
        let posted = self.remote.post(move |state, cx| {
            if let Some(conn) = cx.conn(id) {
                f(state, cx, &conn);
            }
        });
        posted.map(drop)
    }
}

impl<S: 'static> Clone for RemoteConn<S> {
    fn clone(&self) -> Self {
        Self { remote: self.remote.clone(), id: self.id }
    }
}

impl<S: 'static> fmt::Debug for RemoteConn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteConn").field("id", &self.id).finish_non_exhaustive()
    }
}
