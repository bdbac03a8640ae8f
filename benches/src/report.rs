//! Puts the newest figures of each benchmark into `docs/benchmarks.md`, between its markers: no figure there is typed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::echo::{GATES, SHOWN};
use crate::stats::{Ratio, median, paired_ratio};
use crate::{Outcome, results};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The result file (else, for each benchmark, the newest under benches/results/ that has it)
    file: Option<PathBuf>,
    /// Fail if the page does not say what the file says, and leave it
    #[arg(long)]
    check: bool,
}

/// Appends a benchmark's tables to the text.
type Section = fn(&Value, &mut String);

const BEGIN: &str = "<!-- figures: written by `netlib-bench report` -->\n";
const END: &str = "<!-- end of figures -->";

pub(crate) fn run(args: &Args) -> Outcome<bool> {
    let files = args.file.clone().map_or_else(results::newest_first, |file| Ok(vec![file]))?;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let old = fs::read_to_string(&page)?;
    let new = with_figures(&old, &figures(&files)?).ok_or("docs/benchmarks.md has lost its markers")?;
    if args.check {
        return Ok(new == old);
    }
    fs::write(&page, new)?;
    Ok(true)
}

fn with_figures(page: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

fn figures(files: &[PathBuf]) -> Outcome<String> {
    let files = files
        .iter()
        .map(|file| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok((name, serde_json::from_str(&fs::read_to_string(file)?)?))
        })
        .collect::<Outcome<Vec<(String, Value)>>>()?;
    let mut text = String::new();
    let sections: [(&str, Section); 6] = [
        ("echo", echo),
        ("echo-split", echo),
        ("fairness", fairness),
        ("timers", timers),
        ("wake", wake),
        ("udp", udp),
    ];
    for (bench, section) in sections {
        let newest = files.iter().find_map(|(name, results)| Some((name, results.get(bench)?)));
        if let Some((name, run)) = newest {
            heading(bench, name, &run["machine"], &mut text);
            section(&run["result"], &mut text);
        }
    }
    Ok(text.trim().to_owned())
}

fn heading(bench: &str, file: &str, machine: &Value, text: &mut String) {
    let title = match bench {
        "echo" => "Echo, generator and server on one core",
        "echo-split" => "Echo, a core each",
        "fairness" => "Fairness",
        "timers" => "Timers",
        "udp" => "UDP echo",
        _ => "Posts from other threads",
    };
    let [cpu, kernel, commit, load] =
        ["cpu", "kernel", "commit", "load_average"].map(|key| machine[key].as_str().unwrap_or("?"));
    let cores = &machine["cores"];
    line(
        text,
        format_args!(
            "\n### {title}\n\n{cpu}, {cores} cores, Linux {kernel}, commit {commit}, load {load}; `benches/results/{file}`.\n"
        ),
    );
}

fn echo(result: &Value, text: &mut String) {
    for scenario in items(&result["scenarios"]) {
        let depth = scenario["depth"].as_u64().unwrap_or(0);
        line(text, format_args!("{} connections × depth {depth}:\n", scenario["connections"]));
        line(
            text,
            format_args!("| server | server CPU ns/request | generator CPU ns/request | system calls/request |"),
        );
        line(text, format_args!("|---|--:|--:|--:|"));
        for server in items(&scenario["servers"]) {
            let (cpu, load) = (numbers(&server["cpu_ns_per_request"]), numbers(&server["load_cpu_ns_per_request"]));
            let calls = server["calls_per_request"].as_f64().unwrap_or(f64::NAN);
            let name = name(&server["server"]);
            line(text, format_args!("| {name} | {:.0} | {:.0} | {calls:.4} |", median(&cpu), median(&load)));
        }
        line(text, format_args!("\n| server CPU, ratio | median | 95 % bounds | promised |\n|---|--:|--:|--:|"));
        let promised = GATES.iter().filter(|gate| gate.depth as u64 == depth);
        let promised = promised.map(|gate| (gate.ours, gate.theirs, Some(gate.at_most)));
        let shown = SHOWN.iter().map(|(ours, theirs)| (*ours, *theirs, None));
        for (ours, theirs, limit) in promised.chain(shown) {
            let cpu = |name: &str| {
                let server = items(&scenario["servers"]).find(|server| server["server"] == name)?;
                Some(numbers(&server["cpu_ns_per_request"]))
            };
            let (Some(a), Some(b)) = (cpu(ours), cpu(theirs)) else { continue };
            let Ratio { median, low, high } = paired_ratio(&a, &b);
            line(
                text,
                format_args!("| {ours} / {theirs} | {median:.3} | {low:.3} … {high:.3} | {} |", verdict(high, limit)),
            );
        }
        text.push('\n');
    }
}

