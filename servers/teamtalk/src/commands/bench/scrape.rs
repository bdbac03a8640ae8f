//! What the servers count themselves, read from their /metrics before and after a run: how large
//! the batches at the store were, how often a client was not read because of its rate, what memory
//! and processor time the processes take. Servers that cannot be asked are left out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long one server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The page of one server.
#[derive(Clone, Debug)]
pub(super) struct Page(String);

/// Which server a page is of, told by what only that one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Login,
    Msg,
    Route,
    DbProxy,
}

impl Role {
    /// A counter of its own.
    fn mark(self) -> &'static str {
        match self {
            Self::Login => "teamtalk_msg_servers",
            Self::Msg => "teamtalk_messages_acked_total",
            Self::Route => "teamtalk_undelivered_total",
            Self::DbProxy => "teamtalk_store_commits_total",
        }
    }
}

/// The pages of all servers that answered at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(Vec<Page>);

impl Pages {
    pub(super) fn read(addresses: &[SocketAddr]) -> Self {
        Self(addresses.iter().filter_map(|address| page(*address).ok().map(Page)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of a metric over all servers of a kind and over all its labels; None if none counts it.
    pub(super) fn sum(&self, role: Role, name: &str) -> Option<f64> {
        let pages = self.0.iter().filter(|page| page.value(role.mark()).is_some());
        pages.filter_map(|page| page.value(name)).reduce(|one, other| one + other)
    }

    /// By how much such a sum has grown since.
    pub(super) fn growth(&self, since: &Self, role: Role, name: &str) -> Option<f64> {
        Some(self.sum(role, name)? - since.sum(role, name)?)
    }
}

impl Page {
    fn value(&self, name: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            line.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.reduce(|one, other| one + other)
    }
}

fn page(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_names_that_only_begin_alike_are_others() {
        let text = "# HELP x\nteamtalk_store_commits_total 3\nteamtalk_store_commits_total_of_another 9\n\
                    teamtalk_pdus_total{direction=\"in\",command=\"A\"} 5\nteamtalk_pdus_total{direction=\"out\"} 2\n";
        let pages = Pages(vec![Page(text.to_owned())]);
        assert_eq!(pages.sum(Role::DbProxy, "teamtalk_store_commits_total"), Some(3.0));
        assert_eq!(pages.sum(Role::DbProxy, "teamtalk_pdus_total"), Some(7.0));
        assert_eq!(pages.sum(Role::DbProxy, "teamtalk_unknown"), None);
        assert_eq!(pages.sum(Role::Msg, "teamtalk_pdus_total"), None, "no msg server is among them");
    }
}
