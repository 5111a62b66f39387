//! The report: tables of the measured values, remarks, and the method.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::curves::{growth, Figure};
use crate::measure::Effort;
use crate::method;
use crate::quiet::Slices;
use crate::results::{Results, Summary};
use crate::table::Table;
use crate::targets::{floor, target, Bound, Goal, CONDITIONS};
use crate::variant::{Variant, Workload, LONG_STREAM};

/// The data of the report. It can be saved, so that the page can be made again without another run.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Measured values.
    pub results: Results,
    /// Rounds, slices and conditions.
    pub effort: Effort,
    /// The machine: processor, cores, kernel.
    pub machine: String,
    /// Envoy's version.
    pub envoy: String,
    /// Whether the proxy and the load had different cores.
    pub pinned: bool,
    /// The slices, and how many of them other programs disturbed.
    pub slices: Slices,
}

const BODIES: [Workload; 4] = [
    Workload::Body(1),
    Workload::Body(16),
    Workload::Body(100),
    Workload::Body(1024),
];

/// The share of a core from which on a proxy is at its limit.
const SATURATED: f64 = 0.9;

impl Report {
    /// The documentation page, as Markdown.
    pub fn page(&self) -> String {
        let charts = match self.has_curves() {
            true => {
                "![CPU per request, compared with plain Envoy](benchmarks.svg)\n\n\
                 ![How cost grows with backends, streams and workers](benchmarks-curves.svg)\n\n"
            }
            false => "![CPU per request, compared with plain Envoy](benchmarks.svg)\n\n",
        };
        format!(
            "# Benchmarks\n\n\
             The cost of the balancer beside its alternatives. `cargo xtask bench --write` measured everything in one run and wrote this \
             page.\n\n{summary}{charts}{self}{method}",
            summary = self.summary(),
            method = method::section(&self.effort, self.pinned),
        )
    }

    /// Whether any curve was measured.
    fn has_curves(&self) -> bool {
        let mut curves = Figure::ALL
            .iter()
            .flat_map(|figure| Variant::ALL.map(|variant| self.results.curve(*figure, variant)));
        curves.any(|curve| !curve.is_empty())
    }

