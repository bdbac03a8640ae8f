//! The walk through the table: all 95 commands, each on the hops that it takes, with its answer, what others are
//! told, in which order, under which sequence number and service, and what the store holds afterwards. The steps
//! are in `steps.rs`; here the table is read and held against what was seen.

use std::collections::{BTreeMap, BTreeSet};

use tt_proto::command::TABLE;

use crate::{fleet, steps};

/// Commands of ours that the published table does not have; they have tests of their own.
const ADDED: &[u16] = &[0x0110, 0x0111, 0x0780, 0x0781, 0x07f0, 0x07f1];

/// A line of `commands.txt`.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) command: u16,
    pub(crate) name: &'static str,
    pub(crate) message: &'static str,
    /// As `C>M=`.
    pub(crate) path: BTreeSet<String>,
    pub(crate) answer: Option<u16>,
    pub(crate) notices: BTreeSet<u16>,
    pub(crate) step: &'static str,
}

/// The table.
pub(crate) fn rows() -> Vec<Row> {
    let number = |text: &str| u16::from_str_radix(&text[2..], 16).expect("0x and four digits");
    let lines = include_str!("commands.txt").lines().filter(|line| line.starts_with("0x"));
    let row = |line: &'static str| {
        let columns: Vec<&'static str> = line.split('|').map(str::trim).collect();
        let [command, name, message, path, answer, notices, step] = columns[..] else { panic!("{line}") };
        Row {
            command: number(command),
            name,
            message,
            path: path.split_whitespace().map(str::to_owned).collect(),
            answer: (!answer.is_empty()).then(|| number(answer)),
            notices: notices.split_whitespace().map(number).collect(),
            step,
        }
    };
    lines.map(row).collect()
}

#[test]
fn the_table_has_all_95_commands_and_every_command_of_ours() {
    let rows = rows();
    assert_eq!(rows.len(), 95);
    assert!(rows.windows(2).all(|pair| pair[0].command < pair[1].command), "in ascending order, each once");
    let mut rows = rows.iter();
    for known in TABLE.iter().filter(|known| !ADDED.contains(&known.command.id())) {
        let row = rows.next().unwrap_or_else(|| panic!("{} has no row", known.command));
        assert_eq!((row.command, row.name), (known.command.id(), known.name));
        assert_eq!(row.message, known.full_name());
    }
    assert!(rows.next().is_none());
}

#[test]
fn all_95_commands_take_their_path_and_leave_what_they_should() {
    let walked = steps::walk();
    // By command: the hops on which it was seen in any step.
    let mut seen: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for (_, hops) in &walked {
        for hop in hops {
            seen.entry(hop.command).or_default().insert(hop.to_string());
        }
    }
    for row in rows() {
        let name = row.name;
        let found = seen.remove(&row.command).unwrap_or_default();
        assert_eq!(found, row.path, "the hops of {:#06x} {name}", row.command);
        let step = walked.iter().find(|(step, _)| *step == row.step);
        let (_, hops) = step.unwrap_or_else(|| panic!("{name}: there is no step {:?}", row.step));
        assert!(hops.iter().any(|hop| hop.command == row.command), "{name} does not occur in {:?}", row.step);
        // Whoever asked, a client or an old server, is answered under the same number, and by nothing else.
        if let Some(asked) = hops.iter().find(|hop| hop.command == row.command && hop.echo && hop.is_request()) {
            let answers: BTreeSet<u16> = hops
                .iter()
                .filter(|hop| hop.echo && (hop.to, hop.from) == (asked.from, asked.to))
                .map(|hop| hop.command)
                .collect();
            assert_eq!(answers, row.answer.into_iter().collect(), "the answer to {name}");
        }
        if !row.notices.is_empty() {
            let notices = hops.iter().filter(|hop| hop.to == 'C' && !hop.echo).map(|hop| hop.command);
            assert_eq!(notices.collect::<BTreeSet<_>>(), row.notices, "what others are told of {name}");
        }
    }
    let ours: BTreeSet<u16> = seen.into_keys().collect();
    assert!(ours.is_subset(&ADDED.iter().copied().collect()), "not in the table: {ours:#06x?}");
    fleet::assert_no_panic();
}