fn fairness(result: &Value, text: &mut String) {
    line(text, format_args!("| server | p99 alone µs | p99 beside the firehose µs | ratio | 95 % bounds | promised |"));
    line(text, format_args!("|---|--:|--:|--:|--:|--:|"));
    for server in items(&result["servers"]) {
        let (alone, beside) = (numbers(&server["p99_alone_ns"]), numbers(&server["p99_beside_ns"]));
        let Ratio { median: ratio, low, high } = paired_ratio(&beside, &alone);
        let (name, alone, beside) = (name(&server["server"]), median(&alone) / 1e3, median(&beside) / 1e3);
        line(text, format_args!("| {name} | {alone:.0} | {beside:.0} | {ratio:.2} | {low:.2} … {high:.2} | ≤ 2 |"));
    }
}

fn timers(result: &Value, text: &mut String) {
    line(text, format_args!("Nanoseconds per operation; in brackets netlib's ratio to it, with its 95 % bounds.\n"));
    line(text, format_args!("| armed | structure | arm | cancel | re-arm | fire | entries at the end |"));
    line(text, format_args!("|--:|---|--:|--:|--:|--:|--:|"));
    for size in items(&result["sizes"]) {
        let ours = &size["structures"][0];
        for structure in items(&size["structures"]) {
            let _ = write!(text, "| {} | {} |", size["armed"], name(&structure["structure"]));
            for operation in ["arm", "cancel", "re-arm", "fire"] {
                let (ns, ours_ns) = (numbers(&structure["ns"][operation]), numbers(&ours["ns"][operation]));
                let _ = write!(text, " {:.0}", median(&ns));
                if structure != ours {
                    let Ratio { median, low, high } = paired_ratio(&ours_ns, &ns);
                    let _ = write!(text, " ({median:.2}, {low:.2} … {high:.2})");
                }
                text.push_str(" |");
            }
            line(text, format_args!(" {} |", structure["entries_at_the_end"]));
        }
    }
}

fn wake(result: &Value, text: &mut String) {
    line(text, format_args!("| receiver | wake-up p50 ns | p99 ns | 1→1 ns/post | 16→1 ns/post |"));
    line(text, format_args!("|---|--:|--:|--:|--:|"));
    for receiver in items(&result["receivers"]) {
        let of = |key: &str| median(&numbers(&receiver[key]));
        let (p50, p99, one, many) = (of("wake_p50_ns"), of("wake_p99_ns"), of("post_1_ns"), of("post_16_ns"));
        line(text, format_args!("| {} | {p50:.0} | {p99:.0} | {one:.0} | {many:.0} |", name(&receiver["receiver"])));
    }
}

fn udp(result: &Value, text: &mut String) {
    line(
        text,
        format_args!("Packets of {} bytes; {}.\n\n{}", result["bytes"], name(&result["place"]), crate::udp::HEAD),
    );
    for row in items(&result["loads"]) {
        line(text, format_args!("{}", crate::udp::line(row)));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn numbers(value: &Value) -> Vec<f64> {
    items(value).filter_map(Value::as_f64).collect()
}

fn name(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// What was promised, and whether the upper bound keeps it.
fn verdict(high: f64, limit: Option<f64>) -> String {
    match limit {
        None => String::new(),
        Some(limit) => format!("≤ {limit:.2}, {}", if high <= limit { "kept" } else { "not kept" }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_go_between_the_markers_and_nothing_else_changes() {
        let page = format!("# Title\n{BEGIN}old\n{END}\nafter\n");
        let new = with_figures(&page, "new").unwrap();
        assert_eq!(new, format!("# Title\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(with_figures(&new, "new").unwrap(), new);
        assert!(with_figures("no markers", "new").is_none());
    }

    #[test]
    fn a_ratio_in_the_page_is_that_of_the_samples() {
        let server = |name, cpu: [f64; 3]| {
            json!({ "server": name, "calls_per_request": 2.02, "cpu_ns_per_request": cpu,
                    "load_cpu_ns_per_request": [1.0, 1.0, 1.0] })
        };
        let servers = [server("c-epoll", [100.0, 200.0, 300.0]), server("netlib", [102.0, 204.0, 306.0])];
        let mut text = String::new();
        echo(&json!({ "scenarios": [{ "connections": 50, "depth": 1, "servers": servers }] }), &mut text);
        assert!(text.contains("| netlib | 204 | 1 | 2.0200 |"), "{text}");
        assert!(text.contains("| netlib / c-epoll | 1.020 | 1.020 … 1.020 | ≤ 1.03, kept |"), "{text}");
    }

    #[test]
    fn the_page_says_what_the_newest_result_says() {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md")).unwrap();
        let figures = figures(&results::newest_first().unwrap()).unwrap();
        assert_eq!(with_figures(&page, &figures).unwrap(), page, "run `netlib-bench report`");
    }
}