    /// A sentence per engine on its cost.
    fn summary(&self) -> String {
        let mut text = String::new();
        for variant in [Variant::Filter, Variant::Router] {
            let small = Workload::Body(1);
            let Some(ratio) = self.results.cpu_beside(Variant::Envoy, variant, small) else {
                continue;
            };
            let own = |variant| Some(self.results.cpu(variant, small)?.best);
            let more = own(variant).zip(own(Variant::Envoy));
            let more = more.map_or(0.0, |(own, plain)| own - plain);
            let streams = self
                .results
                .cpu_beside(Variant::Envoy, variant, Workload::Streams);
            let streams = streams.map_or_else(String::new, |streams| {
                format!(
                    " A stream takes {:.2} times plain Envoy's CPU.",
                    streams.best
                )
            });
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "- {variant}: a request of 1 KB takes {:.2} times plain Envoy's CPU, which is {more:.0} us more.{streams}",
                ratio.best
            );
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    fn variants(&self) -> Vec<Variant> {
        self.results.variants()
    }

    /// The largest relative difference between the two plain Envoys.
    fn noise(&self, workloads: &[Workload]) -> Option<Summary> {
        let (envoy, again) = (Variant::Envoy, Variant::EnvoyAgain);
        let ratios = workloads.iter();
        let ratios = ratios.filter_map(|on| self.results.cpu_beside(envoy, again, *on));
        let differences = ratios.map(|ratio| Summary {
            best: (ratio.best - 1.0).abs(),
            median: (ratio.median - 1.0).abs(),
        });
        differences.reduce(|most, one| Summary {
            best: most.best.max(one.best),
            median: most.median.max(one.median),
        })
    }

    /// The largest relative difference between plain Envoy's median slice and its best slice.
    fn spread(&self) -> Option<f64> {
        let spreads = BODIES.iter().filter_map(|workload| {
            let cpu = self.results.cpu(Variant::Envoy, *workload)?;
            Some(cpu.median / cpu.best - 1.0)
        });
        spreads.reduce(f64::max)
    }

    fn cpu_table(&self) -> Table {
        let columns = BODIES.into_iter().chain([
            Workload::Alone,
            Workload::Keyed,
            Workload::Streams,
            Workload::LongStreams,
            Workload::Throttled,
        ]);
        let columns: Vec<_> = columns.collect();
        let mut table = Table::new("CPU per request, microseconds (ratio to plain Envoy)");
        let each = format!("per event of {LONG_STREAM}");
        table.head(columns.iter().map(ToString::to_string).chain([each]));
        for variant in self.variants() {
            if variant == Variant::Direct {
                continue;
            }
            table.row(
                variant,
                columns
                    .iter()
                    .map(|workload| {
                        let value = self.results.cpu(variant, *workload)?;
                        let base = self.results.cpu(Variant::Envoy, *workload);
                        Some(with_ratio(value, base, 1))
                    })
                    .chain([self.cpu_per_event(variant)]),
            );
        }
        table
    }

    fn cpu_per_event(&self, variant: Variant) -> Option<String> {
        let cpu = self.results.cpu(variant, Workload::LongStreams)?;
        Some(format!("{:.2}", cpu.best / LONG_STREAM as f64))
    }

    /// A table per figure that was measured along a curve, with a sentence per variant.
    fn curves(&self) -> String {
        let mut text = String::new();
        for figure in Figure::ALL {
            let curves = Variant::ALL.map(|variant| (variant, self.results.curve(figure, variant)));
            let measured = curves.iter().filter(|(_, curve)| !curve.is_empty());
            let points = measured.clone().flat_map(|(_, curve)| curve);
            let points: BTreeSet<u64> = points.map(|(point, _)| *point).collect();
            if points.is_empty() {
                continue;
            }
            let mut table = Table::new(figure);
            table.head(points.iter().map(|point| figure.column(*point)));
            let mut sentences = String::new();
            for (variant, curve) in measured {
                let first = curve.first().map_or(1.0, |(_, value)| *value);
                let at = |point| curve.iter().find(|(known, _)| known == point);
                let shown = |(_, value): &(u64, f64)| format!("{value:.1} ({:.2})", value / first);
                table.row(variant, points.iter().map(|point| at(point).map(shown)));
                if let Some(growth) = growth(curve) {
                    let subject = figure.subject();
                    // Writing to a string does not fail.
                    let _ = writeln!(sentences, "- {variant}: {subject} is {growth}.");
                }
            }
            let _ = writeln!(text, "{table}\n{sentences}");
        }
        text
    }

    fn targets_table(&self) -> Table {
        let mut table = Table::new("Against the targets, ratios to plain Envoy's CPU per request");
        let head = [
            "at most",
            "best slices",
            "floor",
            "median of rounds",
            "floor",
            "verdict",
        ];
        table.head(head.map(str::to_owned));
        let shown = |ratio: f64| format!("{ratio:.2}");
        for workload in CONDITIONS {
            for variant in self.variants() {
                let ratio = |variant| self.results.cpu_beside(Variant::Envoy, variant, workload);
                let (Some(target), Some(measured)) = (target(variant, workload), ratio(variant))
                else {
                    continue;
                };
                let floor = floor(variant).and_then(ratio);
                let lowest = floor.map(|floor| floor.best);
                let verdict = Bound::AtMost(target).verdict(measured.best, lowest, shown);
                let cells = [
                    shown(target),
                    shown(measured.best),
                    lowest.map_or_else(String::new, shown),
                    shown(measured.median),
                    floor.map_or_else(String::new, |floor| shown(floor.median)),
                    verdict.to_owned(),
                ];
                let cells = cells.map(|cell| Some(cell).filter(|cell| !cell.is_empty()));
                table.row(format_args!("{workload}: {variant}"), cells);
            }
        }
        table
    }

    fn goals_table(&self) -> Table {
        let mut table = Table::new("The other targets");
        table.head(["target", "measured", "floor", "verdict"].map(str::to_owned));
        for goal in Goal::ALL {
            for variant in [Variant::Filter, Variant::Router] {
                let measured = |variant| goal.measured(&self.results, variant);
                let shown = |value| goal.shown(value);
                let Some(value) = measured(variant) else {
                    continue;
                };
                let floor = floor(variant).and_then(measured);
                let bound = goal.bound(variant);
                let cells = [
                    Some(bound.shown(shown)),
                    Some(shown(value)),
                    floor.map(shown),
                    Some(bound.verdict(value, floor, shown).to_owned()),
                ];
                table.row(format_args!("{variant}: {goal}"), cells);
            }
        }
        table
    }

    fn rate_table(&self) -> Table {
        let mut table = Table::new("Requests per second (ratio to plain Envoy)");
        table.head(BODIES.iter().map(ToString::to_string));
        for variant in self.variants() {
            table.row(
                variant,
                BODIES.iter().map(|workload| {
                    let value = self.results.rate(variant, *workload)?;
                    let base = self.results.rate(Variant::Envoy, *workload);
                    let busy = self.results.busy(variant, *workload).unwrap_or(0.0);
                    // Below the limit of the proxy, something else limited the rate.
                    let mark = if variant != Variant::Direct && busy < SATURATED {
                        "*"
                    } else {
                        ""
                    };
                    Some(format!("{}{mark}", with_ratio(value, base, 0)))
                }),
            );
        }
        table
    }

    fn latency_table(&self) -> Table {
        let mut table = Table::new(match self.variants().contains(&Variant::Direct) {
            true => "Latency added to the backend's, one connection, microseconds",
            false => "Latency including the backend's, one connection, microseconds",
        });
        table.head(
            [
                "p50",
                "p99",
                "first byte of a stream",
                "first byte, retried",
                "first byte, after an error in the stream",
            ]
            .map(str::to_owned),
        );
        let results = &self.results;
        let values = |variant| {
            let best = |summary: Option<Summary>| summary.map(|summary| summary.best);
            [
                best(results.p50(variant, Workload::Alone)),
                best(results.p99(variant, Workload::Alone)),
                results.first_byte(variant, Workload::FirstByte),
                results.first_byte(variant, Workload::FirstByteRetried),
                results.first_byte(variant, Workload::FirstByteFailed),
            ]
        };
        // Without a proxy, nothing retries.
        let [p50, p99, first, ..] = values(Variant::Direct);
        let bases = [p50, p99, first, first, first].map(Option::unwrap_or_default);
        for variant in self.variants() {
            let cells = values(variant).into_iter().zip(bases);
            let cells = cells.map(|(value, base)| match variant {
                Variant::Direct => Some(format!("{:.0}", value?)),
                _ => Some(format!("{:+.0}", value? - base)),
            });
            table.row(variant, cells);
        }
        table
    }

    fn memory_table(&self) -> Table {
        let growth = &self.results.growth;
        let watched = growth
            .values()
            .next()
            .and_then(|steps| Some((steps.get(1)?.0, steps.last()?.0)));
        let mut table = Table::new("Memory, MB");
        let mut head = Vec::new();
        if let Some((early, late)) = watched {
            head.extend([
                format!("after {early} small requests"),
                format!("after {late}"),
                "minus plain Envoy's".to_owned(),
                "at rest".to_owned(),
                "minus plain Envoy's".to_owned(),
            ]);
        }
        head.extend(["after all conditions".to_owned(), "peak".to_owned()]);
        table.head(head);
        let megabytes = |bytes: u64| Some(format!("{:.1}", bytes as f64 / 1e6));
        for (variant, memory) in &self.results.memory {
            if *variant == Variant::Direct {
                continue;
            }
            let mut row = Vec::new();
            if watched.is_some() {
                let late = |variant: &Variant| Some(growth.get(variant)?.last()?.1.now);
                let early = growth.get(variant).and_then(|steps| steps.get(1));
                let rest = |variant: &Variant| Some(self.results.rest.get(variant)?.now);
                let more = |of: &dyn Fn(&Variant) -> Option<u64>| {
                    let more = (of(variant)? as f64 - of(&Variant::Envoy)? as f64) / 1e6;
                    Some(format!("{more:+.1}"))
                };
                row.extend([
                    early.and_then(|step| megabytes(step.1.now)),
                    late(variant).and_then(megabytes),
                    more(&late),
                    rest(variant).and_then(megabytes),
                    more(&rest),
                ]);
            }
            row.extend([megabytes(memory.now), megabytes(memory.peak)]);
            table.row(*variant, row);
        }
        table
    }

    fn workers_table(&self) -> Table {
        let mut table =
            Table::new("Requests per second, on all cores with the load (ratio to one worker)");
        table.head(Workload::WORKERS.iter().map(ToString::to_string));
        for variant in self.variants() {
            let base = self.results.rate(variant, Workload::Workers(1));
            let cells = Workload::WORKERS.iter().map(|workload| {
                let rate = self.results.rate(variant, *workload)?;
                Some(with_ratio(rate, base, 0))
            });
            table.row(variant, cells);
        }
        table
    }

    /// Remarks that a reader needs to judge the tables.
    fn remarks(&self) -> String {
        let mut text = String::new();
        let mut line = |remark: String| {
            text.push_str("- ");
            text.push_str(&remark);
            text.push('\n');
        };
        for (name, workloads) in [
            ("plain requests", &BODIES[..]),
            ("streams", &[Workload::Streams]),
        ] {
            let Some(noise) = self.noise(workloads) else {
                continue;
            };
            line(format!(
                "Noise of {name}: two plain Envoys with the same configuration differ by up to {:.0} % in their best slices, and by up \
                to {:.0} % in the median of the rounds. Smaller differences mean nothing.",
                noise.best * 100.0,
                noise.median * 100.0
            ));
        }
        let Slices { all, disturbed } = self.slices;
        if all > 0 {
            line(format!(
                "Other programs of the machine disturbed {:.0} % of the slices.",
                disturbed as f64 / all as f64 * 100.0
            ));
        }
        if let Some(spread) = self.spread() {
            line(format!(
                "Plain Envoy's median slice took up to {:.0} % more CPU than its best slice.",
                spread * 100.0
            ));
        }
        let load = BODIES
            .iter()
            .filter_map(|w| self.results.load_busy(Variant::Envoy, *w));
        if let Some(load) = load.reduce(f64::max) {
            line(format!(
                "The load and the backends together used at most {:.0} % of their core while plain Envoy was measured.",
                load * 100.0
            ));
        }
        line("`*`: the load or the memory's speed limited the rate, not the proxy. CPU per request is still valid.".to_owned());
        for (variant, workload, errors) in self.results.errors() {
            line(format!(
                "{variant}, {workload}: {errors} requests were not served."
            ));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}; Envoy {}; best of {} slices of {} ms.\n",
            self.machine,
            self.envoy,
            self.effort.rounds,
            self.effort.slice.as_millis()
        )?;
        writeln!(f, "{}", self.remarks())?;
        let tables = [
            self.cpu_table(),
            self.targets_table(),
            self.goals_table(),
            self.rate_table(),
            self.latency_table(),
            self.memory_table(),
            self.workers_table(),
        ];
        // A table is empty if its conditions were not measured.
        for table in tables.iter().filter(|table| !table.is_empty()) {
            writeln!(f, "{table}")?;
        }
        f.write_str(&self.curves())
    }
}

