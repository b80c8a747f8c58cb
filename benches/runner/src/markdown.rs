//! The results as tables.

use std::collections::BTreeSet;
use std::fmt::Write;

use harness::work::{BLOB_LEN, Workload};

use crate::contestants::{CONTESTANTS, Contestant, Kind};
use crate::machine::Circumstances;
use crate::results::{Memory, PerCall, Results, Section, Throughput};
use crate::settings::{SETTINGS, Setting, UNMIXED};
use crate::statistics::Spread;

/// All results, as a Markdown document.
pub(crate) fn render(results: &Results) -> String {
    let mut out = String::from(
        "# Benchmark results\n\nWritten by `benches/run`; how it is measured and how to read it is in \
         [benches/README.md](../../benches/README.md). The raw figures are in \
         [results.json](results.json).\n",
    );
    if let Some(section) = &results.throughput {
        head(&mut out, "Throughput and latency", &section.circumstances);
        out.push_str("\n![Calls per second](results.svg)\n");
        throughput(&mut out, &section.rows);
    }
    if let Some(section) = &results.allocations {
        head(&mut out, "Allocations per call", &section.circumstances);
        per_call(&mut out, section, "client", "server", 2);
    }
    if let Some(section) = &results.wire {
        head(&mut out, "Bytes per call on the wire", &section.circumstances);
        per_call(&mut out, section, "there", "back", 1);
    }
    if let Some(section) = &results.memory {
        head(&mut out, "Memory of a server per idle connection", &section.circumstances);
        memory(&mut out, &section.rows);
    }
    if let Some(section) = &results.instructions {
        head(&mut out, "Instructions per call", &section.circumstances);
        per_call(&mut out, section, "client", "server", 0);
    }
    out
}

fn head(out: &mut String, title: &str, circumstances: &Circumstances) {
    let versions: Vec<_> =
        circumstances.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let Circumstances { date, revision, machine, rustc, .. } = circumstances;
    let versions = versions.join(", ");
    let _ =
        write!(out, "\n## {title}\n\n{date}, commit {revision}, {machine}, {rustc}. {versions}.\n");
}

/// The results of a contestant in a setting.
struct Summary<'a> {
    contestant: &'a Contestant,
    rate: Spread,
    p50: f64,
    p99: f64,
    client_cpu: f64,
    server_cpu: f64,
    disturbed: bool,
}

impl<'a> Summary<'a> {
    /// From the undisturbed runs, or from the disturbed ones if there are no others.
    fn of(rows: &[Throughput], setting: &str, contestant: &'a Contestant) -> Option<Self> {
        let all = rows.iter().filter(|r| r.setting == setting && r.contestant == contestant.name);
        let (disturbed, calm): (Vec<_>, Vec<_>) = all.partition(|row| row.disturbed);
        let rows = if calm.is_empty() { &disturbed } else { &calm };
        let spread = |value: fn(&Throughput) -> f64| Spread::of(rows.iter().map(|row| value(row)));
        Some(Self {
            contestant,
            rate: spread(|row| row.load.calls as f64 / row.load.seconds)?,
            p50: spread(|row| row.load.p50)?.median,
            p99: spread(|row| row.load.p99)?.median,
            client_cpu: spread(|row| row.load.client_cpu)?.median,
            server_cpu: spread(|row| row.load.server_cpu)?.median,
            disturbed: calm.is_empty(),
        })
    }

    /// All results of a setting, the fastest first.
    fn all(rows: &[Throughput], setting: &str) -> Vec<Summary<'static>> {
        let mut all: Vec<_> = CONTESTANTS
            .iter()
            .filter_map(|contestant| Summary::of(rows, setting, contestant))
            .collect();
        all.sort_by(|a, b| b.rate.median.total_cmp(&a.rate.median));
        all
    }
}

fn throughput(out: &mut String, rows: &[Throughput]) {
    let repeated: u32 = rows.iter().map(|row| row.repeated).sum();
    let _ = write!(
        out,
        "\n{} runs; {repeated} more were discarded, since other processes took too much of the \
         machine. *: all runs were disturbed.\n",
        rows.len()
    );
    for setting in SETTINGS {
        let summaries = Summary::all(rows, setting.id);
        if summaries.is_empty() {
            continue;
        }
        let _ = write!(out, "\n### {}\n\n", setting.title);
        if setting.is_mixed() {
            mixed(out, rows, &summaries);
        } else {
            compared(out, setting, &summaries);
        }
    }
}

