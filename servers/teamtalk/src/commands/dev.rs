//! `teamtalk dev`: every role in one process, each on a thread of its own with a reactor of its
//! own, talking over loopback links on real ports. There is no shortcut between the roles here that
//! a system of many processes would not have.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tt_common::logging;
use tt_db_proxy::store::embedded::{self, Embedded};

use crate::{
    accounts::{self, Account},
    banner,
    cluster::{self, Cluster},
    commands::{DEFAULT_DATA, say},
    descriptors,
    failure::{Failure, Kind, Outcome},
    ports::{LOGIN_PDU, MAX_BASE, address_of},
    probe,
    ready::ReadyFile,
    serving::{self, News, Watch},
};

#[derive(Debug, Args, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where everything is kept; made where it is missing
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    pub(crate) data: PathBuf,

    /// Address on which clients are accepted; server links and metrics stay on 127.0.0.1
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) host: IpAddr,

    /// Address that clients are told to connect to [default: the address of --host]
    #[arg(long, value_name = "ADDR", value_parser = reachable)]
    pub(crate) advertise: Option<IpAddr>,

    /// Put each listener on N plus its offset (docs/ports.md), 0: on any free port
    /// [default: the protocol's published ports]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_BASE)))]
    pub(crate) port_base: Option<u16>,

    /// Write this file once every role serves: JSON with every address and the demonstration
    /// accounts; taken away at a clean stop
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data: DEFAULT_DATA.into(),
            host: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
            port_base: None,
            ready_file: None,
        }
    }
}

fn reachable(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(Ipv4Addr::BROADCAST)) => Err("clients cannot connect to it".to_owned()),
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => Err("clients cannot connect to it".to_owned()),
        Ok(ip) => Ok(ip),
        Err(_) => Err("an IP address is expected, such as 192.0.2.1: clients of 2015 take no names".to_owned()),
    }
}

impl Options {
    /// What clients are told.
    fn advertised(&self) -> Outcome<IpAddr> {
        match self.advertise {
            Some(ip) => Ok(ip),
            None if self.host.is_unspecified() => Err(Failure::new(
                Kind::Usage,
                format_args!(
                    "--host {} accepts clients on every address, and they must be told one: add --advertise ADDR",
                    self.host
                ),
            )),
            None => Ok(self.host),
        }
    }
}

/// How long the roles may take from their start until all of them serve.
const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options) -> Outcome {
    let advertised = options.advertised()?;
    let watch = Watch::start()?;
    logging::init();
    descriptors::raise();
    // What is wrong with the data directory shows here, before anything runs; from here on it is
    // this process's.
    let store = open_store(&options.data)?;
    if let Some(path) = &options.ready_file {
        ReadyFile::clear(path).map_err(|error| ready_file_failed(path, &error))?;
    }
    let accounts = accounts::demonstration(&options.data, &store)?;
    cluster::make_secret(&options.data)?;
    // Every listener is bound before the first link is dialled, so no link fails at first.
    let cluster = Cluster::bind(options, advertised)?;
    let listeners = cluster.listeners()?;
    let roles = cluster.start(Arc::new(store))?;
    if !watch.all_ready(&roles, START_LIMIT)? {
        serving::stop(roles);
        return Ok(());
    }
    probe::wait_until_named(address_of(&listeners, &LOGIN_PDU))?;
    let ready_file = match &options.ready_file {
        Some(path) => Some(write_ready_file(path, &listeners, &accounts)?),
        None => None,
    };
    say(banner::text(options, &listeners, &accounts));

    while !matches!(watch.next(), News::Stop) {}
    drop(ready_file);
    serving::stop(roles);
    Ok(())
}

/// The store in its data directory, which is made where it is missing.
fn open_store(data: &Path) -> Outcome<Embedded> {
    embedded::create(data).map_err(|error| {
        let advice = "choose another with --data";
        Failure::new(Kind::Data, format_args!("the data directory {}: {error}: {advice}", data.display()))
    })?;
    Ok(Embedded::open(data)?)
}

fn write_ready_file(path: &Path, listeners: &[(&'static str, SocketAddr)], accounts: &[Account]) -> Outcome<ReadyFile> {
    ReadyFile::write(path, listeners, accounts).map_err(|error| ready_file_failed(path, &error))
}

fn ready_file_failed(path: &Path, error: &io::Error) -> Failure {
    let advice = "choose another place with --ready-file";
    Failure::new(Kind::Other, format_args!("{}: {error}: {advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_the_host_unless_it_is_every_address() {
        let host = |text: &str| Options { host: text.parse().expect("an address"), ..Options::default() };
        assert_eq!(host("192.0.2.1").advertised().expect("usable").to_string(), "192.0.2.1");
        assert_eq!(Options::default().advertised().expect("usable").to_string(), "127.0.0.1");
        for nowhere in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(reachable(nowhere).is_err(), "{nowhere}");
        }
        for every in ["0.0.0.0", "::"] {
            let failure = host(every).advertised().expect_err("nothing to tell");
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.text.contains("--advertise"), "{failure}");
        }
        assert!(reachable("example.org").is_err(), "clients of 2015 want an address");
    }
}
