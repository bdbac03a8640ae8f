//! How many files and sockets this process may have open (`ulimit -n`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit as far as the hard one, which this user may do, and logs what it is. Each client and link
/// takes a descriptor, and shells give a soft limit of 1,024: it protects programs that call select with fixed sets,
/// which the servers do not (the select back end allocates its sets).
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("the limit of open files (ulimit -n) could not be raised: {error}");
    }
    match getrlimit(Resource::Nofile).current {
        Some(most) => log::info!("at most {most} open files and connections (ulimit -n)"),
        None => log::info!("open files and connections are not limited (ulimit -n)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = Some(before.current.map_or(256, |current| current.min(256)));
        setrlimit(Resource::Nofile, Rlimit { current: low, maximum: before.maximum }).expect("it may be lowered");
        raise();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