fn with_ratio(value: Summary, base: Option<Summary>, digits: usize) -> String {
    let mut text = format!("{:.digits$}", value.best);
    if let Some(base) = base {
        let ratio = value.best / base.best;
        let digits = match ratio {
            ratio if ratio >= 10.0 => 0,
            ratio if ratio < 0.1 => 3,
            _ => 2,
        };
        // Writing to a string does not fail.
        let _ = write!(text, " ({ratio:.digits$})");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Seen;
    use crate::results::Slice;

    /// Results at 16 KB with these processor times per request, in microseconds.
    fn results(cpus: &[(Variant, u64)]) -> Results {
        let mut results = Results::default();
        add(&mut results, Workload::Body(16), cpus);
        results
    }

    fn add(results: &mut Results, workload: Workload, cpus: &[(Variant, u64)]) {
        for (variant, micros) in cpus {
            let seen = Seen {
                served: 1,
                elapsed: Duration::from_secs(1),
                ..Seen::default()
            };
            let slice = Slice::new(seen, Duration::from_micros(*micros), Duration::ZERO);
            results.add(*variant, workload, slice);
        }
    }

    #[test]
    fn streams_have_noise_of_their_own() {
        let (envoy, again) = (Variant::Envoy, Variant::EnvoyAgain);
        let mut results = results(&[(envoy, 100), (again, 102)]);
        add(
            &mut results,
            Workload::Streams,
            &[(envoy, 100), (again, 92)],
        );
        let report = report(results);
        for (name, percent) in [("plain requests", 2), ("streams", 8)] {
            let start = format!("- Noise of {name}: two plain Envoys with the same configuration differ by up to {percent} %");
            assert!(report.contains(&start), "{report}");
        }
    }

    fn report(results: Results) -> String {
        let report = Report {
            results,
            effort: Effort {
                rounds: 1,
                slice: Duration::from_secs(1),
                warm_up: Duration::ZERO,
                workloads: Vec::new(),
            },
            machine: String::new(),
            envoy: String::new(),
            pinned: true,
            slices: Slices {
                all: 40,
                disturbed: 3,
            },
        };
        report.to_string()
    }

    #[test]
    fn targets_are_listed_with_the_floor() {
        let report = report(results(&[
            (Variant::Envoy, 100),
            (Variant::FloorFilterLean, 125),
            (Variant::FloorRouterLean, 141),
            (Variant::FloorRouterEverything, 149),
            (Variant::FilterLean, 124),
            (Variant::RouterLean, 151),
            (Variant::RouterEverything, 155),
        ]));
        let table = report.split("## ").find(|part| part.starts_with("Against"));
        let lines: Vec<_> = table.unwrap().trim_end().lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "| 16 KB: answers not read, filter engine |    1.30 |        1.24 |  1.25 |             1.24 |  1.25 |                      met |",
                "| 16 KB: answers not read, router engine |    1.40 |        1.51 |  1.41 |             1.51 |  1.41 | missed, by the floor too |",
                "| 16 KB: everything on, router engine    |    1.50 |        1.55 |  1.49 |             1.55 |  1.49 |                   missed |",
            ]
        );
        // In tables of all variants, the floors come before the balancer.
        let at = |text| report.find(text).unwrap();
        assert!(
            at("| floor: answers not read, router") < at("| answers not read, filter"),
            "{report}"
        );
    }

    #[test]
    fn targets_other_than_processor_time_have_a_table_of_their_own() {
        let mut results = Results::default();
        for (variant, micros) in [
            (Variant::Envoy, 400),
            (Variant::FloorRouter, 480),
            (Variant::Router, 530),
        ] {
            // The median of the slices counts, not the best one.
            for micros in [100, micros, 9000] {
                let seen = Seen {
                    served: 1,
                    elapsed: Duration::from_secs(1),
                    first_bytes: vec![Duration::from_micros(micros)],
                    ..Seen::default()
                };
                let slice = Slice::new(seen, Duration::ZERO, Duration::ZERO);
                results.add(variant, Workload::FirstByte, slice);
            }
        }
        let report = report(results);
        let table = report
            .split("## ")
            .find(|part| part.starts_with("The other"));
        let lines: Vec<_> = table.unwrap().trim_end().lines().skip(4).collect();
        assert_eq!(
            lines,
            ["| balancer, router engine: first byte of a stream, us after plain Envoy's | at most +130 |     +130 |   +80 |     met |"]
        );
    }

    #[test]
    fn missing_values_are_left_out() {
        let report_of = |cpus: &[_]| report(results(cpus));
        let alone = report_of(&[(Variant::Envoy, 100), (Variant::RouterLean, 151)]);
        let row = "| 16 KB: answers not read, router engine |    1.40 |        1.51 |             1.51 |  missed |\n";
        assert!(alone.contains(row), "{alone}");
        let without = report_of(&[(Variant::Envoy, 100), (Variant::FloorRouterLean, 130)]);
        assert!(!without.contains("## Against"), "{without}");
        // The targets are ratios to plain Envoy, so they need its values.
        assert!(!report_of(&[(Variant::RouterLean, 151)]).contains("## Against"));
    }

    #[test]
    fn large_ratios_have_fewer_digits() {
        let summary = |best| Summary { best, median: best };
        let shown = |value, base| with_ratio(summary(value), Some(summary(base)), 1);
        assert_eq!(shown(13.04, 10.0), "13.0 (1.30)");
        assert_eq!(shown(1870.0, 10.0), "1870.0 (187)");
        assert_eq!(shown(5.0, 1000.0), "5.0 (0.005)");
        assert_eq!(with_ratio(summary(5.0), None, 0), "5");
    }
}