fn compared(out: &mut String, setting: &Setting, summaries: &[Summary<'_>]) {
    let best = |kinds: &[Kind]| {
        let of_kind = |summary: &&Summary<'_>| kinds.contains(&summary.contestant.kind);
        summaries.iter().find(of_kind).map(|summary| summary.rate.median)
    };
    let limit = best(&[Kind::Limit, Kind::LimitAlone]);
    let peer = best(&[Kind::Peer]);
    let large = setting.workload == Workload::Blob;
    let (unit, scale) =
        if large { ("MiB/s", (1 << 20) as f64 / BLOB_LEN as f64) } else { ("k calls/s", 1e3) };
    let _ = writeln!(
        out,
        "| contestant | {unit} | min–max | of the limit | of the best peer | CPU µs per call, \
         client + server | p50 µs | p99 µs |\n| --- | --: | --: | --: | --: | --: | --: | --: |"
    );
    for summary in summaries {
        let Summary { contestant, rate, p50, p99, client_cpu, server_cpu, disturbed } = summary;
        let ratio =
            |to: Option<f64>| to.map_or("–".into(), |to| format!("{:.2}", rate.median / to));
        let _ = writeln!(
            out,
            "| {}{} | {} | {}–{} | {} | {} | {:.1} = {client_cpu:.1} + {server_cpu:.1} | {p50:.1} | {p99:.1} |",
            name(contestant),
            if *disturbed { "*" } else { "" },
            number(rate.median / scale),
            number(rate.min / scale),
            number(rate.max / scale),
            ratio(limit),
            ratio(peer),
            client_cpu + server_cpu,
        );
    }
}

/// The table of a mixed setting: latencies of the fast calls, with and without slow ones.
fn mixed(out: &mut String, rows: &[Throughput], summaries: &[Summary<'_>]) {
    let mut summaries: Vec<_> = summaries.iter().collect();
    summaries.sort_by(|a, b| a.p99.total_cmp(&b.p99));
    out.push_str(
        "| contestant | p99 µs of the fast calls | p99 µs without slow calls | p50 µs of the fast \
         calls | k fast calls/s |\n| --- | --: | --: | --: | --: |\n",
    );
    for summary in summaries {
        let unmixed = Summary::of(rows, UNMIXED, summary.contestant);
        let _ = writeln!(
            out,
            "| {}{} | {:.0} | {} | {:.0} | {} |",
            name(summary.contestant),
            if summary.disturbed { "*" } else { "" },
            summary.p99,
            unmixed.map_or("–".into(), |unmixed| format!("{:.0}", unmixed.p99)),
            summary.p50,
            number(summary.rate.median / 1e3),
        );
    }
}

fn per_call(
    out: &mut String,
    section: &Section<PerCall>,
    client: &str,
    server: &str,
    digits: usize,
) {
    let mut groups: Vec<(Workload, usize)> = Vec::new();
    for row in &section.rows {
        if !groups.contains(&(row.workload, row.callers)) {
            groups.push((row.workload, row.callers));
        }
    }
    for (workload, callers) in groups {
        let callers_text =
            if callers == 1 { "1 caller".into() } else { format!("{callers} callers") };
        let _ = write!(
            out,
            "\n{}, {callers_text}:\n\n| contestant | both | {client} | {server} |\n\
             | --- | --: | --: | --: |\n",
            title(workload)
        );
        let mut rows: Vec<_> = section
            .rows
            .iter()
            .filter(|row| (row.workload, row.callers) == (workload, callers))
            .collect();
        rows.sort_by(|a, b| (a.client + a.server).total_cmp(&(b.client + b.server)));
        for row in rows {
            let _ = writeln!(
                out,
                "| {} | {:.digits$} | {:.digits$} | {:.digits$} |",
                bold_if_ours(&row.contestant),
                row.client + row.server,
                row.client,
                row.server
            );
        }
    }
}

fn memory(out: &mut String, rows: &[Memory]) {
    let counts: BTreeSet<usize> = rows.iter().map(|row| row.connections).collect();
    let of = |contestant: &Contestant, connections: usize| {
        let row =
            |row: &&Memory| row.contestant == contestant.name && row.connections == connections;
        rows.iter().find(row).map(|row| row.bytes)
    };
    out.push_str("\n| contestant |");
    counts.iter().for_each(|count| out.push_str(&format!(" KiB, {count} open |")));
    out.push_str("\n| --- |");
    counts.iter().for_each(|_| out.push_str(" --: |"));
    out.push('\n');
    let mut contestants: Vec<_> = CONTESTANTS
        .iter()
        .filter_map(|c| Some((c, counts.iter().find_map(|count| of(c, *count))?)))
        .collect();
    contestants.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    for (contestant, _) in contestants {
        let _ = write!(out, "| {} |", name(contestant));
        for count in &counts {
            let kib = of(contestant, *count).map_or("–".into(), |b| format!("{:.1}", b / 1024.0));
            let _ = write!(out, " {kib} |");
        }
        out.push('\n');
    }
}

fn title(workload: Workload) -> &'static str {
    match workload {
        Workload::Order => "W1",
        Workload::Text => "W2",
        Workload::Blob => "W3",
        Workload::Number => "`u64 -> u64`",
        Workload::Wait => "a method that awaits",
        Workload::MixedWait | Workload::MixedBlock => "W1 with slow calls",
    }
}

fn name(contestant: &Contestant) -> String {
    match contestant.kind {
        Kind::Ours => format!("**{}**", contestant.name),
        _ => contestant.name.into(),
    }
}

fn bold_if_ours(contestant: &str) -> String {
    CONTESTANTS.iter().find(|c| c.name == contestant).map_or(contestant.into(), name)
}

/// Formats a number with three significant digits.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use harness::report::Load;

    use super::*;

    fn row(contestant: &str, round: u32, calls: u64, disturbed: bool) -> Throughput {
        let load = Load {
            calls,
            seconds: 1.0,
            p50: 1.0,
            p99: 2.0,
            p999: 3.0,
            max: 4.0,
            client_cpu: 1.5,
            server_cpu: 1.0,
            others: 0.0,
            stolen: 0.0,
        };
        Throughput {
            setting: UNMIXED.into(),
            contestant: contestant.into(),
            round,
            disturbed,
            repeated: 0,
            load,
        }
    }

    #[test]
    fn disturbed_runs_do_not_count_and_ratios_are_to_the_limit_and_to_the_best_peer() {
        let rows = [
            row("limit: raw pipelined", 1, 800_000, false),
            row("ours", 1, 400_000, false),
            row("ours", 2, 1, true),
            row("tarpc, bincode", 1, 100_000, true),
        ];
        let mut out = String::new();
        throughput(&mut out, &rows);
        assert!(
            out.contains("| **ours** | 400 | 400–400 | 0.50 | 4.00 | 2.5 = 1.5 + 1.0 |"),
            "{out}"
        );
        assert!(out.contains("| tarpc, bincode* | 100 |"), "{out}");
    }
}
